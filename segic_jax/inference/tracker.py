"""Track objects through a video, a frame at a time and in constant memory.

`track_annotations` does semi-supervised video object segmentation: it takes frames and the first mask of each
object, and yields an index map for each frame. It follows `forward_vos` (model/segic.py:804-990 of the
official code), which holds the features of the full video; here only two features per object are kept
(`memory.py`). `track_context` tracks the classes of a Context, whose references are other images; on every
frame it applies the negatives and decides whether each class is present.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import Array, Bool, Float, UInt8, UInt16

from segic_jax.config import EMPTY_PROMPT, INSTANCE_PROMPT
from segic_jax.data.preprocess import CanvasImage, place_masks, resize, resize_and_pad
from segic_jax.errors import DataError
from segic_jax.inference.context import Context
from segic_jax.inference.engine import Engine, ImageFeatures, Tracking
from segic_jax.inference.memory import ObjectMemory
from segic_jax.inference.result import Result
from segic_jax.inference.segmenter import Segmenter
from segic_jax.runtime.prefetch import prefetch_results
from segic_jax.weights.bundle import Bundle

SLOTS = 8  # objects of the compiled step; doubled when a video has more
Semantics = Literal["official", "repaired"]
Frame = UInt8[np.ndarray, "_ _ 3"]  # RGB
TrackerState = tuple[Float[np.ndarray, "slots channels"], Bool[np.ndarray, " slots"]]
Output = TypeVar("Output")


@dataclass(frozen=True, eq=False)
class FramePrediction:
    """Hold the masks of a frame, which may still be on their way from the device."""

    frame: Frame
    placed: CanvasImage  # the frame on the canvas, with the masks of new objects
    features: ImageFeatures | None  # None where there is no object yet
    tracking: Tracking | None  # None where no object was known before the frame
    objects: int  # how many objects were known before the frame
    new: Bool[np.ndarray, "new height width"]  # masks of new objects
    memory: ObjectMemory  # after the frame

    def index_map(self, size: tuple[int, ...] | None = None) -> UInt16[np.ndarray, "height width"]:
        """Return 0, or 1 + the object's place in the order of arrival; new objects keep their pixels.

        Args:
            size: (height, width) of the map, where there are no new objects; the frame's by default.
        """
        size = size or self.frame.shape[:2]
        index = np.zeros(size, np.uint16)
        if self.tracking is not None:
            logits = np.asarray(self.tracking.logits)[: self.objects]
            index = index_map(logits, self.placed.size, size)
        if len(self.new):
            index = np.where(self.new.any(0), self.objects + 1 + self.new.argmax(0), index)
        return index.astype(np.uint16)

    def state(self) -> TrackerState:
        """Return what `Tracker.restore` needs to go on after this frame."""
        return np.asarray(self.memory.latest), np.asarray(self.memory.predicted)


class Tracker:
    """Track objects through one video.

    The programs are compiled once for videos of up to SLOTS objects and any size of frames.
    """

    def __init__(self, engine: Engine, *, prompt: str = INSTANCE_PROMPT, rounded_canvas: bool = True):
        """Begin without objects.

        Args:
            prompt: the sentence for all objects; officially always the one for instances.
            rounded_canvas: round resized frames to uint8; see `data.preprocess.resize_and_pad`.

        Raises:
            BundleError: the model knows neither the prompt nor a text tower to encode it.
        """
        self.engine = engine
        self._rounded = rounded_canvas
        self.objects = 0  # how many are known
        self._text = engine.bundle.prompt_features([prompt])[0]
        features, flags = np.zeros((SLOTS, engine.config.backbone.width), np.float32), np.zeros(SLOTS, bool)
        self._memory = ObjectMemory(features, features, flags, flags)

    def add(self, pooled: Float[np.ndarray, "new channels"]) -> None:
        """Track more objects, given the features inside their masks on any image."""
        before, self.objects = self.objects, self.objects + len(pooled)
        padding = padded_objects(self.objects) - len(self._memory.valid)
        memory = ObjectMemory(
            *(np.pad(np.asarray(x), [(0, padding)] + [(0, 0)] * (x.ndim - 1)) for x in self._memory)
        )
        memory.first[before : self.objects] = pooled
        memory.valid[before : self.objects] = True
        self._memory = memory

    def restore(self, state: TrackerState) -> None:
        """Go on after the frame whose `FramePrediction.state` this is; all its objects have been added."""
        latest, predicted = state
        self._memory = self._memory._replace(latest=latest, predicted=predicted)

    def step(
        self, frame: Frame, new: Bool[np.ndarray, "new _ _"] | None = None, *, any_size: bool = False
    ) -> FramePrediction:
        """Segment the next frame.

        Args:
            new: masks of objects that appear for the first time. They come after the known ones, and their
                pixels are given back as they are, also where a known object is predicted; the first of them
                where they overlap.
            any_size: place masks of another size on the canvas with the scale of the frame (`place_masks`).

        Raises:
            DataError: the masks have another size than the frame, or do not fit on the canvas.
        """
        canvas, (height, width) = self.engine.config.canvas, frame.shape[:2]
        new = np.zeros((0, height, width), bool) if new is None else new
        if new.shape[1:] == (height, width):
            placed = resize_and_pad(frame, new, canvas, rounded=self._rounded)
        else:
            masks = place_masks(new, max(height, width), canvas) if any_size else None
            if masks is None:
                raise DataError(
                    f"The masks are {new.shape[2]} x {new.shape[1]} pixels, their frame {width} x {height}; "
                    "make them the same size."
                )
            nothing = np.zeros((0, height, width), bool)
            placed = resize_and_pad(frame, nothing, canvas, rounded=self._rounded)._replace(masks=masks)
        objects, features, tracking = self.objects, None, None
        if objects or len(new):
            features = self.engine.features([placed], 1)
            if objects:
                tracking, self._memory = self.engine.track(features, self._memory, self._text)
            if len(new):
                masks = np.zeros((1, padded_objects(len(new)), canvas, canvas), bool)
                masks[0, : len(new)] = placed.masks
                self.add(np.asarray(self.engine.pool(features, masks))[0, : len(new)])
        return FramePrediction(frame, placed, features, tracking, objects, new, self._memory)


def track_annotations(
    engine: Engine,
    frames: Iterable[Frame],
    annotations: Mapping,
    *,
    semantics: Semantics = "official",
    prompt: str = INSTANCE_PROMPT,
) -> Iterator[UInt16[np.ndarray, "height width"]]:
    """Yield the index maps of all frames, in order.

    Args:
        frames: RGB.
        annotations: index maps [height, width] by frame number from 0; 0 is background. Each is read when
            its frame is reached, and not before, so that the mapping may read files.
        semantics: "official" (segic.py:804-990, utils/vos_dataset.py): the objects are the values of the
            first annotation but the least one, which is an object where there is no background; they belong
            to the first frame, whichever frame the annotation is of; they are numbered 1, 2, ...; later
            objects are ignored; the first map is made of the given masks taken for logits on the canvas,
            which widens them by up to a canvas pixel; the canvas is not rounded; maps have the size of the
            first annotation, which lies on the canvas with the scale of the frame. "repaired": the
            annotations' own ids; an object is tracked from the first annotation that has it, whose pixels
            are that frame's map; later annotations of it are not used. Frames before the first annotation
            are all background.
        prompt: as for `Tracker`.

    Raises:
        DataError: an annotation has another size than its frame; officially, it does not fit on the canvas.
        BundleError: the model has no feature of the prompt.
    """
    official = semantics == "official"
    tracker = Tracker(engine, prompt=prompt, rounded_canvas=not official)
    yield from _finish((_official_steps if official else _repaired_steps)(tracker, frames, annotations))


def track_context(
    segmenter: Segmenter,
    context: Context,
    frames: Iterable[Frame],
    state: TrackerState | None = None,
    *,
    cut: float = 0.0,
    keep_absent: bool = False,
) -> Iterator[tuple[Result, TrackerState]]:
    """Yield the result of each frame, and the state to go on with after it.

    The masks are the tracker's; presence and negatives are decided as by `Segmenter.predict`.

    Args:
        context: its classes are the objects.
        state: of the frame before the first one of `frames`; None at the start of a video.
        cut: logit above which a pixel belongs to a mask.
        keep_absent: also give a mask to classes that seem to be absent.

    Raises:
        DataError: as `Segmenter.predict`.
    """
    tracker = Tracker(segmenter.engine, prompt=object_prompt(segmenter.bundle))
    tracker.add(np.stack([concept.visual.mean(0) for concept in context.concepts]))
    if state is not None:
        tracker.restore(state)

    def steps() -> Iterator[Callable[[], tuple[Result, TrackerState]]]:
        for frame in frames:
            prediction = tracker.step(frame)
            assert prediction.features is not None
            assert prediction.tracking is not None
            result = segmenter.start_result(
                frame,
                prediction.placed,
                prediction.features,
                context,
                logits=prediction.tracking.small_logits,
                cut=cut,
                keep_absent=keep_absent,
            )
            yield lambda prediction=prediction, result=result: (result(), prediction.state())

    yield from _finish(steps())


def object_prompt(bundle: Bundle) -> str:
    """Return the sentence for all objects: the official one, or the empty prompt where a model lacks it."""
    return INSTANCE_PROMPT if bundle.tower is not None or INSTANCE_PROMPT in bundle.text else EMPTY_PROMPT


def padded_objects(objects: int) -> int:
    """Return the number of slots of the compiled step for this number of objects: 8, 16, 32, ..."""
    slots = SLOTS
    while slots < objects:
        slots *= 2
    return slots


def index_map(
    logits: Float[Array | np.ndarray, "objects S S"] | Bool[np.ndarray, "objects S S"],
    canvas_size: tuple[int, int],
    size: tuple[int, ...],
) -> UInt16[np.ndarray, "height width"]:
    """Return 0, or 1 + the object with the largest sigmoid among those above 0 (segic.py:971-990).

    Args:
        logits: on the canvas.
        canvas_size: (h, w) of the frame on the canvas.
        size: (height, width) of the frame.
    """
    logits = resize(np.asarray(logits, np.float32)[:, : canvas_size[0], : canvas_size[1]], size)
    inside = logits > 0
    with np.errstate(over="ignore"):
        probability = np.where(inside, 1 / (1 + np.exp(-logits)), 0)
    return np.where(inside.any(0), probability.argmax(0) + 1, 0).astype(np.uint16)


def _finish(steps: Iterable[Callable[[], Output]]) -> Iterator[Output]:
    """Call each step's function while the device works on the next frame."""
    return prefetch_results(lambda finish: finish(), steps, threads=1, limit=1)


def _official_steps(tracker: Tracker, frames: Iterable[Frame], annotations: Mapping):
    size: tuple[int, ...] = ()
    for number, frame in enumerate(frames):
        if number:
            yield partial(tracker.step(frame).index_map, size)
            continue
        annotation = annotations[min(annotations)]
        size, ids = annotation.shape, np.unique(annotation)[1:]
        placed = tracker.step(frame, annotation == ids[:, None, None], any_size=True).placed
        yield partial(index_map, placed.masks, placed.size, size)


def _repaired_steps(tracker: Tracker, frames: Iterable[Frame], annotations: Mapping):
    ids = [0]  # of the background, then of the objects in the order of arrival
    for number, frame in enumerate(frames):
        new = None
        if number in annotations:
            annotation = annotations[number]
            new_ids = [i for i in np.unique(annotation).tolist() if i not in ids]
            new = annotation == np.reshape(new_ids, (-1, 1, 1))
            ids = [*ids, *new_ids]
        yield partial(_with_ids, tracker.step(frame, new), np.asarray(ids, np.uint16))


def _with_ids(
    prediction: FramePrediction, ids: UInt16[np.ndarray, " places"]
) -> UInt16[np.ndarray, "height width"]:
    return ids[prediction.index_map()]
