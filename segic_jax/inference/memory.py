"""Remember the objects of a video by two features each: of the given mask, and of the latest predicted one.

Pure functions; `engine` compiles them. They follow the official `forward_vos` (model/segic.py:804-990).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from segic_jax.config import ModelConfig
from segic_jax.models.correspondence import pool
from segic_jax.models.encoding import Prototypes
from segic_jax.models.features import Features
from segic_jax.models.params import Params
from segic_jax.models.segic import DecoderStages, decode_stages, upsample

EPS = 1e-4  # least norm of a feature in the cosine (segic.py:889); images have 1e-8


class ObjectMemory(NamedTuple):
    """Hold what is remembered of the objects of a video; objects lie in slots."""

    first: Float[Array, "objects channels"]  # pooled inside the given mask
    latest: Float[Array, "objects channels"]  # pooled inside the latest predicted mask
    predicted: Bool[Array, " objects"]  # whether there is a predicted mask yet
    valid: Bool[Array, " objects"]  # which slots hold an object


class DecodedFrame(NamedTuple):
    """Hold every stage of the decoding of a frame, and the objects' mask logits on the canvas."""

    stages: DecoderStages
    logits: Float[Array, "objects S S"]


def first_memory(
    patches: Float[Array | np.ndarray, "1 g g channels"], masks: Bool[Array | np.ndarray, "objects S S"]
) -> ObjectMemory:
    """Return the memory after the frame of the given masks; an empty mask gives a zero feature."""
    first = pool(patches, masks)
    objects = len(masks)
    return ObjectMemory(first, jnp.zeros_like(first), jnp.zeros(objects, bool), jnp.ones(objects, bool))


def decode_frame(
    config: ModelConfig,
    head: Params,
    features: Features,
    memory: ObjectMemory,
    text: Float[Array | np.ndarray, " text_width"],
    concepts_at_once: int | None = None,
) -> tuple[DecodedFrame, ObjectMemory]:
    """Decode all objects of a frame at once, and remember their predicted masks (segic.py:862-966).

    The similarity map and its peak come from the first mask alone, the visual tokens from both; the peaks of
    the other objects are points outside. The mask is pooled over the whole canvas, padding included.

    Args:
        features: of one image.
    """
    objects = len(memory.first)
    prototypes = Prototypes(
        pooled=memory.first[None],
        visual=jnp.stack([memory.first, memory.latest], axis=1)[None],
        visual_valid=jnp.stack([memory.valid, memory.valid & memory.predicted], axis=1)[None],
        text=jnp.tile(text, (1, objects, 1)),
    )
    stages = decode_stages(
        config, head, features, prototypes, cross_points=True, eps=EPS, concepts_at_once=concepts_at_once
    )
    logits = upsample(stages.logits, config.canvas)[0]
    latest = pool(features.patches, logits > 0)
    return DecodedFrame(stages, logits), ObjectMemory(memory.first, latest, memory.valid, memory.valid)
