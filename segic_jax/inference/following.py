"""Classes of a Context followed through the frames of a video: the tracker's masks, judged as on images.

The tracker of `evaluate.video` gives the masks. Beside it every frame is searched as `Segmenter.predict`
does, for what negatives take away and for the evidence that a class is there at all.
"""

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, UInt8

from segic_jax.data.preprocess import resize_and_pad
from segic_jax.inference.context import Context
from segic_jax.inference.memory import ObjectMemory
from segic_jax.inference.result import Result
from segic_jax.inference.segmenter import Segmenter
from segic_jax.inference.tracker import finished, prompt_of, slots

Latest = tuple[Float[np.ndarray, "slots channels"], Bool[np.ndarray, " slots"]]  # of the memory: what changes


def followed(
    segmenter: Segmenter,
    context: Context,
    frames: Iterable[UInt8[np.ndarray, "height width 3"]],
    latest: Latest | None = None,
    *,
    keep_absent: bool = False,
) -> Iterator[tuple[Result, Latest]]:
    """The result of each frame, and what to go on with from there.

    Args:
        latest: what was given with the frame before the first one of `frames`.
        keep_absent: give a mask to classes that seem to be absent, too.
    """
    bundle, config = segmenter.bundle, segmenter.config
    text = bundle.prompt_features([prompt_of(bundle)])[0]
    known = np.arange(slots(len(context.names))) < len(context.names)
    first = np.zeros((len(known), config.vit.width), np.float32)
    first[known] = [concept.visual.mean(0) for concept in context.concepts]
    if latest is None:
        latest = (np.zeros_like(first), np.zeros_like(known))

    def started():
        memory = ObjectMemory(first, *latest, known)
        for frame in frames:
            placed = resize_and_pad(frame, np.zeros((0, *frame.shape[:2]), bool), config.canvas)
            features = segmenter.engine.features([placed], 1)
            masks, memory = segmenter.engine.track(features, memory, text)
            judged = segmenter.judge(
                frame, placed, features, context, masks.small_logits, keep_absent=keep_absent
            )
            yield partial(_result, judged, memory)

    yield from finished(started())


def _result(judged, memory: ObjectMemory) -> tuple[Result, Latest]:
    return judged(), (np.asarray(memory.latest), np.asarray(memory.predicted))
