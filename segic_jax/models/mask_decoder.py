"""Neck features and prompts -> mask logits at four times the grid, and predicted IoUs.

Follows model/segment_anything_training/modeling/mask_decoder.py and transformer.py. A slot that is not
valid is masked as a key in every attention that reads tokens, so it changes nothing.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from segic_jax.config import HeadConfig, ModelConfig
from segic_jax.models.attention import attention
from segic_jax.models.layers import MLP, Embedding, LayerNorm, LayerNorm2d, Linear, UpConv, gelu
from segic_jax.models.prompt_encoder import Prompts

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

        cells = image[:, None] + prompts.dense
        tokens, flat = self.transformer(
            cells.reshape(batch, concepts, -1, cells.shape[-1]),
            image_position.reshape(-1, image_position.shape[-1]),
            tokens,
            valid,
        )
        upscaled = flat.reshape(cells.shape)
        for layer in self.output_upscaling:
            upscaled = layer(upscaled)
        filters = [mlp(tokens[:, :, 1 + i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)]
        logits = jnp.einsum("bkmc,bkhwc->bkmhw", jnp.stack(filters, axis=2), upscaled)
        return logits, self.iou_prediction_head(tokens[:, :, 0])


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
        image: Float[Array, "batch concepts cells width"],
        image_position: Float[Array, "cells width"],
        tokens: Float[Array, "batch concepts tokens width"],
        valid: Bool[Array, "batch concepts tokens"],
    ) -> tuple[Float[Array, "batch concepts tokens width"], Float[Array, "batch concepts cells width"]]:
        """Returns tokens and image after both have read each other."""
        position, valid = tokens, valid[:, :, None, None, :]  # the tokens are their own positions
        for layer in self.layers:
            tokens, image = layer(tokens, image, position, image_position, valid)
        read = self.final_attn_token_to_image(tokens + position, image + image_position, image)
        return self.norm_final_attn(tokens + read), image


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

    def __call__(self, tokens, image, position, image_position, valid):
        if self.first:  # without positions and without residual (transformer.py:288-295)
            tokens = self.self_attn(tokens, tokens, tokens, valid)
        else:
            placed = tokens + position
            tokens = tokens + self.self_attn(placed, placed, tokens, valid)
        tokens = self.norm1(tokens)
        placed_image = image + image_position
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + position, placed_image, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = image + self.cross_attn_image_to_token(placed_image, tokens + position, tokens, valid)
        return tokens, self.norm4(image)


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
        q, k, v = self.q_proj(q), self.k_proj(k), self.v_proj(v)
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
