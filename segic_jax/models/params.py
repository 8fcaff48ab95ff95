"""Hold parameters as a flat {name: array} dictionary, and build modules around them by name.

`nnx.merge` matches leaves by position, so a dictionary in another order would permute blocks without
warning. Everything here goes by name and checks every shape.
"""

import mmap
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import jax
import numpy as np
from flax import nnx

from segic_jax.errors import ParamsError

Params = dict[str, jax.Array | np.ndarray]
AnyArray = jax.Array | np.ndarray  # for annotations of functions that are also called outside of jit


def check(params: Mapping, shapes: Mapping, what: str = "parameters") -> None:
    """Compare names and shapes, both ways.

    Raises:
        ParamsError: naming the missing, unknown and misshapen entries at once, the first few of each.
    """
    missing = [name for name in shapes if name not in params]
    unknown = [name for name in params if name not in shapes]
    misshapen = [
        f"{name} {tuple(np.shape(params[name]))}, expected {tuple(shapes[name].shape)}"
        for name in shapes
        if name in params and tuple(np.shape(params[name])) != tuple(shapes[name].shape)
    ]
    problems = [
        f"{label}: {_listed(names)}"
        for label, names in (("missing", missing), ("unknown", unknown), ("misshapen", misshapen))
        if names
    ]
    if problems:
        raise ParamsError(f"The {what} do not fit the model; " + "; ".join(problems) + ".")


def _listed(names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class Template:
    """Hold the structure of a module without its arrays."""

    def __init__(self, make: Callable[[nnx.Rngs], nnx.Module]):
        """Trace `make`, which builds the module; no array is allocated."""
        self._make = make
        self._graphdef, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
        self._leaves = [(path, leaf) for path, leaf in nnx.to_flat_state(state)]
        self.shapes: dict[str, jax.ShapeDtypeStruct] = {
            _name(path): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in self._leaves
        }

    def bind(self, params: Mapping[str, jax.Array | np.ndarray]) -> Any:
        """Return the module with `params` as its arrays; use it inside a jitted function."""
        check(params, self.shapes)
        return nnx.merge(
            self._graphdef,
            nnx.from_flat_state([(path, leaf.replace(params[_name(path)])) for path, leaf in self._leaves]),
        )

    def init(self, seed: int) -> Params:
        """Draw random parameters."""
        return self._arrays(jax.random.key(seed))

    @cached_property
    def _arrays(self) -> Callable[[jax.Array], Params]:
        @jax.jit
        def arrays(key):
            state = nnx.state(self._make(nnx.Rngs(key)))
            return {_name(path): leaf[...] for path, leaf in nnx.to_flat_state(state)}

        return arrays


def _name(path: tuple) -> str:
    return "/".join(map(str, path))


def count(params: Mapping[str, jax.Array | np.ndarray | jax.ShapeDtypeStruct]) -> int:
    """Return the number of parameters."""
    return sum(int(np.prod(value.shape)) for value in params.values())


def as_float32(params: Mapping[str, np.ndarray | jax.Array]) -> Params:
    """Convert parameters, stored in any precision, to float32 arrays in the host's memory."""
    return {name: np.asarray(value, np.float32) for name, value in params.items()}


def place(
    params: Mapping[str, np.ndarray | jax.Array],
    dtype: np.dtype | type,
    put: Callable[[np.ndarray], jax.Array],
) -> Params:
    """Convert parameters and put them on devices one after the other, so that the host never holds all.

    Args:
        put: places an array; see `jax.device_put`.
    """
    placed: Params = {}
    for name, value in params.items():
        placed[name] = put(np.array(value, dtype))  # a copy: a device must never look into a mapped file
        release(value)
    return placed


def release(array: np.ndarray | jax.Array) -> None:
    """Give the memory of a mapped file back to the system; the array is read again when it is used."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
