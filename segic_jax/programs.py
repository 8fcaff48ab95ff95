"""The compiled programs of inference, one compilation for each shape; see models/segic.py."""

from functools import partial

import jax
from jaxtyping import Array, Float, Int

from segic_jax.config import ModelConfig
from segic_jax.models import correspondence, segic
from segic_jax.models.segic import Context, References
from segic_jax.params import Params


@partial(jax.jit, static_argnums=0)
def extract(
    config: ModelConfig, backbone: Params, images: Array, sizes: Int[Array, "n 2"]
) -> Float[Array, "n g g channels"]:
    """Features of pictures on the canvas."""
    return segic.extract(config, backbone, images, sizes)


@jax.jit
def encode(features: Float[Array, "batch pictures g g channels"], references: References) -> Context:
    """Contexts from the features of reference pictures."""
    return segic.encode_features(features, references)


@partial(jax.jit, static_argnums=0)
def decode(
    config: ModelConfig, head: Params, features: Float[Array, "batch g g channels"], context: Context
) -> Float[Array, "batch concepts S S"]:
    """Mask logits on the canvas from the features of targets."""
    return segic.upsample(segic.decode(config, head, features, context)[0], config.canvas)


@partial(jax.jit, static_argnums=0)
def cosine(
    canvas: int, features: Float[Array, "batch g g channels"], context: Context
) -> Float[Array, "batch concepts S S"]:
    """The correspondence maps alone, -1..1."""
    return correspondence.cosine_map(features, context.pooled, canvas)
