"""Count what Pallas kernels read again and again: the compiled text shows a kernel's operands only once."""

import math
from collections.abc import Sequence

from jax.extend.core import Jaxpr, Var

from segic_jax.train.flops import equations_of

Shapes = tuple[tuple[int, ...], ...]
LANES, SUBLANES = 128, 8  # a TPU stores arrays in tiles of this size


def repeated_reads(jaxpr: Jaxpr, platform: str | None = None) -> dict[Shapes, tuple[int, ...]]:
    """Return what the kernels of a program read of each operand beyond reading it once, in bytes of one call.

    Args:
        platform: as for `flops.products_of`.

    Returns:
        By the shapes of the operands, which tell the kernels of a program apart.
    """
    reads = {}
    for equation, _ in equations_of(jaxpr, platform):
        if equation.primitive.name == "pallas_call":
            mapping = equation.params["grid_mapping"]
            blocks = mapping.block_mappings[: mapping.num_inputs]
            shapes = tuple(tuple(block.array_aval.shape) for block in blocks)
            reads[shapes] = tuple(_repeated_bytes(block, mapping.grid) for block in blocks)
    return reads


def _repeated_bytes(block, grid: tuple[int, ...]) -> int:
    """Count a block whenever the next cell of the grid needs another one than the last."""
    last = max(
        (axis for axis in _axes_read(block.index_map_jaxpr.jaxpr, len(grid)) if grid[axis] > 1), default=-1
    )
    array, fetches = block.array_aval, math.prod(grid[: last + 1])
    sizes = (getattr(size, "block_size", size) for size in block.block_shape)
    shape = [size if isinstance(size, int) else 1 for size in sizes]  # 1 along axes that the kernel drops
    return max(fetches * _tiled_bytes(shape, array) - _tiled_bytes(array.shape, array), 0)


def _axes_read(index_map: Jaxpr, axes: int) -> set[int]:
    """Return the axes of the grid that the place of a block depends on."""
    depends: dict[Var, set[int]] = {variable: {i} for i, variable in enumerate(index_map.invars[:axes])}
    for equation in index_map.eqns:
        reads = [depends.get(x, set()) for x in equation.invars if isinstance(x, Var)]
        for variable in equation.outvars:
            depends[variable] = set().union(*reads)
    return set().union(*(depends.get(x, set()) for x in index_map.outvars if isinstance(x, Var)))


def _tiled_bytes(shape: Sequence[int], array) -> int:
    *outer, rows, columns = (1, 1, *shape)
    tiles = -(-rows // SUBLANES) * SUBLANES * -(-columns // LANES) * LANES
    return math.prod(outer) * tiles * array.dtype.itemsize
