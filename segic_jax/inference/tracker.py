"""Semi-supervised video object segmentation: frames and the objects' first masks -> one index map a frame.

Follows `forward_vos` (model/segic.py:804-990 of the official code), which holds the features of a whole
video. Here a frame enters, is encoded once, and leaves two features an object behind: that of its first
mask and that of its latest predicted one. Objects lie in slots, so that one compiled step serves all videos.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, UInt8, UInt16

from segic_jax.config import EMPTY_PROMPT, INSTANCE_PROMPT, ModelConfig
from segic_jax.data.canvas import resize, resize_and_pad
from segic_jax.errors import DataError
from segic_jax.inference import engine
from segic_jax.models.correspondence import pool
from segic_jax.models.params import Params
from segic_jax.models.segic import DecoderStages, Prototypes, decode_stages, upsample
from segic_jax.weights.bundle import Bundle

EPS = 1e-4  # least norm of a feature in the cosine (segic.py:889); images have 1e-8
SLOTS = 8  # objects of the compiled step; doubled when a video has more
Semantics = Literal["official", "repaired"]
Made = TypeVar("Made")


class Memory(NamedTuple):
    """What is remembered of the objects of a video."""

    first: Float[Array, "objects channels"]  # pooled inside the given mask
    latest: Float[Array, "objects channels"]  # pooled inside the latest predicted mask
    predicted: Bool[Array, " objects"]  # whether there is a predicted mask yet
    valid: Bool[Array, " objects"]  # which slots hold an object


class Seen(NamedTuple):
    """One frame: every stage of its decoding, and the objects' mask logits on the canvas."""

    decoded: DecoderStages
    logits: Float[Array, "objects S S"]


def remember(features: Float[Array, "1 g g channels"], masks: Bool[Array, "objects S S"]) -> Memory:
    """The memory after the frame with the given masks; an object with an empty mask has a zero feature."""
    first = pool(features, masks)
    objects = len(masks)
    return Memory(first, jnp.zeros_like(first), jnp.zeros(objects, bool), jnp.ones(objects, bool))


def look(
    config: ModelConfig,
    head: Params,
    features: Float[Array, "1 g g channels"],
    memory: Memory,
    text: Float[Array, " text_width"],
) -> tuple[Seen, Memory]:
    """Decode all objects of a frame at once, and remember their predicted masks (segic.py:862-966).

    The cosine map and the point come from the first mask alone, the visual tokens from both; the other
    objects' points are points outside. The mask is pooled over the whole canvas, padding included.
    """
    objects = len(memory.first)
    context = Prototypes(
        pooled=memory.first[None],
        visual=jnp.stack([memory.first, memory.latest], axis=1)[None],
        visual_valid=jnp.stack([memory.valid, memory.valid & memory.predicted], axis=1)[None],
        text=jnp.tile(text, (1, objects, 1)),
    )
    decoded = decode_stages(config, head, features, context, cross_points=True, eps=EPS)
    logits = upsample(decoded.logits, config.canvas)[0]
    latest = pool(features, logits > 0)
    return Seen(decoded, logits), Memory(memory.first, latest, memory.valid, memory.valid)


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


_pool = jax.jit(pool)


@partial(jax.jit, static_argnums=0)
def _step(config, head, features, memory, text):
    seen, memory = look(config, head, features, memory, text)
    return seen.logits, memory


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

    def __init__(self, bundle: Bundle, *, prompt: str = INSTANCE_PROMPT):
        """`prompt` is the sentence for all objects; officially always the one for instances.

        Raises:
            BundleError: the model knows neither the prompt nor a text tower to encode it.
        """
        self._bundle = bundle
        self._text = jnp.asarray(bundle.prompt_features([prompt])[0])
        width = bundle.config.vit.width
        empty = np.zeros((SLOTS, width), np.float32), np.zeros(SLOTS, bool)
        self._memory = Memory(empty[0], empty[0], empty[1], empty[1])
        self.objects = 0  # how many are known

    def add(self, pooled: Float[np.ndarray, "new channels"]) -> None:
        """Follow more objects, from the features inside their masks on whatever image."""
        known, self.objects = self.objects, self.objects + len(pooled)
        more = slots(self.objects) - len(self._memory.valid)
        memory = Memory(
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
        config = self._bundle.config
        own = frame.shape[:2]
        new = np.zeros((0, *own), bool) if new is None else new
        if new.shape[1:] != own:
            raise DataError(
                f"The masks are {new.shape[2]} x {new.shape[1]} pixels, their frame {own[1]} x {own[0]}; "
                "make them the same size."
            )
        known, logits = self.objects, None
        placed = resize_and_pad(frame, new, config.canvas)
        features = None
        if known or len(new):
            size = np.asarray([placed.size], np.int32)
            features = engine.extract(config, self._bundle.backbone, placed.image[None], size)
        if known:
            logits, self._memory = _step(config, self._bundle.head, features, self._memory, self._text)
        if len(new):
            masks = np.zeros((slots(len(new)), config.canvas, config.canvas), bool)
            masks[: len(new)] = placed.masks
            self.add(np.asarray(_pool(features, masks))[: len(new)])
        return FramePrediction(logits, known, placed.size, own, new)


def slots(objects: int) -> int:
    """How many slots the compiled step has for so many objects."""
    count = SLOTS
    while count < objects:
        count *= 2
    return count


def follow(
    bundle: Bundle,
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
        Tracker(bundle, prompt=prompt), frames, annotations
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
        given = resize_and_pad(frame, new, tracker._bundle.config.canvas)
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
