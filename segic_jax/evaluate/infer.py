"""Episodes in, a judgement of each out: the part of evaluation that runs a model.

One stream of images: each reference once, before the first episode that needs it, then the targets. The
programs always get the same number of rows, so an answer depends neither on the batch size nor on the number
of devices, workers or hosts; images lie on the canvas, so each program is compiled once.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import absl.flags
import cv2
import grain
import jax
import numpy as np
from jaxtyping import Float

from segic_jax.data.episodes import Episode, LabelledImage, View
from segic_jax.data.manifest import EpisodeSource
from segic_jax.data.preprocess import CanvasImage, resize, resize_and_pad
from segic_jax.errors import DataError
from segic_jax.evaluate.baselines import without_reference
from segic_jax.inference.engine import Decoding, Engine
from segic_jax.models.segic import Prototypes

BLOCK = 256  # episodes whose references are encoded before their targets
T = TypeVar("T")


class Task(NamedTuple):
    """An episode to be answered."""

    index: int  # in the whole list
    fold: int
    episode: Episode
    text: Float[np.ndarray, " text_width"]
    wrong: View | None = None  # a reference of another class, for that baseline


class Prediction(NamedTuple):
    """What a model says about a target, on the canvas."""

    task: Task
    shown: LabelledImage  # the target at its own size
    reference: LabelledImage | None  # the first one at its own size, where it was asked for
    size: tuple[int, int]  # valid (h, w) of the canvas
    similarity: Float[np.ndarray, "S S"] | None  # the map with the reference, where it was asked for
    logits: dict[str, Float[np.ndarray, "S S"]]  # with the reference ("segic"), and by baseline


class ReferenceFeatures:
    """Keep the pooled feature of each reference that an engine has encoded."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self._pooled: dict[View, tuple[jax.Array, int]] = {}

    def add(self, views: Sequence[View], images: Sequence[CanvasImage]) -> None:
        """Encode references, one mask each."""
        encoded = self.engine.features(images)
        canvas = self.engine.config.canvas
        masks = np.zeros((self.engine.rows, 1, canvas, canvas), bool)
        for row, image in enumerate(images):
            masks[row] = image.masks
        pooled = self.engine.pool(encoded, masks)[:, 0]
        self._pooled |= {view: (pooled, row) for row, view in enumerate(views)}

    def prototypes(
        self, references: Sequence[Sequence[View]], text: Float[np.ndarray, "rows text_width"]
    ) -> Prototypes:
        """Return prototypes of one concept a row from kept references, padded to the engine's rows."""
        rows, width = self.engine.rows, self.engine.config.vit.width
        shots = np.zeros((rows, 1, len(references[0]), width), np.float32)
        for row, views in enumerate(references):
            for shot, view in enumerate(views):
                pooled, index = self._pooled[view]
                shots[row, 0, shot] = np.asarray(pooled)[index]
        padded = np.zeros((rows, 1, text.shape[1]), np.float32)
        padded[: len(text), 0] = text
        return self.engine.prototypes(shots, padded)


class _Placed(NamedTuple):
    """A view on its canvas."""

    placed: CanvasImage
    shown: LabelledImage | None  # at its own size, for targets
    reference: LabelledImage | None
    error: str = ""


@dataclass(frozen=True)
class _Load:
    """Number of an item -> its image; runs in worker processes."""

    source: EpisodeSource
    items: Sequence[tuple[View, bool, View | None]]  # view, whether it is a target, a reference to show
    canvas: int

    def __call__(self, number: int) -> _Placed:
        cv2.setNumThreads(0)
        view, is_target, reference = self.items[number]
        try:
            shown = self.source.load(view)
            placed = resize_and_pad(shown.image, shown.mask[None], self.canvas)
            beside = self.source.load(reference) if reference else None
        except DataError as error:  # a worker process would wrap it
            empty = np.zeros(0, np.uint8)
            return _Placed(CanvasImage(empty, empty, (0, 0)), None, None, str(error))
        return _Placed(placed, shown if is_target else None, beside)


