"""Semi-supervised video object segmentation: frames and the objects' first masks -> one index map a frame.

Follows `forward_vos` (model/segic.py:804-990 of the official code), which holds the features of a whole
video. Here a frame enters, is encoded once, and leaves two features an object behind: that of its first
mask and that of its latest predicted one. Objects lie in slots, so that one compiled step serves all videos.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Array, Bool, Float, Integer, UInt8, UInt16

from segic_jax.config import EMPTY_PROMPT, INSTANCE_PROMPT
from segic_jax.data.preprocess import resize, resize_and_pad
from segic_jax.errors import DataError
from segic_jax.inference.engine import Engine
from segic_jax.inference.memory import ObjectMemory
from segic_jax.weights.bundle import Bundle

SLOTS = 8  # objects of the compiled step; doubled when a video has more
Semantics = Literal["official", "repaired"]
Made = TypeVar("Made")


def index_mask(
    logits: Float[np.ndarray, "objects S S"], size: tuple[int, int], own: tuple[int, int]
) -> UInt16[np.ndarray, "height width"]:
    """0, or 1 + the object with the largest sigmoid among those above 0 (segic.py:971-990).

    Args:
        size: valid (h, w) on the canvas.
        own: (height, width) of the frame.
    """
    logits = resize(np.asarray(logits, np.float32)[:, : size[0], : size[1]], own)
    inside = logits > 0
    with np.errstate(over="ignore"):
        probability = np.where(inside, 1 / (1 + np.exp(-logits)), 0)
    return np.where(inside.any(0), probability.argmax(0) + 1, 0).astype(np.uint16)


class FramePrediction(NamedTuple):
    """A frame that may still be on its way from the device."""

    logits: Array | None  # [slots, S, S]; None where no object was known
    objects: int  # how many of the slots are known objects
    size: tuple[int, int]
    own: tuple[int, int]
    new: Bool[np.ndarray, "new height width"]

    def labels(self) -> UInt16[np.ndarray, "height width"]:
        """0, or 1 + the object's place in the order of arrival; new objects have their given pixels."""
        index = np.zeros(self.own, np.uint16)
        if self.logits is not None:
            index = index_mask(np.asarray(self.logits)[: self.objects], self.size, self.own)
        if len(self.new):
            index = np.where(self.new.any(0), self.objects + 1 + self.new.argmax(0), index)
        return index.astype(np.uint16)


class Tracker:
    """Follows objects through one video, a frame at a time, in constant memory.

    Its programs are compiled once for videos of up to SLOTS objects and any size of frames.
    """

    def __init__(self, engine: Engine, *, prompt: str = INSTANCE_PROMPT):
        """`prompt` is the sentence for all objects; officially always the one for instances.

        Raises:
            BundleError: the model knows neither the prompt nor a text tower to encode it.
        """
        self.engine = engine
        self._text = engine.bundle.prompt_features([prompt])[0]
        width = engine.config.vit.width
        empty = np.zeros((SLOTS, width), np.float32), np.zeros(SLOTS, bool)
        self._memory = ObjectMemory(empty[0], empty[0], empty[1], empty[1])
        self.objects = 0  # how many are known

    def add(self, pooled: Float[np.ndarray, "new channels"]) -> None:
        """Follow more objects, from the features inside their masks on whatever image."""
        known, self.objects = self.objects, self.objects + len(pooled)
        more = slots(self.objects) - len(self._memory.valid)
        memory = ObjectMemory(
            *(np.pad(np.asarray(one), [(0, more)] + [(0, 0)] * (one.ndim - 1)) for one in self._memory)
        )
        memory.first[known : self.objects] = pooled
        memory.valid[known : self.objects] = True
        self._memory = memory

    def step(
        self,
        frame: UInt8[np.ndarray, "height width 3"],
        new: Bool[np.ndarray, "new height width"] | None = None,
    ) -> FramePrediction:
        """Look at the next frame.

        Args:
            frame: RGB.
            new: masks of objects that are shown for the first time. They come after the known ones, and
                their pixels are given back as they are, also where a known object is predicted; the first
                of them where they overlap.

        Raises:
            DataError: masks of another size than the frame.
        """
        canvas = self.engine.config.canvas
        own = frame.shape[:2]
        new = np.zeros((0, *own), bool) if new is None else new
        if new.shape[1:] != own:
            raise DataError(
                f"The masks are {new.shape[2]} x {new.shape[1]} pixels, their frame {own[1]} x {own[0]}; "
                "make them the same size."
            )
        known, logits = self.objects, None
        placed = resize_and_pad(frame, new, canvas)
        features = None
        if known or len(new):
            features = self.engine.features([placed], 1)
        if known:
            found, self._memory = self.engine.track(features, self._memory, self._text)
            logits = found.logits
        if len(new):
            masks = np.zeros((1, slots(len(new)), canvas, canvas), bool)
            masks[0, : len(new)] = placed.masks
            self.add(np.asarray(self.engine.pool(features, masks))[0, : len(new)])
        return FramePrediction(logits, known, placed.size, own, new)


