"""Run DINOv2's vision transformer: pixels on a canvas -> normalised patch tokens on a grid.

Attribute names are the official ones (dinov2/models/vision_transformer.py), so weights port by name.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segic_jax.config import DinoV3Config, ViTConfig
from segic_jax.models.attention import attention
from segic_jax.models.layers import (
    LayerNorm,
    Linear,
    PatchConv,
    bicubic_antialias_weights,
    bicubic_weights,
    gelu,
    separable,
)
from segic_jax.models.params import AnyArray

_normal = nnx.initializers.truncated_normal(0.02)


class ViTFeatures(NamedTuple):
    """Hold the tokens after the last norm, and all of them before it (class, registers, patches)."""

    patches: Float[Array, "batch rows columns channels"]
    class_token: Float[Array, "batch channels"]
    registers: Float[Array, "batch registers channels"]
    before_norm: Float[Array, "batch tokens channels"]
    fine: tuple[()] = ()  # there are no finer levels than the patches


class DinoVisionTransformer(nnx.Module):
    """Run the backbone on any canvas that the patch size divides."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.config = config
        width = config.width
        self.patch_embed = PatchEmbed(config, rngs=rngs)
        self.cls_token = nnx.Param(_normal(rngs.params(), (1, 1, width)))
        self.pos_embed = nnx.Param(_normal(rngs.params(), (1, config.pos_grid**2 + 1, width)))
        self.register_tokens = (
            nnx.Param(_normal(rngs.params(), (1, config.num_registers, width)))
            if config.num_registers
            else None
        )
        self.blocks = nnx.List(Block(config, rngs=rngs) for _ in range(config.depth))
        self.norm = LayerNorm(width, epsilon=1e-6, rngs=rngs)

    def __call__(self, images: Float[AnyArray, "batch height width 3"]) -> ViTFeatures:
        """Return the features of normalised images (zero mean, unit variance, padding 0)."""
        rows, columns = (side // self.config.patch_size for side in images.shape[1:3])
        x = self.embed(images)
        for block in self.blocks:
            x = block(x)
        normed = self.norm(x)
        registers = self.config.num_registers
        return ViTFeatures(
            patches=normed[:, 1 + registers :].reshape(x.shape[0], rows, columns, -1),
            class_token=normed[:, 0],
            registers=normed[:, 1 : 1 + registers],
            before_norm=x,
        )

    def embed(self, images: Float[AnyArray, "batch height width 3"]) -> Float[Array, "batch tokens channels"]:
        """Return class token, registers and patches, with their positions, before the first block."""
        x = self.patch_embed(images)
        batch, rows, columns, width = x.shape
        x = x.reshape(batch, rows * columns, width)
        x = jnp.concatenate([jnp.broadcast_to(self.cls_token, (batch, 1, width)), x], axis=1)
        x = x + self.interpolated_pos_embed(rows, columns)
        registers = self.config.num_registers
        if self.register_tokens is not None:
            tokens = jnp.broadcast_to(self.register_tokens[...], (batch, registers, width))
            x = jnp.concatenate([x[:, :1], tokens, x[:, 1:]], axis=1)
        return x

    def interpolated_pos_embed(self, rows: int, columns: int) -> Float[Array, "1 tokens channels"]:
        """Resample the stored square grid of positions to [rows, columns], class position first."""
        side = self.config.pos_grid
        if (rows, columns) == (side, side):
            return self.pos_embed[...]
        grid = self.pos_embed[:, 1:].reshape(1, side, side, -1)
        if self.config.pos_antialias:
            grid = separable(
                grid, bicubic_antialias_weights(side, rows), bicubic_antialias_weights(side, columns)
            )
        else:
            offset = self.config.pos_offset
            grid = separable(
                grid, bicubic_weights(side, rows, offset), bicubic_weights(side, columns, offset)
            )
        return jnp.concatenate([self.pos_embed[:, :1], grid.reshape(1, rows * columns, -1)], axis=1)


class PatchEmbed(nnx.Module):
    """Embed each patch as a token."""

    def __init__(self, config: ViTConfig | DinoV3Config, *, rngs: nnx.Rngs):
        self.proj = PatchConv(config.patch_size, 3, config.width, rngs=rngs)

    def __call__(
        self, images: Float[AnyArray, "batch height width 3"]
    ) -> Float[Array, "batch rows columns _"]:
        return self.proj(images)


class Block(nnx.Module):
    """Apply pre-norm attention and feed-forward, each scaled by a learned vector."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(config.width, epsilon=1e-6, rngs=rngs)
        self.attn = SelfAttention(config, rngs=rngs)
        self.ls1 = LayerScale(config.width)
        self.norm2 = LayerNorm(config.width, epsilon=1e-6, rngs=rngs)
        self.mlp = (SwiGLU if config.ffn == "swiglu" else FeedForward)(config, rngs=rngs)
        self.ls2 = LayerScale(config.width)

    def __call__(self, x: Float[Array, "batch tokens channels"]) -> Float[Array, "batch tokens channels"]:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class SelfAttention(nnx.Module):
    """Attend with q, k and v from one linear layer, heads inside each."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.heads = config.num_heads
        self.qkv = Linear(config.width, 3 * config.width, kernel_init=_normal, rngs=rngs)
        self.proj = Linear(config.width, config.width, kernel_init=_normal, rngs=rngs)

    def __call__(self, x: Float[Array, "batch tokens channels"]) -> Float[Array, "batch tokens channels"]:
        qkv = self.qkv(x).reshape(*x.shape[:-1], 3, self.heads, -1)
        out = attention(*(qkv[..., i, :, :] for i in range(3)))
        return self.proj(out.reshape(x.shape))


class FeedForward(nnx.Module):
    """Apply two layers with exact GELU."""

    def __init__(self, config: ViTConfig | DinoV3Config, *, rngs: nnx.Rngs):
        self.fc1 = Linear(config.width, config.ffn_hidden, kernel_init=_normal, rngs=rngs)
        self.fc2 = Linear(config.ffn_hidden, config.width, kernel_init=_normal, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
        return self.fc2(gelu(self.fc1(x)))


class SwiGLU(nnx.Module):
    """Apply the giant model's feed-forward: silu of the first half times the second."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.w12 = Linear(config.width, 2 * config.ffn_hidden, kernel_init=_normal, rngs=rngs)
        self.w3 = Linear(config.ffn_hidden, config.width, kernel_init=_normal, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
        gate, value = jnp.split(self.w12(x), 2, axis=-1)
        return self.w3(jax.nn.silu(gate) * value)


class LayerScale(nnx.Module):
    """Scale each channel by a learned factor."""

    def __init__(self, width: int):
        self.gamma = nnx.Param(jnp.ones(width))

    def __call__(self, x: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
        return x * self.gamma[...]
