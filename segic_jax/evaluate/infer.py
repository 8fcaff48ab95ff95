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
from jaxtyping import Bool, Float, UInt8

from segic_jax.data.canvas import resize, resize_and_pad
from segic_jax.data.episodes import Episode, EpisodeSource, LabelledImage, View
from segic_jax.errors import DataError
from segic_jax.evaluate.baselines import without_reference
from segic_jax.inference import engine
from segic_jax.models.params import Params
from segic_jax.models.segic import Prototypes, ReferenceBatch
from segic_jax.weights.bundle import Bundle

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
    cosine: Float[np.ndarray, "S S"]
    logits: dict[str, Float[np.ndarray, "S S"]]  # with the reference ("segic"), and by baseline


def rows_at_once() -> int:
    """Rows of every program: a fixed number, so that it never changes a result."""
    return 1 if jax.default_backend() == "cpu" else 8


class Model:
    """A bundle on every local device."""

    def __init__(self, bundle: Bundle):
        self.config = bundle.config
        self._copies = [
            (device, jax.device_put(bundle.backbone, device), jax.device_put(bundle.head, device))
            for device in jax.local_devices()
        ]
        self._turn = 0
        self._vectors: dict[View, tuple[jax.Array, int]] = {}

    def learn(self, views: Sequence[View], pictures: Sequence["_Placed"]) -> None:
        """Encode references: one feature each."""
        device, backbone, _ = self._next()
        images, sizes = _stacked(pictures, self.config.canvas)
        rows, canvas = len(images), self.config.canvas
        masks = np.zeros((rows, 1, 1, canvas, canvas), bool)
        for row, picture in enumerate(pictures):
            masks[row, 0, 0] = picture.mask
        references = ReferenceBatch(
            images=None,  # the backbone takes them by themselves, as it does targets
            sizes=None,
            masks=masks,
            picture=np.zeros((rows, 1, 1), np.int32),
            valid=np.ones((rows, 1, 1), bool),
            text=np.zeros((rows, 1, self.config.text_width), np.float32),
        )
        images, sizes, references = jax.device_put((images, sizes, references), device)
        features = engine.extract(self.config, backbone, images, sizes)
        visual = engine.encode(features[:, None], references).visual[:, 0, 0]
        self._vectors |= {view: (visual, row) for row, view in enumerate(views)}

    def context(
        self, references: Sequence[Sequence[View]], text: Float[np.ndarray, "rows text_width"]
    ) -> Prototypes:
        """Contexts of one concept from references that are known, padded to the rows of the programs.

        Several shots become their mean: the best of three ways (`evaluate.kshot`).
        """
        rows = rows_at_once()
        mean = self.shots(references).mean(2)
        padded = np.zeros((rows, 1, text.shape[1]), np.float32)
        padded[: len(text), 0] = text
        return Prototypes(
            pooled=mean, visual=mean[:, :, None], visual_valid=np.ones((rows, 1, 1), bool), text=padded
        )

    def shots(self, references: Sequence[Sequence[View]]) -> Float[np.ndarray, "rows 1 shots channels"]:
        """The feature of each reference, padded to the rows of the programs."""
        visual = np.zeros((rows_at_once(), 1, len(references[0]), self.config.vit.width), np.float32)
        for row, views in enumerate(references):
            for shot, view in enumerate(views):
                vectors, at = self._vectors[view]
                visual[row, 0, shot] = np.asarray(vectors)[at]
        return visual

    def segment(
        self, pictures: Sequence["_Placed"], contexts: Mapping[str, Prototypes]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The cosine maps with the first of the contexts, and the mask logits with each: [rows, 1, S, S]."""
        device, backbone, head = self._next()
        images, sizes = jax.device_put(_stacked(pictures, self.config.canvas), device)
        first = next(iter(contexts))  # a transfer sorts them
        contexts = jax.device_put(dict(contexts), device)
        features = engine.extract(self.config, backbone, images, sizes)
        cosine = engine.cosine(self.config.canvas, features, contexts[first])
        return cosine, {name: self.decode(head, features, context) for name, context in contexts.items()}

    def decode(self, head: Params, features: jax.Array, context: Prototypes) -> jax.Array:
        """Mask logits [rows, 1, S, S]."""
        return engine.decode(self.config, head, features, context)

    def _next(self):
        self._turn += 1
        return self._copies[self._turn % len(self._copies)]


class _Placed(NamedTuple):
    """A view on its canvas."""

    image: UInt8[np.ndarray, "S S 3"]
    size: tuple[int, int]
    mask: Bool[np.ndarray, "S S"]
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
            return _Placed(empty, (0, 0), empty, None, None, str(error))
        return _Placed(placed.image, placed.size, placed.masks[0], shown if is_target else None, beside)


def judge_all(
    models: Mapping[str, Model],
    source: EpisodeSource,
    tasks: Sequence[Task],
    judge: Callable[[Prediction], T],
    *,
    blank: bool = False,
    show_references: bool = False,
    in_flight: int = 16,
    workers: int = 0,
) -> Iterator[T]:
    """The judgements of all tasks, in order; `judge` runs in threads while the devices work.

    Args:
        models: "segic", and further ones whose logits stand under their names.
        blank: also decode without a reference ("no_reference"); tasks with `wrong` also with that one.
        show_references: give each answer its first reference.
        in_flight: episodes between reading and judgement, at most (rounded up).

    Raises:
        DataError: an image cannot be read; what came before it has been yielded.
    """
    items, plan = _stream(tasks, show_references)
    pictures = _loaded(_Load(source, items, next(iter(models.values())).config.canvas), workers)
    group = rows_at_once()
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
                            model.learn(batch, placed)
                        continue
                    cosine, logits = _segmented(models, batch, placed, blank)
                    for row, (task, one) in enumerate(zip(batch, placed, strict=True)):
                        waiting.append(pool.submit(_judged, judge, task, one, row, cosine, logits))
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


def _segmented(models: Mapping[str, Model], batch: Sequence[Task], placed: Sequence[_Placed], blank: bool):
    text = np.stack([task.text for task in batch])
    references = [task.episode.reference_views for task in batch]
    model = models["segic"]
    context = model.context(references, text)
    contexts = {"segic": context}
    if blank:
        contexts["no_reference"] = without_reference(context)
    if batch[0].wrong is not None:
        wrong = [[task.wrong] * len(task.episode.references) for task in batch]
        contexts["wrong_reference"] = model.context(wrong, text)
    cosine, logits = model.segment(placed, contexts)
    for name, other in models.items():
        if name != "segic":
            _, more = other.segment(placed, {name: other.context(references, text)})
            logits |= more
    return cosine, logits


def _judged(judge, task: Task, placed: _Placed, row: int, cosine: jax.Array, logits: dict[str, jax.Array]):
    return judge(
        Prediction(
            task,
            placed.shown,
            placed.reference,
            placed.size,
            np.asarray(cosine)[row, 0],
            {name: np.asarray(values)[row, 0] for name, values in logits.items()},
        )
    )


def _stacked(pictures: Sequence[_Placed], canvas: int) -> tuple[np.ndarray, np.ndarray]:
    images = np.zeros((rows_at_once(), canvas, canvas, 3), np.uint8)
    sizes = np.full((rows_at_once(), 2), canvas, np.int32)
    for row, picture in enumerate(pictures):
        images[row], sizes[row] = picture.image, picture.size
    return images, sizes


def to_own_size(
    values: Float[np.ndarray, "canvas_height canvas_width"], size: Sequence[int], own: Sequence[int]
) -> Float[np.ndarray, "height width"]:
    """Crop a canvas to its valid `size`, then bilinear to `own` (height, width) (train.py:443-460)."""
    return resize(values[: size[0], : size[1]], own)
