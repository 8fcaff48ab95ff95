"""Encode prompts with CLIP's text tower: token ids -> one feature for each prompt.

Attribute names are those of transformers' CLIPTextModel below `text_model`, so weights port by name.
SegIC pools at the end-of-text token, without CLIP's text projection (model/backbone/custom_dino.py:41-54).
"""

from functools import cache
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from segic_jax.config import TextConfig
from segic_jax.models.attention import attention
from segic_jax.models.layers import Embedding, LayerNorm, Linear, quick_gelu
from segic_jax.models.params import AnyArray, Template

_norm_epsilon = 1e-5


class TextFeatures(NamedTuple):
    """Hold the pooled feature, which SegIC reads, the tokens after the final norm, and all layers."""

    pooled: Float[Array, "batch width"]
    tokens: Float[Array, "batch length width"]
    hidden: tuple[Float[Array, "batch length width"], ...]  # embeddings, then after each layer


class ClipText(nnx.Module):
    """Encode prompts with the text tower."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        self.eos_id = config.eos_id
        self.embeddings = TextEmbeddings(config, rngs=rngs)
        self.encoder = TextEncoder(config, rngs=rngs)
        self.final_layer_norm = LayerNorm(config.width, epsilon=_norm_epsilon, rngs=rngs)

    def __call__(
        self, ids: Int[AnyArray, "batch length"], attention_mask: Bool[AnyArray, "batch length"]
    ) -> TextFeatures:
        """Return the features; `attention_mask` is False on padding.

        A prompt is pooled at its first end-of-text token.
        """
        hidden = self.encoder(self.embeddings(ids), attention_mask)
        tokens = self.final_layer_norm(hidden[-1])
        end = jnp.argmax(ids == self.eos_id, axis=1)
        pooled = jnp.take_along_axis(tokens, end[:, None, None], axis=1)[:, 0]
        return TextFeatures(pooled, tokens, hidden)


@cache
def text_template(config: TextConfig) -> Template:
    """Return the structure of the tower without its arrays."""
    return Template(lambda rngs: ClipText(config, rngs=rngs))


class TextEmbeddings(nnx.Module):
    """Embed tokens and add learned positions."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        self.token_embedding = Embedding(config.vocab_size, config.width, rngs=rngs)
        self.position_embedding = Embedding(config.max_length, config.width, rngs=rngs)

    def __call__(self, ids: Int[AnyArray, "batch length"]) -> Float[Array, "batch length width"]:
        # Indexed, not called: a call computes in the precision that the module was made with.
        return self.token_embedding.embedding[ids] + self.position_embedding.embedding[: ids.shape[1]]


class TextEncoder(nnx.Module):
    """Apply layers in which a token attends to itself and the ones before it."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        self.layers = nnx.List(TextLayer(config, rngs=rngs) for _ in range(config.depth))

    def __call__(
        self, x: Float[Array, "batch length width"], attention_mask: Bool[Array, "batch length"]
    ) -> tuple[Float[Array, "batch length width"], ...]:
        """Return `x` and the output of each layer."""
        causal = jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool))
        mask = causal & attention_mask[:, None, None, :]  # [batch, heads, queries, keys]
        hidden = [x]
        for layer in self.layers:
            hidden.append(layer(hidden[-1], mask))
        return tuple(hidden)


class TextLayer(nnx.Module):
    """Apply pre-norm attention and feed-forward."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        self.layer_norm1 = LayerNorm(config.width, epsilon=_norm_epsilon, rngs=rngs)
        self.self_attn = TextAttention(config, rngs=rngs)
        self.layer_norm2 = LayerNorm(config.width, epsilon=_norm_epsilon, rngs=rngs)
        self.mlp = TextMLP(config, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch length width"], mask: Bool[Array, "batch 1 length length"]
    ) -> Float[Array, "batch length width"]:
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class TextAttention(nnx.Module):
    """Apply multi-head self-attention."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        self.heads = config.num_heads
        self.q_proj = Linear(config.width, config.width, rngs=rngs)
        self.k_proj = Linear(config.width, config.width, rngs=rngs)
        self.v_proj = Linear(config.width, config.width, rngs=rngs)
        self.out_proj = Linear(config.width, config.width, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch length width"], mask: Bool[Array, "batch 1 length length"]
    ) -> Float[Array, "batch length width"]:
        projected = (proj(x) for proj in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = (part.reshape(*x.shape[:-1], self.heads, -1) for part in projected)
        return self.out_proj(attention(q, k, v, mask).reshape(x.shape))


class TextMLP(nnx.Module):
    """Apply two layers with CLIP's GELU."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        self.fc1 = Linear(config.width, config.mlp_width, rngs=rngs)
        self.fc2 = Linear(config.mlp_width, config.width, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        return self.fc2(quick_gelu(self.fc1(x)))
