"""Softmax attention with a bounded working set, in the form that suits the device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

WHOLE = 1024 * 1024  # scores a head; beyond it the [queries, keys] matrix is never held whole
QUERIES = 512  # a part then, of all heads at once
# On a CPU: beyond so many scores in all (16 MB) it goes head by head, and within a head by so many queries.
CACHED = 4 * 1024 * 1024
QUERIES_OF_HEAD = 1024


def attention(
    q: Float[Array, "*batch queries heads channels"],
    k: Float[Array, "*batch keys heads channels"],
    v: Float[Array, "*batch keys heads channels"],
    mask: Bool[Array, "*#batch #heads #queries keys"] | None = None,
) -> Float[Array, "*batch queries heads channels"]:
    """Attention with scores divided by sqrt(channels); keys where `mask` is False are not read.

    Half precision on a GPU runs cuDNN's kernel if there is no mask. What else is large is cut into parts
    by queries; on a CPU head by head, so that the scores of a part stay in its cache.

    Raises:
        ValueError: a mask of its own for each query, at a length that is cut into parts.
    """
    backend = jax.default_backend()
    if backend == "gpu" and q.dtype != jnp.float32 and mask is None and q.shape[-1] % 8 == 0:
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    q, k, v = (jnp.swapaxes(x, -2, -3) for x in (q, k, v))  # heads before tokens
    scores = q.shape[-2] * k.shape[-2]
    heads = q.size // (q.shape[-2] * q.shape[-1])
    if backend == "cpu" and mask is None and scores * heads > CACHED:
        out = _head_by_head(q, k, v)
    elif scores <= WHOLE:
        out = _attend(q, k, v, mask)
    else:
        out = _in_parts(q, k, v, mask)
    return jnp.swapaxes(out, -2, -3)


def _in_parts(q, k, v, mask):
    """All heads together, QUERIES at a time."""
    if mask is not None and mask.shape[-2] != 1:
        raise ValueError("A mask of its own for each query is not supported at this length.")
    parts = _split_queries(q, -(-q.shape[-2] // QUERIES))
    out = jax.lax.map(lambda part: _attend(part, k, v, mask), jnp.moveaxis(parts, -3, 0))
    out = jnp.moveaxis(out, 0, -3)
    return out.reshape(*q.shape[:-2], -1, v.shape[-1])[..., : q.shape[-2], :]


def _head_by_head(q, k, v):
    """One head and at most QUERIES_OF_HEAD queries (and a few) at a time."""
    parts = _split_queries(q, max(1, round(q.shape[-2] / QUERIES_OF_HEAD)))
    # Written out: a product with a transposed operand does not reach the processor's bfloat16 units.
    k = jax.lax.optimization_barrier(jnp.swapaxes(k, -1, -2))
    of_heads = tuple(x.reshape(-1, *x.shape[-2:]) for x in (k, v))
    parts = parts.reshape(-1, *parts.shape[-3:])  # [heads, parts, queries, channels]

    def one_head(head):
        parts, k, v = head
        return jax.lax.map(lambda part: _attend(part, jnp.swapaxes(k, -1, -2), v, None), parts)

    out = jax.lax.map(one_head, (parts, *of_heads))
    return out.reshape(*q.shape[:-2], -1, v.shape[-1])[..., : q.shape[-2], :]


def _split_queries(q, parts: int):
    """[..., queries, channels] -> [..., parts, a part's queries, channels], padded at the end."""
    size = -(-q.shape[-2] // parts)
    padding = [(0, 0)] * (q.ndim - 2) + [(0, parts * size - q.shape[-2]), (0, 0)]
    return jnp.pad(q, padding).reshape(*q.shape[:-2], parts, size, q.shape[-1])


def _attend(q, k, v, mask):
    """Scores and sums in float32, products in the precision of the operands.

    The sum divides the result, which is smaller than the scores.
    """
    scores = jnp.matmul(q * q.shape[-1] ** -0.5, jnp.swapaxes(k, -1, -2), preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True))).astype(v.dtype)
    if weights.dtype != jnp.float32 and jax.default_backend() == "cpu":
        weights = jax.lax.optimization_barrier(weights)  # rounded once, not in each of its two uses
    out = jnp.matmul(weights, v, preferred_element_type=jnp.float32)
    return (out / weights.sum(-1, keepdims=True, dtype=jnp.float32)).astype(v.dtype)
