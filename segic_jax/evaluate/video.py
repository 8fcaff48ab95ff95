"""Semi-supervised video object segmentation: frames and the objects' first masks -> one index mask a frame.

Follows `forward_vos` (model/segic.py:804-990 of the official code), which holds the features of a whole
video. Here a frame enters, is encoded once, and leaves two features an object behind: that of its first
mask and that of its latest predicted one.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, UInt8, UInt16

from segic_jax import programs
from segic_jax.config import ModelConfig
from segic_jax.data.canvas import resize_and_pad
from segic_jax.data.episodes import DataError
from segic_jax.models.correspondence import pool
from segic_jax.models.resize import bilinear
from segic_jax.models.segic import Context, Decoded, decode_stages, upsample
from segic_jax.params import Params
from segic_jax.prompts import INSTANCES
from segic_jax.weights.bundle import Bundle

EPS = 1e-4  # least norm of a feature in the cosine (segic.py:889); pictures have 1e-8


class Memory(NamedTuple):
    """What is remembered of the objects of a video."""

    first: Float[Array, "objects channels"]  # pooled inside the given mask
    latest: Float[Array, "objects channels"]  # pooled inside the latest predicted mask
    predicted: Bool[Array, " objects"]  # whether there is a predicted mask yet


class Seen(NamedTuple):
    """One frame: every stage of its decoding, and the objects' mask logits on the canvas."""

    decoded: Decoded
    logits: Float[Array, "objects S S"]


def remember(features: Float[Array, "1 g g channels"], masks: Bool[Array, "objects S S"]) -> Memory:
    """The memory after the frame with the given masks; an object with an empty mask has a zero feature."""
    first = pool(features, masks)
    return Memory(first, jnp.zeros_like(first), jnp.zeros(len(masks), bool))


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
    context = Context(
        pooled=memory.first[None],
        visual=jnp.stack([memory.first, memory.latest], axis=1)[None],
        visual_valid=jnp.stack([jnp.ones(objects, bool), memory.predicted], axis=1)[None],
        text=jnp.tile(text, (1, objects, 1)),
    )
    decoded = decode_stages(config, head, features, context, cross_points=True, eps=EPS)
    logits = upsample(decoded.logits, config.canvas)[0]
    latest = pool(features, logits > 0)
    return Seen(decoded, logits), Memory(memory.first, latest, jnp.ones(objects, bool))


def index_mask(
    logits: Float[Array, "objects S S"], size: tuple[int, int], own: tuple[int, int]
) -> UInt16[Array, "height width"]:
    """0, or 1 + the object with the largest sigmoid among those above 0 (segic.py:971-990).

    Args:
        size: valid (h, w) on the canvas.
        own: (height, width) of the frame.
    """
    logits = bilinear(logits[:, : size[0], : size[1], None], own)[..., 0]
    best = jnp.argmax(jnp.where(logits > 0, jax.nn.sigmoid(logits), 0), axis=0)
    return jnp.where((logits > 0).any(0), best + 1, 0).astype(jnp.uint16)


_remember = jax.jit(remember)
_index_mask = jax.jit(index_mask, static_argnums=(1, 2))


@partial(jax.jit, static_argnums=0)
def _step(config, head, features, memory, text):
    seen, memory = look(config, head, features, memory, text)
    return seen.logits, memory


class Tracker:
    """Follows objects through one video, a frame at a time.

    Compiled once for each number of objects and size of the frames, whatever the video's length.
    """

    def __init__(self, bundle: Bundle, *, prompt: str = INSTANCES):
        """`prompt` is the sentence for all objects; officially always the one for instances.

        Raises:
            BundleError: the model knows neither the prompt nor a text tower to encode it.
        """
        self._bundle = bundle
        self._text = jnp.asarray(bundle.prompt_features([prompt])[0])
        self._memory: Memory | None = None

    @property
    def objects(self) -> int:
        """How many objects are known."""
        return 0 if self._memory is None else len(self._memory.first)

    def step(
        self,
        frame: UInt8[np.ndarray, "height width 3"],
        new: Bool[np.ndarray, "new height width"] | None = None,
    ) -> UInt16[np.ndarray | Array, "height width"]:
        """The index mask of the next frame: 0, or 1 + the object's place in the order of arrival.

        Args:
            frame: RGB.
            new: masks of objects that are shown for the first time. They come after the known ones, and
                their pixels are given back as they are, also where a known object is predicted; the first
                of them where they overlap. (The official result of the first frame is `index_mask` of the
                given masks taken for logits instead, which is wider by up to a canvas pixel; later objects
                are never taken up there.)

        Returns:
            An array that may still be on its way from the device.

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
        known = self.objects
        if not known and not len(new):
            return np.zeros(own, np.uint16)
        placed = resize_and_pad(frame, new, config.canvas)
        size = np.asarray([placed.size], np.int32)
        features = programs.extract(config, self._bundle.backbone, placed.image[None], size)
        index = np.zeros(own, np.uint16)
        if known:
            logits, self._memory = _step(config, self._bundle.head, features, self._memory, self._text)
            index = _index_mask(logits, placed.size, own)
        if len(new):
            index = np.where(new.any(0), known + 1 + new.argmax(0), index).astype(np.uint16)
            arrived = _remember(features, placed.masks)
            if known:
                arrived = Memory(*map(jnp.concatenate, zip(self._memory, arrived, strict=True)))
            self._memory = arrived
        return index


def segment_video(
    bundle: Bundle,
    frames: Iterable[UInt8[np.ndarray, "height width 3"]],
    first_masks: Bool[np.ndarray, "objects height width"],
    *,
    prompt: str = INSTANCES,
) -> Iterator[UInt16[np.ndarray, "height width"]]:
    """Index masks of all frames, in order: 0, or 1 + the object's place in `first_masks`.

    `first_masks` lie on the first frame, whose answer they are (see `Tracker.step`).
    """
    tracker = Tracker(bundle, prompt=prompt)
    yield from _one_behind(
        tracker.step(frame, first_masks if number == 0 else None) for number, frame in enumerate(frames)
    )


def segment_annotated(
    bundle: Bundle,
    frames: Iterable[UInt8[np.ndarray, "height width 3"]],
    annotations: Mapping[int, Integer[np.ndarray, "height width"]],
    *,
    prompt: str = INSTANCES,
) -> Iterator[UInt16[np.ndarray, "height width"]]:
    """The same with the annotations' own object ids, which need not be 1, 2, ...

    Args:
        annotations: by frame number from 0; 0 is background. An object is followed from the first
            annotation that shows it (YouTube-VOS has objects that come later); what later ones say about
            it is not read. Frames before the first annotation are all background.

    Raises:
        DataError: an annotation of another size than its frame.
    """
    tracker = Tracker(bundle, prompt=prompt)
    ids = [0]  # by place; the official code answers with the place (segic.py:988)

    def answers():
        for number, frame in enumerate(frames):
            new = None
            if number in annotations:
                annotation = annotations[number]
                arrived = [i for i in np.unique(annotation).tolist() if i not in ids]
                new = annotation == np.reshape(arrived, (-1, 1, 1))
                ids.extend(arrived)
            yield tracker.step(frame, new), np.asarray(ids, np.uint16)

    for index, known in _one_behind(answers()):
        yield known[index]


def _one_behind(answers: Iterator) -> Iterator:
    """The same on the host; each is fetched only after the next one has been sent to the device."""
    waiting = None
    for answer in answers:
        if waiting is not None:
            yield jax.tree.map(np.asarray, waiting)
        waiting = answer
    if waiting is not None:
        yield jax.tree.map(np.asarray, waiting)
