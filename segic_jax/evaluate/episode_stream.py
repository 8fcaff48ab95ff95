"""Predict episodes: tasks in, predictions out, with reading, devices and scoring at work at the same time.

Images come in one stream: for each block of episodes first the references that are new, each once, then the
targets. The engine always gets the same number of images, on the canvas, so a prediction depends neither on
the batch size nor on the number of devices, workers or hosts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import absl.flags
import cv2
import grain
import numpy as np
from jaxtyping import Float

from segic_jax.data.episodes import Episode, EpisodeSource, LabelledImage, View
from segic_jax.data.preprocess import CanvasImage, resize
from segic_jax.errors import DataError
from segic_jax.evaluate.kept_references import KeptReferences, PooledReferences, blank, keep_references
from segic_jax.inference.engine import Decoding, Engine
from segic_jax.inference.methods import placing
from segic_jax.inference.references import PlaceImage
from segic_jax.inference.tiles import MapMerger, TilePlan, Tiles, keep_certain, plan_tiles, window_batches
from segic_jax.runtime.prefetch import prefetch_results

BLOCK = 256  # episodes whose references are encoded before their targets
GRID_BLOCK = 16  # the same where all patches of references are kept
SCORING_THREADS = 4
T = TypeVar("T")


class Task(NamedTuple):
    """Describe an episode to predict."""

    index: int  # in the list of all folds
    fold: int
    episode: Episode
    text: Float[np.ndarray, " text_width"]
    wrong_reference: View | None = None  # of another class, for that baseline; all tasks have one, or none

    @property
    def references(self) -> tuple[View, ...]:
        """Return all references that are encoded, the wrong one last."""
        wrong = () if self.wrong_reference is None else (self.wrong_reference,)
        return (*self.episode.reference_views, *wrong)

    @property
    def views(self) -> tuple[View, ...]:
        """Return all views that are read."""
        return (self.episode.target_view, *self.references)


class Prediction(NamedTuple):
    """Hold what models say about the target of a task, on the canvas."""

    task: Task
    target: LabelledImage  # at its own size
    reference: LabelledImage | None  # the first one at its own size, if asked for
    size: tuple[int, int]  # valid (h, w) of the canvas
    similarity: Float[np.ndarray, "S S"] | None  # cosine to the reference, -1..1, if asked for
    logits: dict[str, Float[np.ndarray, "S S"]]  # "segic", further models and baselines; inside above 0
    notes: tuple[str, ...] = ()  # how defects of the files of target and references were handled


def predict_episodes(
    engines: Mapping[str, Engine],
    source: EpisodeSource,
    tasks: Sequence[Task],
    score: Callable[[Prediction], T],
    *,
    no_reference: bool = False,
    similarity: bool = False,
    references: bool = False,
    rounded_canvas: bool = True,
    in_flight: int = 16,
    workers: int = 0,
    tiles: Tiles | None = None,
) -> Iterator[T]:
    """Yield `score` of every task's prediction, in order; it runs in threads while the devices work.

    Tasks with a wrong reference are also decoded with that one ("wrong_reference").

    Args:
        engines: "segic", and further models; their logits have their names.
        no_reference: also decode with blank prototypes ("no_reference").
        similarity: give each prediction the similarity map of "segic".
        references: give each prediction its first reference.
        rounded_canvas: round resized images to uint8; see `data.preprocess.resize_and_pad`.
        in_flight: episodes between reading and scoring, at most (rounded up to a batch).
        workers: processes that read images; 0 reads in threads.
        tiles: segment targets in windows; see `inference.tiles`. A prediction then covers their plane.

    Raises:
        DataError: an image cannot be read; the results before it have been yielded.
    """
    models = {name: keep_references(engine) for name, engine in engines.items()}
    engine = engines["segic"]
    batches = _plan_batches(tasks, engine.rows, references, GRID_BLOCK if engine.keeps_grids else BLOCK)
    items = [item for batch in batches for item in batch]
    place_image = placing(engine, rounded=rounded_canvas)
    images = _read_ahead(_Read(source, items, engine.config.canvas, place_image), workers)
    errors: list[str] = []
    notes: dict[View, str] = {}  # of references

    def decode() -> Iterator[_Decoded | _DecodedTiles]:
        """Decode all targets; end at the first image that cannot be read."""
        for batch in batches:
            loaded = [next(images) for _ in batch]
            errors.extend(image.error for image in loaded if image.error)
            if errors:
                return
            canvases = [image.canvas for image in loaded]
            batch_tasks = [item.task for item in batch if item.task is not None]
            if not batch_tasks:
                views = [item.view for item in batch]
                notes.update(zip(views, (image.note for image in loaded), strict=True))
                for model in models.values():
                    model.add(views, canvases)
                continue
            whole = None if tiles is not None else _decode(models, batch_tasks, canvases, no_reference)
            for row, (task, image) in enumerate(zip(batch_tasks, loaded, strict=True)):
                named = (image.note, *(notes[view] for view in task.episode.reference_views))
                found = tuple(dict.fromkeys(filter(None, named)))
                if whole is not None:
                    yield _Decoded(task, image, row, whole, found)
                elif tiles is not None:
                    windows = _Windows(tiles, rounded_canvas, no_reference, similarity)
                    yield _decode_tiles(models, task, image, found, windows)

    def score_decoded(decoded: _Decoded | _DecodedTiles) -> T:
        return score(decoded.prediction(similarity))

    limit = max(in_flight, engine.rows) if tiles is None else 1  # the maps of large images are large
    try:
        yield from prefetch_results(score_decoded, decode(), threads=SCORING_THREADS, limit=limit)
    finally:
        images.close()
    if errors:
        raise DataError(errors[0])


class _Item(NamedTuple):
    """Describe an image to read."""

    view: View
    task: Task | None = None  # whose target it is; None for a reference
    reference: View | None = None  # to be read beside the target


def _plan_batches(tasks: Sequence[Task], rows: int, references: bool, size: int) -> list[list[_Item]]:
    """Order the images: for each block of `size` tasks its new references, then its targets.

    References of earlier blocks are new again where blocks are small: too much is kept of each.
    """
    planned: set[View] = set()
    batches = []
    for start in range(0, len(tasks), size):
        block = tasks[start : start + size]
        if size < BLOCK:
            planned.clear()
        needed = dict.fromkeys(view for task in block for view in task.references)
        new = [_Item(view) for view in needed if view not in planned]
        planned.update(needed)
        targets = [
            _Item(task.episode.target_view, task, task.episode.reference_views[0] if references else None)
            for task in block
        ]
        for items in (new, targets):
            batches += [items[first : first + rows] for first in range(0, len(items), rows)]
    return batches


class _Image(NamedTuple):
    """Hold an image on its canvas, and what scoring needs of it."""

    canvas: CanvasImage
    target: LabelledImage | None = None  # at its own size, for targets
    reference: LabelledImage | None = None
    note: str = ""  # how a defect of its files was handled
    error: str = ""


@dataclass(frozen=True)
class _Read:
    """Read the image of an item by its number; called in threads or worker processes."""

    source: EpisodeSource
    items: Sequence[_Item]
    canvas: int
    place_image: PlaceImage

    def __call__(self, number: int) -> _Image:
        cv2.setNumThreads(0)
        view, task, reference = self.items[number]
        try:
            image = self.source.load(view)
            canvas = self.place_image(image.image, image.mask[None], self.canvas)
            beside = self.source.load(reference) if reference else None
        except DataError as error:  # a worker process would wrap it
            empty = np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0, 0), bool)
            return _Image(CanvasImage(*empty, (0, 0)), error=str(error))
        return _Image(canvas, image if task is not None else None, beside, image.note)


def _read_ahead(read: _Read, workers: int) -> grain.DatasetIterator:
    dataset = grain.MapDataset.range(len(read.items)).map(read)
    threads = 1 if workers else 2
    dataset = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=8 * threads)
    )
    if workers:
        # grain 0.2.18's workers read an absl flag, which only absl.app.run would have parsed.
        absl.flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=8)
        )
    return iter(dataset)


def _decode(
    models: Mapping[str, KeptReferences],
    tasks: Sequence[Task],
    images: Sequence[CanvasImage],
    no_reference: bool,
) -> dict[str, Decoding]:
    """Decode a batch of targets with every model and baseline."""
    text = np.stack([task.text for task in tasks])
    references = [task.episode.reference_views for task in tasks]
    decodings = {}
    for name, model in models.items():
        engine = model.engine
        features = engine.features(images)
        decodings[name] = model.decode(features, references, text)
        if name != "segic":
            continue
        if no_reference and isinstance(model, PooledReferences):
            decodings["no_reference"] = engine.decode(features, blank(model.prototypes(references, text)))
        if wrong := [task.wrong_reference for task in tasks if task.wrong_reference is not None]:
            shots = [[view] * len(references[0]) for view in wrong]
            decodings["wrong_reference"] = model.decode(features, shots, text)
    return decodings


class _Decoded(NamedTuple):
    """Hold a task whose results may still be on their way from the device."""

    task: Task
    image: _Image
    row: int  # of `decodings`
    decodings: Mapping[str, Decoding]  # of a batch of targets
    notes: tuple[str, ...]

    def prediction(self, similarity: bool) -> Prediction:
        """Fetch one row of the results from the device."""
        task, image, row, decodings, notes = self
        assert image.target is not None
        return Prediction(
            task,
            image.target,
            image.reference,
            image.canvas.size,
            np.asarray(decodings["segic"].similarity)[row, 0] if similarity else None,
            {name: np.asarray(decoding.logits)[row, 0] for name, decoding in decodings.items()},
            notes,
        )


class _DecodedTiles(NamedTuple):
    """Hold a task with the merged maps of its target's windows."""

    task: Task
    image: _Image
    plan: TilePlan
    small_logits: Mapping[str, Float[np.ndarray, "merged merged"]]
    similarity: Float[np.ndarray, "side side"] | None
    notes: tuple[str, ...]

    def prediction(self, similarity: bool) -> Prediction:
        """Enlarge the logits to the plane, as a Result does."""
        task, image, plan, small_logits, similarity_map, notes = self
        assert image.target is not None
        plane = (plan.side, plan.side)
        logits = {name: resize(values, plane) for name, values in small_logits.items()}
        return Prediction(task, image.target, image.reference, plan.size, similarity_map, logits, notes)


