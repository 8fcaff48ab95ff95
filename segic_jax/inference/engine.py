"""The compiled programs of inference, one compilation for each shape; see models/segic.py."""

from functools import partial

import jax
from jaxtyping import Array, Bool, Float, Int

from segic_jax.config import ModelConfig
from segic_jax.inference import matching
from segic_jax.inference.matching import ConceptMatches, ConceptSlots, PooledReference
from segic_jax.models import correspondence, segic
from segic_jax.models.params import Params
from segic_jax.models.segic import Prototypes, ReferenceBatch


@partial(jax.jit, static_argnums=0)
def extract(
    config: ModelConfig, backbone: Params, images: Array, sizes: Int[Array, "n 2"]
) -> Float[Array, "n g g channels"]:
    """Features of images on the canvas; see `models.segic.extract`.

    Args:
        backbone: parameters; in half precision the backbone runs in it.
        images: uint8 or float [n, S, S, 3], 0..255.
        sizes: (h, w) of each image on the canvas; what lies beyond is padding.
    """
    return segic.extract(config, backbone, images, sizes)


@jax.jit
def encode(features: Float[Array, "batch images g g channels"], references: ReferenceBatch) -> Prototypes:
    """Contexts from the features of reference images; `references.images` and `sizes` are not read."""
    return segic.encode_features(features, references)


@partial(jax.jit, static_argnums=0)
def decode(
    config: ModelConfig, head: Params, features: Float[Array, "batch g g channels"], context: Prototypes
) -> Float[Array, "batch concepts S S"]:
    """Mask logits on the canvas from the features of targets; inside where positive.

    Concepts read each other's tokens, as in the official code; the API's `find` decodes each alone. Crop to
    the image's (h, w) on the canvas before use.
    """
    return segic.upsample(segic.decode(config, head, features, context)[0], config.canvas)


@partial(jax.jit, static_argnums=0)
def cosine(
    canvas: int, features: Float[Array, "batch g g channels"], context: Prototypes
) -> Float[Array, "batch concepts S S"]:
    """The correspondence maps alone, -1..1."""
    return correspondence.cosine_map(features, context.pooled, canvas)


@jax.jit
def show(
    features: Float[Array, "1 g g channels"], mask: Bool[Array, "S S"], size: Int[Array, " 2"]
) -> PooledReference:
    """One mask on one reference, for the API.

    Args:
        size: (h, w) of the image on the canvas.
    """
    return matching.show(features[0], mask, size)


@partial(jax.jit, static_argnums=0)
def find(
    config: ModelConfig,
    head: Params,
    features: Float[Array, "batch g g channels"],
    sizes: Int[Array, "batch 2"],
    slots: ConceptSlots,
) -> ConceptMatches:
    """Logits at 4 x grid of concepts of the API's Context, each decoded alone, and how their cells match.

    Args:
        sizes: (h, w) of each target on the canvas.
        slots: of `context.in_slots`.
    """
    return matching.find(config, head, features, sizes, slots)


@partial(jax.jit, static_argnums=0)
def match(
    config: ModelConfig, features: Float[Array, "1 g g channels"], slots: ConceptSlots
) -> tuple[Float[Array, "slots S S"], Float[Array, "slots g g"], Int[Array, "slots g g"]]:
    """Which reference cell each cell of a target looks like.

    Returns:
        The cosine map on the canvas; for each cell the cosine to its best cell of the object, -1..1; and the
        place of that cell among those of the concept.
    """
    return matching.match(config, features, slots)
