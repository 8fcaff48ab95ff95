"""Turn images into features, and reference images with masks into Prototypes.

Pure functions over flat parameter dictionaries, to be called inside `jax.jit`. A concept is a class or an
instance; a shot is one reference mask of it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from segic_jax.config import Backbone, ModelConfig
from segic_jax.models.backbones import backbone_template
from segic_jax.models.correspondence import (
    grid_masks,
    patches_on_image,
)
from segic_jax.models.features import Features
from segic_jax.models.params import AnyArray, Params


class ReferenceBatch(NamedTuple):
    """Hold reference images and masks of several concepts in fixed slots; unused slots are not `valid`."""

    images: AnyArray | None  # uint8 or float [batch, images, S, S, 3], 0..255; padding may hold anything
    sizes: Int[AnyArray, "batch images 2"] | None  # (h, w) of the image on the canvas
    masks: AnyArray  # bool or float [batch, concepts, shots, S, S], 0..1
    image_index: Int[AnyArray, "batch concepts shots"]  # the image that each mask lies on
    valid: Bool[AnyArray, "batch concepts shots"]
    text: Float[AnyArray, "batch concepts text_width"]  # text feature of each concept's prompt


class Prototypes(NamedTuple):
    """Hold all that decoding needs to know about the references; independent of target and head."""

    pooled: Float[AnyArray, "batch concepts channels"]  # mean over the valid shots
    visual: Float[AnyArray, "batch concepts shots channels"]  # one feature per shot
    visual_valid: Bool[AnyArray, "batch concepts shots"]
    text: Float[AnyArray, "batch concepts text_width"]

    @property
    def valid(self) -> Bool[Array, "batch concepts"]:
        """Tell which concepts have at least one shot."""
        return jnp.any(self.visual_valid, axis=-1)


def extract(config: ModelConfig, backbone: Params, images: AnyArray, sizes: Int[AnyArray, "n 2"]) -> Features:
    """Return the features of images on the canvas, in float32 and without gradient.

    Args:
        backbone: parameters, all of the precision that the backbone is to run in.
        images: uint8 or float [n, S, S, 3], 0..255.
        sizes: (h, w) of each image; what lies at or beyond them is padding.
    """
    precision = next(iter(backbone.values())).dtype
    pixels = normalise_pixels(config.backbone, images, sizes).astype(precision)
    output = backbone_template(config.backbone).bind(backbone)(pixels)
    return finish(config, Features(output.patches, output.fine), sizes, images.shape[1])


def finish(config: ModelConfig, output: Features, sizes: Int[AnyArray, "n 2"], canvas: int) -> Features:
    """Return what a backbone gives for images on the canvas as their features; see `extract`."""
    patches = output.patches.astype(jnp.float32)
    if config.backbone.centred:
        on_image = patches_on_image(sizes, canvas, patches.shape[1])[..., None]
        patches = patches - (patches * on_image).sum((1, 2), keepdims=True) / on_image.sum(
            (1, 2), keepdims=True
        )
    features = Features(patches, output.fine)
    return jax.tree.map(lambda level: jax.lax.stop_gradient(level.astype(jnp.float32)), features)


def normalise_pixels(
    config: Backbone, images: AnyArray, sizes: Int[AnyArray, "n 2"]
) -> Float[Array, "n S S 3"]:
    """Scale pixels by the backbone's mean and deviation; padding is 0 after that (segic.py:361-368)."""
    mean, deviation = np.array(config.pixel_mean, np.float32), np.array(config.pixel_std, np.float32)
    pixels = (images.astype(jnp.float32) / 255 - mean) / deviation
    index = jnp.arange(images.shape[1])
    inside = (index[:, None] < sizes[:, 0, None, None]) & (index < sizes[:, 1, None, None])
    return jnp.where(inside[..., None], pixels, 0)


def encode(config: ModelConfig, backbone: Params, references: ReferenceBatch) -> Prototypes:
    """Encode the references, once for any number of targets."""
    assert references.images is not None
    assert references.sizes is not None
    batch, images = references.images.shape[:2]
    pixels = references.images.reshape(batch * images, *references.images.shape[2:])
    patches = extract(config, backbone, pixels, references.sizes.reshape(batch * images, 2)).patches
    return encode_features(patches.reshape(batch, images, *patches.shape[1:]), references)


def encode_features(
    patches: Float[AnyArray, "batch images g g channels"], references: ReferenceBatch
) -> Prototypes:
    """Encode references from the features of their patches; `references.images` and `sizes` are not read."""
    valid = references.valid[..., None]
    masks = grid_masks(references.masks, patches.shape[2])  # [batch, concepts, shots, g, g]
    on_image = jax.nn.one_hot(references.image_index, patches.shape[1])  # [batch, concepts, shots, images]
    # One product over all images; gathering an image for each mask would copy its features.
    masks_on_images = masks[:, :, :, None] * on_image[..., None, None]
    sums = jnp.einsum("bkspij,bpijc->bksc", masks_on_images, patches)
    visual = jnp.where(valid, sums / jnp.maximum(masks.sum((-2, -1)), 1)[..., None], 0)
    return Prototypes(
        pooled=visual.sum(2) / jnp.maximum(valid.sum(2), 1),
        visual=visual,
        visual_valid=references.valid,
        text=references.text,
    )
