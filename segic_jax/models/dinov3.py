"""Run DINOv3's vision transformer: pixels on a canvas -> normalised patch tokens on a grid.

Positions are not added to tokens: they turn the queries and keys of patches in every block (RoPE).
Attribute names are the official ones (dinov3/models/vision_transformer.py), so weights port by name.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from segic_jax.config import DinoV3Config
from segic_jax.models.attention import attention
from segic_jax.models.layers import LayerNorm, Linear
from segic_jax.models.params import AnyArray
from segic_jax.models.vit import FeedForward, LayerScale, PatchEmbed, ViTFeatures

_normal = nnx.initializers.truncated_normal(0.02)
_NORM_EPSILON = 1e-5


class Rotation(NamedTuple):
    """Hold the angles by which the channels of each token are turned; class token and registers stay."""

    sin: Float[Array, "tokens 1 channels"]
    cos: Float[Array, "tokens 1 channels"]


class DinoV3(nnx.Module):
    """Run the backbone on any canvas that the patch size divides."""

    def __init__(self, config: DinoV3Config, *, rngs: nnx.Rngs):
        self.config = config
        self.patch_embed = PatchEmbed(config, rngs=rngs)
        self.cls_token = nnx.Param(_normal(rngs.params(), (1, 1, config.width)))
        self.storage_tokens = (
            nnx.Param(_normal(rngs.params(), (1, config.num_registers, config.width)))
            if config.num_registers
            else None
        )
        self.rope_embed = RotaryPositions(config.width // config.num_heads)
        self.blocks = nnx.List(Block(config, rngs=rngs) for _ in range(config.depth))
        self.norm = LayerNorm(config.width, epsilon=_NORM_EPSILON, rngs=rngs)

    def __call__(self, images: Float[AnyArray, "batch height width 3"]) -> ViTFeatures:
        """Return the features of normalised images (zero mean, unit variance, padding 0)."""
        x = self.patch_embed(images)
        batch, rows, columns, width = x.shape
        tokens = [self.cls_token[...], *([] if self.storage_tokens is None else [self.storage_tokens[...]])]
        before = [jnp.broadcast_to(token, (batch, *token.shape[1:])) for token in tokens]
        x = jnp.concatenate([*before, x.reshape(batch, rows * columns, width)], axis=1)
        registers = self.config.num_registers
        rotation = self.rope_embed(rows, columns, 1 + registers)
        for block in self.blocks:
            x = block(x, rotation)
        normed = self.norm(x)
        return ViTFeatures(
            patches=normed[:, 1 + registers :].reshape(batch, rows, columns, width),
            class_token=normed[:, 0],
            registers=normed[:, 1 : 1 + registers],
            before_norm=x,
        )


class RotaryPositions(nnx.Module):
    """Give each patch angles that grow with its row, then with its column, at several frequencies.

    Centres of patches have coordinates from -1 to 1 along each side, whatever its length.
    """

    def __init__(self, channels: int):
        self.channels = channels
        self.periods = nnx.Param(jnp.asarray(rotary_periods(channels // 4)))

    def __call__(self, rows: int, columns: int, unmoved: int) -> Rotation:
        """Return the rotation of every token; the first `unmoved` are no patches."""
        periods = self.periods[...].astype(jnp.float32)
        y, x = (2 * (np.arange(side) + 0.5) / side - 1 for side in (rows, columns))
        places = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(rows * columns, 2, 1)
        angles = 2 * math.pi * places.astype(np.float32) / periods
        angles = jnp.tile(angles.reshape(rows * columns, self.channels // 2), 2)
        angles = jnp.pad(angles, [(unmoved, 0), (0, 0)])[:, None]
        return Rotation(jnp.sin(angles), jnp.cos(angles))


def rotary_periods(number: int, base: float = 100.0) -> Float[np.ndarray, " number"]:
    """Return the periods of the published models, from 1 up to `base`."""
    return (base ** (np.arange(number) / number)).astype(np.float32)


def rotate(
    x: Float[Array, "batch tokens heads channels"], rotation: Rotation
) -> Float[Array, "batch tokens heads channels"]:
    """Turn each pair of channels, half a head apart, by its angle, in float32."""
    values = x.astype(jnp.float32)
    first, second = jnp.split(values, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return (values * rotation.cos + turned * rotation.sin).astype(x.dtype)


class Block(nnx.Module):
    """Apply pre-norm attention and feed-forward, each scaled by a learned vector."""

    def __init__(self, config: DinoV3Config, *, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(config.width, epsilon=_NORM_EPSILON, rngs=rngs)
        self.attn = RotarySelfAttention(config, rngs=rngs)
        self.ls1 = LayerScale(config.width)
        self.norm2 = LayerNorm(config.width, epsilon=_NORM_EPSILON, rngs=rngs)
        self.mlp = (GatedFeedForward if config.ffn == "swiglu" else FeedForward)(config, rngs=rngs)
        self.ls2 = LayerScale(config.width)

    def __call__(
        self, x: Float[Array, "batch tokens channels"], rotation: Rotation
    ) -> Float[Array, "batch tokens channels"]:
        x = x + self.ls1(self.attn(self.norm1(x), rotation))
        return x + self.ls2(self.mlp(self.norm2(x)))


class RotarySelfAttention(nnx.Module):
    """Attend with q, k and v from one linear layer, whose queries and keys are turned by their positions."""

    def __init__(self, config: DinoV3Config, *, rngs: nnx.Rngs):
        self.heads = config.num_heads
        self.qkv = Linear(config.width, 3 * config.width, kernel_init=_normal, rngs=rngs)
        self.proj = Linear(config.width, config.width, kernel_init=_normal, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch tokens channels"], rotation: Rotation
    ) -> Float[Array, "batch tokens channels"]:
        qkv = self.qkv(x).reshape(*x.shape[:-1], 3, self.heads, -1)
        q, k, v = (qkv[..., i, :, :] for i in range(3))
        out = attention(rotate(q, rotation), rotate(k, rotation), v)
        return self.proj(out.reshape(x.shape))


class GatedFeedForward(nnx.Module):
    """Apply SwiGLU with a layer for the gate and one for the values."""

    def __init__(self, config: DinoV3Config, *, rngs: nnx.Rngs):
        self.w1 = Linear(config.width, config.ffn_hidden, kernel_init=_normal, rngs=rngs)
        self.w2 = Linear(config.width, config.ffn_hidden, kernel_init=_normal, rngs=rngs)
        self.w3 = Linear(config.ffn_hidden, config.width, kernel_init=_normal, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
        return self.w3(jax.nn.silu(self.w1(x)) * self.w2(x))
