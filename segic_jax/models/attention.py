"""Compute softmax attention with a bounded working set, in the form that suits the target platform.

No form holds [heads, queries, keys] at once where that is large: cuDNN's kernel on an NVIDIA GPU in reduced
precision, a Pallas flash kernel on a TPU, one head after the other on a CPU, blocks of queries elsewhere.
`jax.lax.platform_dependent` leaves only the branch of the target in the compiled program, so a model never
asks which device is present. `portable_operations` leaves the choice out.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from segic_jax.models.portable import is_portable

MAX_SCORES_PER_HEAD = 1024 * 1024  # above this, the [queries, keys] matrix of a head is never held at once
QUERY_BLOCK = 512  # queries per block, for all heads together
# On a CPU, above this many scores in total (16 MB) attention goes head by head, so that scores stay in cache.
CPU_CACHED_SCORES = 4 * 1024 * 1024
CPU_QUERY_BLOCK = 1024  # queries per block of a single head
TPU_BLOCKS = (512, 384, 256)  # tokens per block of the flash kernel: the one that needs the least padding
TPU_QUERY_BLOCK = 1536  # most queries per block of its forward pass, which reads all keys and values for each
TPU_LANES = 128


def attention(
    q: Float[Array, "*batch queries heads channels"],
    k: Float[Array, "*batch keys heads channels"],
    v: Float[Array, "*batch keys heads channels"],
    mask: Bool[Array, "*#batch #heads #queries keys"] | None = None,
) -> Float[Array, "*batch queries heads channels"]:
    """Return softmax(q k^T / sqrt(channels)) v; keys where `mask` is False are ignored.

    Raises:
        ValueError: `mask` differs between queries and the keys are too many for one block.
    """
    if is_portable():
        return _at_once(q, k, v, mask)
    scores_per_head = q.shape[-3] * k.shape[-3]
    branches = {}
    if mask is None:
        if q.dtype != jnp.float32 and q.shape[-1] % 8 == 0:
            branches["cuda"] = _cudnn
        if scores_per_head * (q.size // (q.shape[-3] * q.shape[-1])) > CPU_CACHED_SCORES:
            branches["cpu"] = _head_by_head
        if scores_per_head > MAX_SCORES_PER_HEAD and q.shape == k.shape == v.shape:
            branches["tpu"] = _flash
    if scores_per_head > MAX_SCORES_PER_HEAD:
        if mask is not None and mask.shape[-2] != 1:
            raise ValueError("A mask that differs between queries is not supported at this length.")
        default = _query_blocks
    else:
        default = _at_once
    if not branches:
        return default(q, k, v, mask)
    return jax.lax.platform_dependent(q, k, v, **branches, default=default)


def _cudnn(q, k, v):
    try:
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    except RuntimeError:  # JAX without CUDA cannot trace cuDNN; this branch is then never compiled either
        return _query_blocks(q, k, v)


def _flash(q, k, v):
    """Run the flash kernel on the rows that each device of the mesh holds; without a mesh, on all of them."""
    mesh = jax.sharding.get_abstract_mesh()
    *batch, tokens, heads, channels = q.shape
    q, k, v = (x.reshape(-1, tokens, heads, channels) for x in (q, k, v))
    if not mesh.empty and len(q) % mesh.size == 0:
        rows = PartitionSpec(mesh.axis_names)
        # XLA cannot split a kernel by itself: it would gather the batch on every device.
        out = jax.shard_map(_flash_rows, in_specs=rows, out_specs=rows, check_vma=False)(q, k, v)
    else:
        out = _flash_rows(q, k, v)
    return out.reshape(*batch, tokens, heads, channels)


def _flash_rows(q, k, v):
    """Pad the tokens to full blocks, which a segment of their own keeps out of the softmax."""
    # Imported here: it takes 0.1 s, and most small grids do without.
    from jax.experimental.pallas.ops.tpu.flash_attention import BlockSizes, SegmentIds, flash_attention

    batch, tokens, _, channels = q.shape
    block = min(TPU_BLOCKS, key=lambda size: -tokens % size)
    padding = -tokens % block
    q, k, v = (_heads_first(jnp.pad(x, [(0, 0), (0, padding), (0, 0), (0, 0)])) for x in (q, k, v))
    segments = jnp.broadcast_to(jnp.arange(tokens + padding) < tokens, (batch, tokens + padding))
    ids = SegmentIds(q=segments.astype(jnp.int32), kv=segments.astype(jnp.int32))
    units = (tokens + padding) // TPU_LANES
    queries = max(n for n in range(1, TPU_QUERY_BLOCK // TPU_LANES + 1) if units % n == 0) * TPU_LANES
    sizes = BlockSizes(
        block_b=1,
        block_q=queries,
        **dict.fromkeys(("block_k_major", "block_k"), block),
        **dict.fromkeys(("block_q_major_dkv", "block_k_major_dkv", "block_k_dkv", "block_q_dkv"), block),
        **dict.fromkeys(("block_k_major_dq", "block_k_dq", "block_q_dq"), block),
    )
    # The compiler of kernels refuses a higher precision for products of bfloat16.
    with jax.default_matmul_precision("highest" if q.dtype == jnp.float32 else "default"):
        out = flash_attention(q, k, v, segment_ids=ids, sm_scale=channels**-0.5, block_sizes=sizes)
    return _heads_first(out)[:, :tokens]


def _at_once(q, k, v, mask=None):
    """Compute all heads and queries in one product."""
    q, k, v = map(_heads_first, (q, k, v))
    return _heads_first(_attend(q, k, v, mask))


def _query_blocks(q, k, v, mask=None):
    """Compute QUERY_BLOCK queries of all heads at a time."""
    q, k, v = map(_heads_first, (q, k, v))
    blocks = _split_queries(q, -(-q.shape[-2] // QUERY_BLOCK))
    out = jax.lax.map(lambda block: _attend(block, k, v, mask), jnp.moveaxis(blocks, -3, 0))
    return _heads_first(_join_queries(jnp.moveaxis(out, 0, -3), q, v))


def _head_by_head(q, k, v):
    """Compute one head at a time, about CPU_QUERY_BLOCK queries of it at once."""
    q, k, v = map(_heads_first, (q, k, v))
    blocks = _split_queries(q, max(1, round(q.shape[-2] / CPU_QUERY_BLOCK)))
    # Written out: a product with a transposed operand does not reach the processor's bfloat16 units.
    k_transposed = jax.lax.optimization_barrier(jnp.swapaxes(k, -1, -2))

    def attend_head(head):
        blocks, k_transposed, v = head
        return jax.lax.map(lambda block: _attend(block, jnp.swapaxes(k_transposed, -1, -2), v), blocks)

    heads = (
        blocks.reshape(-1, *blocks.shape[-3:]),
        k_transposed.reshape(-1, *k_transposed.shape[-2:]),
        v.reshape(-1, *v.shape[-2:]),
    )
    return _heads_first(_join_queries(jax.lax.map(attend_head, heads), q, v))


def _heads_first(x):
    """Swap tokens and heads: [..., tokens, heads, channels] <-> [..., heads, tokens, channels]."""
    return jnp.swapaxes(x, -2, -3)


def _split_queries(q, blocks: int):
    """Split [..., queries, channels] into [..., blocks, queries per block, channels], zeros at the end."""
    size = -(-q.shape[-2] // blocks)
    padding = [(0, 0)] * (q.ndim - 2) + [(0, blocks * size - q.shape[-2]), (0, 0)]
    return jnp.pad(q, padding).reshape(*q.shape[:-2], blocks, size, q.shape[-1])


def _join_queries(blocks, q, v):
    """Undo `_split_queries` for results with the channels of `v`."""
    return blocks.reshape(*q.shape[:-2], -1, v.shape[-1])[..., : q.shape[-2], :]


def _attend(q, k, v, mask=None):
    """Attend with scores and sums in float32 and products in the precision of the operands.

    Dividing the result by the sum of the weights is cheaper than dividing the weights, which are more.
    """
    scores = jnp.matmul(q * q.shape[-1] ** -0.5, jnp.swapaxes(k, -1, -2), preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True))).astype(v.dtype)
    if weights.dtype != jnp.float32 and not is_portable():
        # XLA for CPUs would round the weights again in each of their two uses.
        weights = jax.lax.platform_dependent(
            weights, cpu=jax.lax.optimization_barrier, default=lambda weights: weights
        )
    out = jnp.matmul(weights, v, preferred_element_type=jnp.float32)
    return (out / weights.sum(-1, keepdims=True, dtype=jnp.float32)).astype(v.dtype)
