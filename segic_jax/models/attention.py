"""Softmax attention with a bounded working set."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

LARGEST = 1024 * 1024  # scores a head; beyond it the [heads, queries, keys] matrix is never held whole
CHUNK = 512  # queries a step then


def attention(
    q: Float[Array, "*batch heads queries channels"],
    k: Float[Array, "*batch heads keys channels"],
    v: Float[Array, "*batch heads keys channels"],
    mask: Bool[Array, "*#batch #heads #queries keys"] | None = None,
) -> Float[Array, "*batch heads queries channels"]:
    """Attention with scores divided by sqrt(channels); keys where `mask` is False are not read.

    Explicit matrix products in this layout are 2-3 times faster on a CPU than
    `jax.nn.dot_product_attention`.
    """
    if q.shape[-2] * k.shape[-2] <= LARGEST:
        return _attend(q, k, v, mask)
    queries = q.shape[-2]
    padding = -queries % CHUNK
    q = jnp.pad(q, [(0, 0)] * (q.ndim - 2) + [(0, padding), (0, 0)])
    if mask is not None and mask.shape[-2] != 1:
        raise ValueError("A mask of its own for each query is not supported at this length.")
    chunks = jnp.moveaxis(q.reshape(*q.shape[:-2], -1, CHUNK, q.shape[-1]), -3, 0)
    out = jax.lax.map(lambda chunk: _attend(chunk, k, v, mask), chunks)
    out = jnp.moveaxis(out, 0, -3).reshape(*q.shape[:-1], v.shape[-1])
    return out[..., :queries, :]


def _attend(q, k, v, mask):
    scores = (q * q.shape[-1] ** -0.5) @ jnp.swapaxes(k, -1, -2)
    scores = scores.astype(jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1).astype(v.dtype) @ v


def split_heads(x: Float[Array, "*batch tokens width"], heads: int) -> Float[Array, "*batch heads tokens _"]:
    """[tokens, width] -> [heads, tokens, width / heads]."""
    return jnp.swapaxes(x.reshape(*x.shape[:-1], heads, -1), -2, -3)


def join_heads(x: Float[Array, "*batch heads tokens channels"]) -> Float[Array, "*batch tokens _"]:
    """The inverse of `split_heads`."""
    x = jnp.swapaxes(x, -2, -3)
    return x.reshape(*x.shape[:-2], -1)
