"""Encode points, boxes, mask prompts and tokens as sparse and dense prompts for the mask decoder.

Follows model/segment_anything_training/modeling/prompt_encoder.py:73-160, 177-220, with the mask strides
of model/backbone/__init__.py:119-170. Where the official code concatenates whatever an image has, every
image has the same slots here and `sparse_valid` says which are read.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from segic_jax.config import ModelConfig
from segic_jax.models.layers import Embedding, LayerNorm2d, PatchConv, bilinear_weights, gelu
from segic_jax.models.params import AnyArray


class Prompts(NamedTuple):
    """Hold the prompts of each concept."""

    sparse: Float[Array, "batch concepts slots width"]
    sparse_valid: Bool[Array, "batch concepts slots"]
    dense: Float[Array, "batch concepts grid grid width"]  # added to the image embedding


class PromptEncoder(nnx.Module):
    """Encode prompts as SAM does; positions are pixels of the canvas."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.canvas = config.canvas
        self.grid = config.grid
        width, channels = config.head.width, config.head.mask_channels
        self.pe_layer = FourierPosition(width, rngs=rngs)
        # 0: background point, 1: foreground point, 2 and 3: corners of a box
        self.point_embeddings = nnx.List(Embedding(1, width, rngs=rngs) for _ in range(4))
        self.not_a_point_embed = Embedding(1, width, rngs=rngs)
        self.no_mask_embed = Embedding(1, width, rngs=rngs)
        # The two strides together are the patch size, so that the mask meets the backbone's grid.
        self.mask_downscaling = nnx.List(
            [
                PatchConv(config.backbone.stride // 2, config.mask_prompts, channels // 4, rngs=rngs),
                LayerNorm2d(channels // 4, reduction_axes=-3, feature_axes=-3, rngs=rngs),
                gelu,
                PatchConv(2, channels // 4, channels, rngs=rngs),
                LayerNorm2d(channels, reduction_axes=-3, feature_axes=-3, rngs=rngs),
                gelu,
                PatchConv(1, channels, width, rngs=rngs),
            ]
        )

    def __call__(
        self,
        *,
        points: Float[AnyArray, "batch concepts points 2"] | None,
        point_labels: Int[AnyArray, "batch concepts points"] | None,
        boxes: Float[AnyArray, "batch concepts 4"] | None,
        use_box: Bool[AnyArray, " batch"] | None,
        masks: Float[AnyArray, "batch concepts maps side side"] | None,
        tokens: Float[AnyArray, "batch concepts tokens width"],
        tokens_valid: Bool[AnyArray, "batch concepts tokens"],
        points_valid: Bool[AnyArray, "batch concepts points"] | None = None,
    ) -> Prompts:
        """Return the prompts, with slots in this order: points, padding point, two box corners, tokens.

        Args:
            points: (x, y) pixels; None for neither points nor the padding point.
            point_labels: 1 foreground, 0 background, -1 not a point.
            boxes: (x0, y0, x1, y1) pixels; None for no corner slots.
            use_box: images whose boxes are read; the others read the padding point instead, as SAM does
                for points without a box. None: all of them if there are boxes.
            masks: mask prompts (the similarity maps), any range; of the canvas's size or smaller, then they
                count as enlarged to it (bilinear). None for the learned "no mask".
            tokens: text and instance tokens.
            tokens_valid: which of them are read.
            points_valid: which points are read; all of them if None.
        """
        batch, concepts = tokens.shape[:2]
        if use_box is None:
            use_box = jnp.full(batch, boxes is not None)
        slots, valid = [], []
        if points is not None and point_labels is not None:
            slots.append(self._embed_points(points, point_labels))
            slots.append(
                jnp.broadcast_to(
                    self.not_a_point_embed.embedding[...], (batch, concepts, 1, tokens.shape[-1])
                )
            )
            valid.append(jnp.ones(point_labels.shape, bool) if points_valid is None else points_valid)
            valid.append(_rows(~use_box, concepts, 1))
        if boxes is not None:
            slots.append(self._embed_boxes(boxes))
            valid.append(_rows(use_box, concepts, 2))
        return Prompts(
            sparse=jnp.concatenate([*slots, tokens], axis=2),
            sparse_valid=jnp.concatenate([*valid, tokens_valid], axis=2),
            dense=self._embed_masks(masks, batch, concepts),
        )

    def dense_position(self) -> Float[Array, "grid grid width"]:
        """Return the position encoding of the patch centres."""
        centres = (jnp.arange(self.grid) + 0.5) / self.grid
        x, y = jnp.meshgrid(centres, centres)
        return self.pe_layer(jnp.stack([x, y], axis=-1))

    def _position(self, pixels):
        return self.pe_layer((pixels + 0.5) / self.canvas)  # + 0.5: the pixel's centre

    def _embed_points(self, points, labels):
        labels = labels[..., None]
        background, foreground = (self.point_embeddings[i].embedding[0] for i in (0, 1))
        embedded = self._position(points) + jnp.where(labels == 1, foreground, background)
        return jnp.where(labels == -1, self.not_a_point_embed.embedding[0], embedded)

    def _embed_boxes(self, boxes):
        corners = self._position(boxes.reshape(*boxes.shape[:-1], 2, 2))
        return corners + jnp.stack([self.point_embeddings[i].embedding[0] for i in (2, 3)])

    def _embed_masks(self, masks, batch, concepts):
        if masks is None:
            no_mask = self.no_mask_embed.embedding[0]
            return jnp.broadcast_to(no_mask, (batch, concepts, self.grid, self.grid, *no_mask.shape))
        first, second, third = (layer for layer in self.mask_downscaling if isinstance(layer, PatchConv))
        norms = [layer for layer in self.mask_downscaling if isinstance(layer, nnx.LayerNorm)]
        assert first.bias is not None
        assert second.bias is not None
        assert third.bias is not None
        # Neither the map on the canvas nor its patches are made: with rows R and columns C of the resize by
        # their place in a patch, the first convolution is the sum over that place of (R map) (C kernel).
        grid, size = self.grid, first.size
        resize = bilinear_weights(masks.shape[-1], self.canvas)
        resize = resize.reshape(grid, 2, size, -1)  # [patch, half, pixel of the half, pixel of the map]
        columns = jnp.einsum("xymo,ghyw->xomhgw", first.kernel[...], resize)
        rows = jnp.einsum("ghxv,...vw->...hgxw", resize, masks)
        # [..., half row, channels, patch row, (half column, patch column)]: a wide last axis.
        x = jnp.einsum("...mhgxw,xomcw->...hogc", rows, columns.reshape(*columns.shape[:3], 2 * grid, -1))
        x = gelu(norms[0](x + first.bias[:, None, None]))
        x = x.reshape(*x.shape[:-1], 2, grid)
        x = jnp.einsum("...higwc,hwio->...ogc", x, second.kernel[...])
        x = gelu(norms[1](x + second.bias[:, None, None]))
        return jnp.einsum("...igc,io->...gco", x, third.kernel[0, 0]) + third.bias[...]


class FourierPosition(nnx.Module):
    """Encode a position by random Fourier features; the matrix is never trained."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(1.0)
        self.positional_encoding_gaussian_matrix = nnx.Param(init(rngs.params(), (2, width // 2)))

    def __call__(self, position: Float[Array, "*batch 2"]) -> Float[Array, "*batch width"]:
        """Encode `position`, (x, y) in 0..1."""
        angles = 2 * jnp.pi * ((2 * position - 1) @ self.positional_encoding_gaussian_matrix[...])
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def _rows(flags, concepts: int, slots: int):
    """Broadcast [batch] to [batch, concepts, slots]."""
    return jnp.broadcast_to(flags[:, None, None], (*flags.shape, concepts, slots))