def slots(objects: int) -> int:
    """How many slots the compiled step has for so many objects."""
    count = SLOTS
    while count < objects:
        count *= 2
    return count


def follow(
    engine: Engine,
    frames: Iterable[UInt8[np.ndarray, "height width 3"]],
    annotations: Mapping[int, Integer[np.ndarray, "height width"]],
    *,
    semantics: Semantics = "official",
    prompt: str = INSTANCE_PROMPT,
) -> Iterator[UInt16[np.ndarray, "height width"]]:
    """Index maps of all frames, in order.

    Args:
        annotations: by frame number from 0; 0 is background. Each is looked up when its frame comes.
        semantics: "official" (segic.py:804-990, utils/vos_dataset.py): the objects are the values of the
            first annotation but the least one, which is an object where there is no background; they belong
            to the first frame, whichever the annotation is of; they are numbered 1, 2, ...; later objects
            are ignored; the first answer is the given masks taken for logits on the canvas, which is wider
            by up to a canvas pixel. "repaired": the annotations' own ids; an object is followed from the
            first annotation that shows it, whose pixels are that frame's answer; what later ones say about
            it is not read. Frames before the first annotation are all background.

    Raises:
        DataError: an annotation of another size than its frame.
        BundleError: the model knows no feature of the prompt.
    """
    answers = (_official if semantics == "official" else _repaired)(
        Tracker(engine, prompt=prompt), frames, annotations
    )
    yield from finished(answers)


def prompt_of(bundle: Bundle) -> str:
    """The sentence for all objects: a model without a text tower has those that it was trained with."""
    return INSTANCE_PROMPT if bundle.tower is not None or INSTANCE_PROMPT in bundle.text else EMPTY_PROMPT


def finished(answers: Iterable[Callable[[], Made]]) -> Iterator[Made]:
    """What each function gives, made while the device works on the next frame."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting = None
        for answer in answers:
            future = pool.submit(answer)
            if waiting is not None:
                yield waiting.result()
            waiting = future
        if waiting is not None:
            yield waiting.result()


def _official(tracker: Tracker, frames: Iterable, annotations: Mapping):
    for number, frame in enumerate(frames):
        if number:
            yield tracker.step(frame).labels
            continue
        annotation = annotations[min(annotations)]
        ids = np.unique(annotation)[1:]
        new = annotation == ids[:, None, None]
        answer = tracker.step(frame, new)
        given = resize_and_pad(frame, new, tracker.engine.config.canvas)
        yield partial(index_mask, given.masks, answer.size, answer.own)


def _repaired(tracker: Tracker, frames: Iterable, annotations: Mapping):
    ids = [*range(tracker.objects + 1)]  # by place
    for number, frame in enumerate(frames):
        new = None
        if number in annotations:
            annotation = annotations[number]
            arrived = [i for i in np.unique(annotation).tolist() if i not in ids]
            new = annotation == np.reshape(arrived, (-1, 1, 1))
            ids = [*ids, *arrived]
        answer = tracker.step(frame, new)
        yield partial(_numbered, answer, np.asarray(ids, np.uint16))


def _numbered(
    answer: FramePrediction, ids: UInt16[np.ndarray, " places"]
) -> UInt16[np.ndarray, "height width"]:
    return ids[answer.labels()]
