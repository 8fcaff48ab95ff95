"""Count what Pallas kernels read again and again: the compiled text shows a kernel's operands only once."""

import math
from collections.abc import Sequence

from jax.extend.core import Jaxpr, JaxprEqn, Var

from segic_jax.train.flops import equations_of

LANES, SUBLANES = 128, 8  # a TPU stores arrays in tiles of this size


def repeated_reads(jaxpr: Jaxpr, platform: str | None = None) -> int:
    """Return the bytes that all kernels of a program move beyond each of their arrays once, on all devices.

    Args:
        platform: as for `flops.products_of`.
    """
    kernels = (
        (equation, times)
        for equation, times in equations_of(jaxpr, platform)
        if equation.primitive.name == "pallas_call"
    )
    return sum(times * _repeated_bytes(equation) for equation, times in kernels)


def _repeated_bytes(equation: JaxprEqn) -> int:
    """A block is moved whenever the next cell of the grid needs another one than the last."""
    mapping, total = equation.params["grid_mapping"], 0
    for block in mapping.block_mappings:
        axes = _axes_read(block.index_map_jaxpr.jaxpr, len(mapping.grid))
        last = max((axis for axis in axes if mapping.grid[axis] > 1), default=-1)
        fetches = math.prod(mapping.grid[: last + 1])
        shape = [getattr(size, "block_size", size) for size in block.block_shape]
        moved = fetches * _tiled_bytes(
            [size if isinstance(size, int) else 1 for size in shape], block.array_aval
        )
        total += max(moved - _tiled_bytes(block.array_aval.shape, block.array_aval), 0)
    return total


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