class _Windows(NamedTuple):
    """Say how windows are made, and what is decoded of them."""

    tiles: Tiles
    rounded: bool
    no_reference: bool
    similarity: bool


def _decode_tiles(
    models: Mapping[str, KeptReferences],
    task: Task,
    image: _Image,
    notes: tuple[str, ...],
    windows: _Windows,
) -> _DecodedTiles:
    """Decode the windows of one target with every model and baseline."""
    assert image.target is not None
    engine, pixels = models["segic"].engine, image.target.image
    plan = plan_tiles(pixels.shape[:2], engine.config, windows.tiles)
    logits: dict[str, MapMerger] = {}
    similarity = MapMerger(plan)
    for batch in window_batches(pixels, plan, engine.rows, rounded=windows.rounded):
        decodings = _decode(models, [task] * len(batch), batch, windows.no_reference)
        for name, decoding in decodings.items():
            merger = logits.setdefault(name, MapMerger(plan))
            for values in np.asarray(decoding.small_logits)[: len(batch), 0]:
                merger.add(values)
        for values in np.asarray(decodings["segic"].similarity)[: len(batch) * windows.similarity, 0]:
            similarity.add(values)
    merged = {name: keep_certain(plan, merger.average()) for name, merger in logits.items()}
    similarity_map = similarity.average() if windows.similarity else None
    return _DecodedTiles(task, image, plan, merged, similarity_map, notes)
