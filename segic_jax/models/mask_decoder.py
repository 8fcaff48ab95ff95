"""Neck features and prompts -> mask logits at four times the grid, and predicted IoUs.

Follows model/segment_anything_training/modeling/mask_decoder.py and transformer.py. A slot that is not
valid is masked as a key in every attention that reads tokens, so it changes nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from segic_jax.config import HeadConfig, ModelConfig
from segic_jax.models.attention import attention
from segic_jax.models.layers import MLP, Embedding, LayerNorm, LayerNorm2d, Linear, UpConv, gelu, interleaved
from segic_jax.models.prompt_encoder import DensePrompt, Prompts

_norm_epsilon = 1e-5  # torch's default; the upscaling's LayerNorm2d has 1e-6


class MaskDecoder(nnx.Module):
    """SAM's mask decoder: tokens and image look at each other, then each mask token is a filter."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        head = config.head
        width, masks = head.width, head.num_mask_tokens
        self.transformer = TwoWayTransformer(head, rngs=rngs)
        self.iou_token = Embedding(1, width, rngs=rngs)
        self.mask_tokens = Embedding(masks, width, rngs=rngs)
        self.output_upscaling = nnx.List(
            [
                UpConv(width, width // 4, rngs=rngs),
                LayerNorm2d(width // 4, rngs=rngs),
                gelu,
                UpConv(width // 4, width // 8, rngs=rngs),
                gelu,
            ]
        )
        self.output_hypernetworks_mlps = nnx.List(
            MLP(width, width, width // 8, 3, rngs=rngs) for _ in range(masks)
        )
        self.iou_prediction_head = MLP(width, head.iou_width, masks, head.iou_depth, rngs=rngs)

    def __call__(
        self,
        image: Float[Array, "batch grid grid width"],
        image_position: Float[Array, "grid grid width"],
        prompts: Prompts,
    ) -> tuple[Float[Array, "batch concepts masks size size"], Float[Array, "batch concepts masks"]]:
        """Logits (foreground above 0) and predicted IoUs of every mask token.

        SegIC uses token 0, or with a task indicator 0 for classes and 1 for instances
        (mask_decoder.py:103-110).
        """
        batch, concepts = prompts.sparse.shape[:2]
        own = jnp.concatenate([self.iou_token.embedding[...], self.mask_tokens.embedding[...]])
        tokens = jnp.concatenate(
            [jnp.broadcast_to(own, (batch, concepts, *own.shape)), prompts.sparse], axis=2
        )
        valid = jnp.pad(prompts.sparse_valid, ((0, 0), (0, 0), (own.shape[0], 0)), constant_values=True)

        tokens, pixels = self.transformer(image, image_position, prompts.dense, tokens, valid)
        for layer in self.output_upscaling:
            pixels = layer(pixels)
        filters = [mlp(tokens[:, :, 1 + i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)]
        logits = jnp.swapaxes(pixels @ jnp.stack(filters, axis=3), 2, 3)  # [batch, concepts, masks, pixels]
        return interleaved(logits, image.shape[1], 2), self.iou_prediction_head(tokens[:, :, 0])


class TwoWayTransformer(nnx.Module):
    """Tokens read the image and the image reads the tokens, in turn."""

    def __init__(self, config: HeadConfig, *, rngs: nnx.Rngs):
        self.layers = nnx.List(
            TwoWayAttentionBlock(config, first=i == 0, rngs=rngs) for i in range(config.depth)
        )
        self.final_attn_token_to_image = Attention(config, cross=True, rngs=rngs)
        self.norm_final_attn = LayerNorm(config.width, epsilon=_norm_epsilon, rngs=rngs)

    def __call__(
        self,
        image: Float[Array, "batch grid grid width"],
        image_position: Float[Array, "grid grid width"],
        dense: DensePrompt,
        tokens: Float[Array, "batch concepts tokens width"],
        valid: Bool[Array, "batch concepts tokens"],
    ) -> tuple[Float[Array, "batch concepts tokens width"], Float[Array, "batch concepts cells width"]]:
        """Returns tokens and image after both have read each other."""
        position, valid = tokens, valid[:, :, None, None, :]  # the tokens are their own positions
        first, *others = self.layers
        shared = image[:, None] + dense.bias
        seen = first.projection(image_position).of_sum(shared, dense)
        cells = shared + dense.features @ dense.kernel
        cells = cells.reshape(*cells.shape[:2], -1, cells.shape[-1])
        tokens, cells = first(tokens, cells, seen, position, valid)
        for layer in others:
            seen = layer.projection(image_position).of(cells)
            tokens, cells = layer(tokens, cells, seen, position, valid)
        final = self.final_attn_token_to_image
        seen = ImageProjection.made(image_position, final.k_proj, final.v_proj).of(cells)
        read = final.read(final.q_proj(tokens + position), seen.keys, seen.values)
        return self.norm_final_attn(tokens + read), cells


class Seen(NamedTuple):
    """What tokens read of the image, and what the image asks of them: [batch, concepts, cells, inner]."""

    keys: Array
    values: Array
    queries: Array | None = None


class ImageProjection(NamedTuple):
    """Keys and queries of the cells at their positions, and values of the cells alone.

    A product of a sum is a sum of products: that of the positions is the same for all concepts.
    """

    kernels: tuple[Float[Array, "width inner"], ...]  # of keys, values and, perhaps, queries
    offsets: tuple[Float[Array, "#cells inner"], ...]

    @classmethod
    def made(cls, position: Array, keys: Linear, values: Linear, queries: Linear | None = None):
        """For the three projections, or for the first two."""
        position = position.reshape(-1, position.shape[-1])
        linears = [keys, values] if queries is None else [keys, values, queries]
        assert values.bias is not None
        return cls(
            tuple(one.kernel[...] for one in linears),
            tuple(values.bias[...][None] if one is values else one(position) for one in linears),
        )

    def of(self, cells: Float[Array, "batch concepts cells width"]) -> Seen:
        """Of cells of each concept's own."""
        return Seen(
            *(cells @ kernel + offset for kernel, offset in zip(self.kernels, self.offsets, strict=True))
        )

    def of_sum(self, shared: Float[Array, "batch 1 grid grid width"], dense: DensePrompt) -> Seen:
        """Of the sum of both; `shared` has the bias of `dense`."""
        shared, own = (x.reshape(*x.shape[:2], -1, x.shape[-1]) for x in (shared, dense.features))
        seen = self.of(shared)
        return Seen(
            *(
                own @ (dense.kernel @ kernel) + of_shared
                for kernel, of_shared in zip(self.kernels, seen, strict=False)
                if of_shared is not None
            )
        )


class TwoWayAttentionBlock(nnx.Module):
    """Self-attention of the tokens, tokens read image, MLP, image reads tokens; norms after each."""

    def __init__(self, config: HeadConfig, *, first: bool, rngs: nnx.Rngs):
        def norm():
            return LayerNorm(config.width, epsilon=_norm_epsilon, rngs=rngs)

        self.first = first
        self.self_attn = Attention(config, cross=False, rngs=rngs)
        self.norm1 = norm()
        self.cross_attn_token_to_image = Attention(config, cross=True, rngs=rngs)
        self.norm2 = norm()
        self.mlp = MLPBlock(config, rngs=rngs)
        self.norm3 = norm()
        self.norm4 = norm()
        self.cross_attn_image_to_token = Attention(config, cross=True, rngs=rngs)

    def projection(self, image_position: Float[Array, "grid grid width"]) -> ImageProjection:
        """Of the image, for both attentions between it and the tokens."""
        reads, asks = self.cross_attn_token_to_image, self.cross_attn_image_to_token
        return ImageProjection.made(image_position, reads.k_proj, reads.v_proj, asks.q_proj)

    def __call__(self, tokens, cells, seen: Seen, position, valid):
        if self.first:  # without positions and without residual (transformer.py:288-295)
            tokens = self.self_attn(tokens, tokens, tokens, valid)
        else:
            placed = tokens + position
            tokens = tokens + self.self_attn(placed, placed, tokens, valid)
        tokens = self.norm1(tokens)
        reads, asks = self.cross_attn_token_to_image, self.cross_attn_image_to_token
        read = reads.read(reads.q_proj(tokens + position), seen.keys, seen.values)
        tokens = self.norm2(tokens + read)
        tokens = self.norm3(tokens + self.mlp(tokens))
        answers = asks.read(seen.queries, asks.k_proj(tokens + position), asks.v_proj(tokens), valid)
        return tokens, self.norm4(cells + answers)


class Attention(nnx.Module):
    """Multi-head attention; cross-attention runs at a smaller inner width."""

    def __init__(self, config: HeadConfig, *, cross: bool, rngs: nnx.Rngs):
        self.heads = config.num_heads
        inner = config.width // (config.cross_attention_downsample if cross else 1)
        self.q_proj = Linear(config.width, inner, rngs=rngs)
        self.k_proj = Linear(config.width, inner, rngs=rngs)
        self.v_proj = Linear(config.width, inner, rngs=rngs)
        self.out_proj = Linear(inner, config.width, rngs=rngs)

    def __call__(self, q, k, v, valid=None):
        return self.read(self.q_proj(q), self.k_proj(k), self.v_proj(v), valid)

    def read(self, q, k, v, valid=None):
        """From queries, keys and values that are projected already: [batch, concepts, tokens, inner]."""
        q, k, v = (x.reshape(*x.shape[:-1], self.heads, -1) for x in (q, k, v))
        out = attention(q, k, v, valid)
        return self.out_proj(out.reshape(*out.shape[:-2], -1))


class MLPBlock(nnx.Module):
    """Two layers with ReLU."""

    def __init__(self, config: HeadConfig, *, rngs: nnx.Rngs):
        self.lin1 = Linear(config.width, config.mlp_width, rngs=rngs)
        self.lin2 = Linear(config.mlp_width, config.width, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        return self.lin2(jax.nn.relu(self.lin1(x)))