def judge_all(
    engines: Mapping[str, Engine],
    source: EpisodeSource,
    tasks: Sequence[Task],
    judge: Callable[[Prediction], T],
    *,
    blank: bool = False,
    similarity: bool = False,
    show_references: bool = False,
    in_flight: int = 16,
    workers: int = 0,
) -> Iterator[T]:
    """The judgements of all tasks, in order; `judge` runs in threads while the devices work.

    Args:
        engines: "segic", and further ones whose logits stand under their names.
        blank: also decode without a reference ("no_reference"); tasks with `wrong` also with that one.
        similarity: give each answer the similarity map of "segic".
        show_references: give each answer its first reference.
        in_flight: episodes between reading and judgement, at most (rounded up).

    Raises:
        DataError: an image cannot be read; what came before it has been yielded.
    """
    items, plan = _stream(tasks, show_references)
    models = {name: ReferenceFeatures(engine) for name, engine in engines.items()}
    pictures = _loaded(_Load(source, items, engines["segic"].config.canvas), workers)
    group = engines["segic"].rows
    with ThreadPoolExecutor(max_workers=4) as pool:
        waiting: deque[Future] = deque()
        try:
            for kind, members in plan:
                batches = [members[i : i + group] for i in range(0, len(members), group)]
                for batch in batches:
                    placed, error = [], ""
                    for _ in batch:
                        one = next(pictures)
                        error = error or one.error
                        placed.append(one)
                    if error:
                        while waiting:
                            yield waiting.popleft().result()
                        raise DataError(error)
                    if kind == "references":
                        for model in models.values():
                            model.add(batch, [one.placed for one in placed])
                        continue
                    decoded = _segmented(models, batch, placed, blank)
                    for row, (task, one) in enumerate(zip(batch, placed, strict=True)):
                        waiting.append(pool.submit(_judged, judge, task, one, row, decoded, similarity))
                    while len(waiting) > max(in_flight, group):
                        yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            pictures.close()


def _stream(tasks: Sequence[Task], show_references: bool):
    """The order of reading: for each block its new references, then its targets."""
    known: set[View] = set()
    items, plan = [], []
    for start in range(0, len(tasks), BLOCK):
        block = tasks[start : start + BLOCK]
        needed = [v for t in block for v in (*t.episode.reference_views, *([t.wrong] if t.wrong else []))]
        new = [view for view in dict.fromkeys(needed) if view not in known]
        known.update(new)
        items += [(view, False, None) for view in new]
        items += [
            (t.episode.target_view, True, t.episode.reference_views[0] if show_references else None)
            for t in block
        ]
        plan += [("references", new), ("targets", block)]
    return items, plan


def _loaded(load: _Load, workers: int) -> grain.DatasetIterator:
    dataset = grain.MapDataset.range(len(load.items)).map(load)
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


def _segmented(
    models: Mapping[str, ReferenceFeatures], batch: Sequence[Task], placed: Sequence[_Placed], blank: bool
) -> dict[str, Decoding]:
    text = np.stack([task.text for task in batch])
    references = [task.episode.reference_views for task in batch]
    images = [one.placed for one in placed]
    decoded = {}
    for name, model in models.items():
        engine = model.engine
        features, prototypes = engine.features(images), model.prototypes(references, text)
        decoded[name] = engine.decode(features, prototypes)
        if name != "segic":
            continue
        if blank:
            decoded["no_reference"] = engine.decode(features, without_reference(prototypes))
        if batch[0].wrong is not None:
            wrong = [[task.wrong] * len(task.episode.references) for task in batch]
            decoded["wrong_reference"] = engine.decode(features, model.prototypes(wrong, text))
    return decoded


def _judged(judge, task: Task, placed: _Placed, row: int, decoded: Mapping[str, Decoding], similarity: bool):
    return judge(
        Prediction(
            task,
            placed.shown,
            placed.reference,
            placed.placed.size,
            np.asarray(decoded["segic"].similarity)[row, 0] if similarity else None,
            {name: np.asarray(one.logits)[row, 0] for name, one in decoded.items()},
        )
    )


def to_own_size(
    values: Float[np.ndarray, "canvas_height canvas_width"], size: Sequence[int], own: Sequence[int]
) -> Float[np.ndarray, "height width"]:
    """Crop a canvas to its valid `size`, then bilinear to `own` (height, width) (train.py:443-460)."""
    return resize(values[: size[0], : size[1]], own)
