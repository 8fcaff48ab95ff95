"""Decode neck features and prompts to mask logits at four times the grid, and predicted IoUs.

Follows model/segment_anything_training/modeling/mask_decoder.py and transformer.py, with three extensions: a
batch holds several concepts of each image; a token that is not valid is masked as a key in every attention
that reads tokens, so it changes nothing; and finer levels of the backbone, where it has them, are added while
the embedding is upscaled (sam2/modeling/sam/mask_decoder.py of SAM 2).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from segic_jax.config import HeadConfig, ModelConfig
from segic_jax.models.attention import attention
from segic_jax.models.layers import (
    MLP,
    Embedding,
    LayerNorm,
    LayerNorm2d,
    Linear,
    UpConv,
    gelu,
    pixel_shuffle,
)
from segic_jax.models.params import AnyArray
from segic_jax.models.prompt_encoder import Prompts

_NORM_EPSILON = 1e-5  # torch's default; LayerNorm2d in the upscaling has 1e-6


class MaskDecoder(nnx.Module):
    """Predict masks as SAM does: each mask token becomes a filter over the upscaled image embedding."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        head = config.head
        width, masks = head.width, head.num_mask_tokens
        self.transformer = TwoWayTransformer(head, rngs=rngs)
        self.iou_token = Embedding(1, width, rngs=rngs)
        self.mask_tokens = Embedding(masks, width, rngs=rngs)
        self.output_upscaling = nnx.List(
            [
                UpConv(width, width // 4, rngs=rngs),
                LayerNorm2d(width // 4, reduction_axes=-2, feature_axes=-2, rngs=rngs),  # over the channels
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
        image: Float[AnyArray, "batch grid grid width"],
        image_position: Float[AnyArray, "grid grid width"],
        prompts: Prompts,
        masks: int | None = None,
        fine: Sequence[Float[Array, "batch ... pixels"]] = (),
    ) -> tuple[Float[Array, "batch concepts masks size size"], Float[Array, "batch concepts masks"]]:
        """Return logits (foreground above 0) and predicted IoUs of the mask tokens.

        SegIC uses mask token 0, or with a task indicator 0 for classes and 1 for instances
        (mask_decoder.py:103-110).

        Args:
            masks: of the first so many mask tokens; all if None.
            fine: finer levels in the arrangement of `UpConv`; see `layers.pixel_unshuffle`.
        """
        batch, concepts, _, width = prompts.sparse.shape
        grid = image.shape[1]
        output_tokens = jnp.concatenate([self.iou_token.embedding[...], self.mask_tokens.embedding[...]])
        output_tokens = jnp.broadcast_to(output_tokens, (batch, concepts, *output_tokens.shape))
        tokens = jnp.concatenate([output_tokens, prompts.sparse], axis=2)
        valid = jnp.concatenate([jnp.ones(output_tokens.shape[:3], bool), prompts.sparse_valid], axis=2)

        # The dense prompt differs between concepts: from here on each has its own image embedding.
        embedding = (image[:, None] + prompts.dense).reshape(batch, concepts, grid * grid, width)
        tokens, embedding = self.transformer(
            embedding, image_position.reshape(grid * grid, width), tokens, valid
        )
        mlps = self.output_hypernetworks_mlps[:masks]
        iou_token, mask_tokens = tokens[:, :, 0], tokens[:, :, 1 : 1 + len(mlps)]

        embedding = jnp.swapaxes(embedding, 2, 3)  # [batch, concepts, width, pixels]
        levels = iter(fine)
        for layer in self.output_upscaling:
            embedding = layer(embedding)  # [batch, concepts, 2, 2, 2, 2, channels, pixels] after the last one
            if isinstance(layer, UpConv) and (level := next(levels, None)) is not None:
                embedding = embedding + level[:, None]
        filters = jnp.stack([mlp(mask_tokens[:, :, i]) for i, mlp in enumerate(mlps)], axis=2)
        logits = filters[:, :, None, None, None, None] @ embedding  # masks in place of channels
        return pixel_shuffle(jnp.moveaxis(logits, -2, 2), grid, times=2), self.iou_prediction_head(iou_token)[
            ..., : len(mlps)
        ]


class TwoWayTransformer(nnx.Module):
    """Let tokens attend to the image embedding and the image embedding to the tokens, in turn."""

    def __init__(self, config: HeadConfig, *, rngs: nnx.Rngs):
        self.layers = nnx.List(
            TwoWayAttentionBlock(config, skip_first_layer_pe=i == 0, rngs=rngs) for i in range(config.depth)
        )
        self.final_attn_token_to_image = Attention(config, cross=True, rngs=rngs)
        self.norm_final_attn = LayerNorm(config.width, epsilon=_NORM_EPSILON, rngs=rngs)

    def __call__(
        self,
        image: Float[Array, "batch concepts patches width"],
        image_position: Float[Array, "patches width"],
        tokens: Float[Array, "batch concepts tokens width"],
        valid: Bool[Array, "batch concepts tokens"],
    ) -> tuple[Float[Array, "batch concepts tokens width"], Float[Array, "batch concepts patches width"]]:
        """Return the processed tokens and image embedding; the tokens are their own position encoding."""
        queries, keys = tokens, image
        for layer in self.layers:
            queries, keys = layer(queries, keys, tokens, image_position, valid)
        attended = self.final_attn_token_to_image(queries + tokens, keys + image_position, keys)
        return self.norm_final_attn(queries + attended), keys


class TwoWayAttentionBlock(nnx.Module):
    """Apply token self-attention, token-to-image attention, an MLP, and image-to-token attention."""

    def __init__(self, config: HeadConfig, *, skip_first_layer_pe: bool, rngs: nnx.Rngs):
        def norm():
            return LayerNorm(config.width, epsilon=_NORM_EPSILON, rngs=rngs)

        self.skip_first_layer_pe = skip_first_layer_pe
        self.self_attn = Attention(config, cross=False, rngs=rngs)
        self.norm1 = norm()
        self.cross_attn_token_to_image = Attention(config, cross=True, rngs=rngs)
        self.norm2 = norm()
        self.mlp = MLPBlock(config, rngs=rngs)
        self.norm3 = norm()
        self.norm4 = norm()
        self.cross_attn_image_to_token = Attention(config, cross=True, rngs=rngs)

    def __call__(
        self,
        queries: Float[Array, "batch concepts tokens width"],
        keys: Float[Array, "batch concepts patches width"],
        query_position: Float[Array, "batch concepts tokens width"],
        key_position: Float[Array, "patches width"],
        valid: Bool[Array, "batch concepts tokens"],
    ) -> tuple[Float[Array, "batch concepts tokens width"], Float[Array, "batch concepts patches width"]]:
        """Return the updated tokens (queries) and image embedding (keys)."""
        if self.skip_first_layer_pe:  # without residual connection, too (transformer.py:288-295)
            queries = self.self_attn(queries, queries, queries, valid)
        else:
            q = queries + query_position
            queries = queries + self.self_attn(q, q, queries, valid)
        queries = self.norm1(queries)

        q, k = queries + query_position, keys + key_position
        queries = self.norm2(queries + self.cross_attn_token_to_image(q, k, keys))
        queries = self.norm3(queries + self.mlp(queries))

        q = queries + query_position
        return queries, self.norm4(keys + self.cross_attn_image_to_token(k, q, queries, valid))


class Attention(nnx.Module):
    """Attend with several heads; cross-attention runs at a smaller inner width."""

    def __init__(self, config: HeadConfig, *, cross: bool, rngs: nnx.Rngs):
        self.heads = config.num_heads
        inner = config.width // (config.cross_attention_downsample if cross else 1)
        self.q_proj = Linear(config.width, inner, rngs=rngs)
        self.k_proj = Linear(config.width, inner, rngs=rngs)
        self.v_proj = Linear(config.width, inner, rngs=rngs)
        self.out_proj = Linear(inner, config.width, rngs=rngs)

    def __call__(
        self,
        q: Float[Array, "batch concepts queries width"],
        k: Float[Array, "batch concepts keys width"],
        v: Float[Array, "batch concepts keys width"],
        valid: Bool[Array, "batch concepts keys"] | None = None,
    ) -> Float[Array, "batch concepts queries width"]:
        """Return what the queries read from `v`; keys that are not `valid` are ignored."""
        projected = (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        q, k, v = (x.reshape(*x.shape[:-1], self.heads, -1) for x in projected)
        out = attention(q, k, v, None if valid is None else valid[:, :, None, None])
        return self.out_proj(out.reshape(*out.shape[:-2], -1))


class MLPBlock(nnx.Module):
    """Apply two linear layers with ReLU between them."""

    def __init__(self, config: HeadConfig, *, rngs: nnx.Rngs):
        self.lin1 = Linear(config.width, config.mlp_width, rngs=rngs)
        self.lin2 = Linear(config.mlp_width, config.width, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        return self.lin2(jax.nn.relu(self.lin1(x)))
