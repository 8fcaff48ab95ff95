"""Write a program as ONNX, by jax2onnx: for onnxruntime, OpenVINO, TensorRT and other runtimes."""

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal

from segic_jax.errors import ConfigError
from segic_jax.export.programs import Port, Program, input_specs
from segic_jax.models.portable import portable_operations

OPSET = 18  # of the operators
_INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
}  # calls, and where their body is


def require_onnx() -> None:
    """Raise ConfigError if the converter is missing."""
    if find_spec("jax2onnx") is None:
        raise ConfigError("segic export --to onnx needs jax2onnx: pip install 'segic_jax[export]'")


def write_onnx(program: Program, inputs: Sequence[Port], folder: Path) -> list[Path]:
    """Write NAME.onnx, and NAME.onnx.data for large weights; return their paths."""
    path, specs = folder / f"{program.name}.onnx", input_specs(inputs)
    with portable_operations("onnx"):
        traced = jax.make_jaxpr(program.function)(*specs)
    logging.disable(logging.WARNING)  # the converter logs each of its steps
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import onnx
            from jax2onnx import to_onnx

            to_onnx(
                lambda *arrays: _run(traced, arrays),
                specs,
                model_name=f"segic_{program.name}",
                opset=OPSET,
                return_mode="file",
                output_path=path,
                input_names=[port.name for port in inputs],
                output_names=[port.name for port in program.outputs],
            )
    finally:
        logging.disable(logging.NOTSET)
    onnx.checker.check_model(str(path))
    return sorted(folder.glob(f"{program.name}.onnx*"))


def _run(traced: ClosedJaxpr, arrays: Sequence[Any]) -> list[Any]:
    """Run a traced function operation by operation, calls inlined.

    The converter would otherwise put its own form of layers of Flax in the place of ours, which cannot be
    batched. Operations of `_REPLACED` are written in others.
    """
    jaxpr, values = traced.jaxpr, {}
    values.update(zip(jaxpr.constvars, map(jnp.asarray, traced.consts), strict=True))
    values.update(zip(jaxpr.invars, arrays, strict=True))

    def read(variable: Any) -> Any:
        if isinstance(variable, Literal):
            shaped: Any = variable.aval
            return jnp.asarray(variable.val, shaped.dtype)
        return values[variable]

    for equation in jaxpr.eqns:
        name, inputs = equation.primitive.name, [read(variable) for variable in equation.invars]
        if name in _INLINED:
            outputs = _run(equation.params[_INLINED[name]], inputs)
        elif name in _REPLACED and (replaced := _REPLACED[name](*inputs, **equation.params)) is not None:
            outputs = [replaced]
        else:
            outputs = equation.primitive.bind(*inputs, **equation.params)
            outputs = outputs if equation.primitive.multiple_results else [outputs]
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _stack(*arrays: jax.Array, axis: int) -> jax.Array:
    """Stack by concatenation: the converter has no rule for stacks."""
    return lax.concatenate([lax.expand_dims(array, [axis]) for array in arrays], axis)


def _remainder(x: jax.Array, y: jax.Array) -> jax.Array:
    """Compute the remainder by a division: the converter's rule fails for any number of images."""
    return x - y * lax.div(x, y)


def _select(which: jax.Array, *cases: jax.Array) -> jax.Array | None:
    """Choose between truth values by logic: onnxruntime has no Where for them. None for other values."""
    if cases[0].dtype != bool or len(cases) != 2:
        return None
    return lax.bitwise_or(lax.bitwise_and(which, cases[1]), lax.bitwise_and(lax.bitwise_not(which), cases[0]))


def _pad(array: jax.Array, value: jax.Array, *, padding_config: Sequence[tuple]) -> jax.Array | None:
    """Pad by concatenation where the converter's rule fails: for any number of images. None elsewhere."""
    if all(isinstance(size, int) for size in array.shape) or any(
        before < 0 or after < 0 or between for before, after, between in padding_config
    ):
        return None
    for axis, (before, after, _) in enumerate(padding_config):
        sides = [
            lax.broadcast(value, (*array.shape[:axis], size, *array.shape[axis + 1 :]))
            for size in (before, after)
        ]
        parts = [part for part in (sides[0], array, sides[1]) if part.shape[axis] != 0]
        array = lax.concatenate(parts, axis)
    return array


def _product(x: jax.Array, y: jax.Array, *, dimension_numbers: Any, **options: Any) -> jax.Array | None:
    """Multiply by a matrix in two dimensions: the converter's Einsum is slower. None for other products."""
    if y.ndim != 2 or x.ndim < 3 or dimension_numbers != (((x.ndim - 1,), (0,)), ((), ())):
        return None
    rows = math.prod(x.shape[:-1])
    flat = lax.dot_general(
        lax.reshape(x, (rows, x.shape[-1])), y, dimension_numbers=(((1,), (0,)), ((), ())), **options
    )
    return lax.reshape(flat, (*x.shape[:-1], y.shape[1]))


_REPLACED: dict[str, Callable[..., Any]] = {
    "dot_general": _product,
    "pad": _pad,
    "rem": _remainder,
    "select_n": _select,
    "stack": _stack,
}


def describe_onnx() -> dict[str, Any]:
    """Return what the manifest says about the format."""
    return {
        "name": "onnx",
        "opset": OPSET,
        "converter": f"jax2onnx {version('jax2onnx')}",
        "onnx": version("onnx"),
        "jax": jax.__version__,
    }
