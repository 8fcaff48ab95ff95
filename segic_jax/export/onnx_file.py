"""Write a program as ONNX, by jax2onnx: for onnxruntime, OpenVINO, TensorRT and other runtimes."""

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from segic_jax.errors import ConfigError
from segic_jax.export.programs import ExportPrecision, Port, Program, input_specs
from segic_jax.models.params import AnyArray
from segic_jax.models.portable import portable_operations

OPSET = 18  # of the operators
_SMALL = 1024  # bytes of a weight that is not worth a Cast or a place in another file
_INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
}  # calls, and where their body is


def require_onnx() -> None:
    """Raise ConfigError if the converter is missing."""
    if find_spec("jax2onnx") is None:
        raise ConfigError("segic export --to onnx needs jax2onnx: pip install 'segic_jax[export]'")


def write_onnx(
    program: Program, inputs: Sequence[Port], folder: Path, stored: ExportPrecision = "float32"
) -> list[Path]:
    """Write NAME.onnx, and NAME.onnx.data for large weights; return their paths.

    Args:
        stored: a type of half the size, for all weights that it holds exactly; a Cast node turns each
            into float32 when the file is loaded.
    """
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
    if stored != "float32":
        _store_in_half(path, jnp.dtype(stored))
    onnx.checker.check_model(str(path))
    return sorted(folder.glob(f"{program.name}.onnx*"))


def _store_in_half(path: Path, dtype: np.dtype) -> None:
    """Store weights in half precision where it loses nothing."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    graph, casts = model.graph, []
    for weight in graph.initializer:
        if weight.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(weight)
        half = values.astype(dtype)
        if values.nbytes < _SMALL or not np.array_equal(half.astype(np.float32), values):
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
        casts.append(helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)
    onnx.save_model(model, path, save_as_external_data=True, location=data.name, size_threshold=_SMALL)


def _run(traced: ClosedJaxpr, arrays: Sequence[Any]) -> list[Any]:
    """Run a traced function operation by operation, calls inlined.

    The converter would otherwise put its own form of layers of Flax in the place of ours, which cannot be
    batched. Operations of `_REPLACED` are written in others. What depends on no input is computed now.
    """
    jaxpr, values = traced.jaxpr, {}
    values.update(zip(jaxpr.constvars, map(jnp.asarray, traced.consts), strict=True))
    values.update(zip(jaxpr.invars, arrays, strict=True))

    def read(variable: Any) -> Any:
        if isinstance(variable, Literal):
            shaped: Any = variable.aval
            return np.asarray(variable.val, shaped.dtype)
        return values[variable]

    for equation in jaxpr.eqns:
        inputs = [read(variable) for variable in equation.invars]
        with jax.ensure_compile_time_eval() if _is_constant(equation, inputs) else nullcontext():
            outputs = _apply(equation, inputs)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _is_constant(equation: JaxprEqn, inputs: Sequence[Any]) -> bool:
    """Return whether an operation can be computed now: no input is of the program, and no size is open."""
    shapes = [getattr(out.aval, "shape", ()) for out in equation.outvars]
    return (
        equation.primitive.name not in _INLINED  # its operations are asked about one by one
        and not any(isinstance(value, jax.core.Tracer) for value in inputs)
        and all(isinstance(size, int) for shape in shapes for size in shape)
    )


def _apply(equation: JaxprEqn, inputs: Sequence[Any]) -> Sequence[Any]:
    """Return the outputs of one operation."""
    name = equation.primitive.name
    if name in _INLINED:
        return _run(equation.params[_INLINED[name]], inputs)
    if name in _REPLACED and (replaced := _REPLACED[name](*inputs, **equation.params)) is not None:
        return [replaced]
    outputs = equation.primitive.bind(*inputs, **equation.params)
    return outputs if equation.primitive.multiple_results else [outputs]


def _stack(*arrays: AnyArray, axis: int) -> AnyArray:
    """Stack by concatenation: the converter has no rule for stacks."""
    return lax.concatenate([lax.expand_dims(array, [axis]) for array in arrays], axis)


def _remainder(x: AnyArray, y: AnyArray) -> AnyArray:
    """Compute the remainder by a division: the converter's rule fails for any number of images."""
    return x - y * lax.div(x, y)


def _select(which: AnyArray, *cases: AnyArray) -> AnyArray | None:
    """Choose between truth values by logic: onnxruntime has no Where for them. None for other values."""
    if cases[0].dtype != bool or len(cases) != 2:
        return None
    return lax.bitwise_or(lax.bitwise_and(which, cases[1]), lax.bitwise_and(lax.bitwise_not(which), cases[0]))


def _pad(array: AnyArray, value: AnyArray, *, padding_config: Sequence[tuple]) -> AnyArray | None:
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


def _product(x: AnyArray, y: AnyArray, *, dimension_numbers: Any, **options: Any) -> AnyArray | None:
    """Multiply by a matrix in two dimensions: the converter's Einsum is slower. None for other products."""
    if y.ndim != 2 or x.ndim < 3 or dimension_numbers != (((x.ndim - 1,), (0,)), ((), ())):
        return None
    rows = math.prod(x.shape[:-1])
    flat = lax.dot_general(
        lax.reshape(x, (rows, x.shape[-1])), y, dimension_numbers=(((1,), (0,)), ((), ())), **options
    )
    return lax.reshape(flat, (*x.shape[:-1], y.shape[1]))


def _clamp(least: AnyArray, x: AnyArray, most: AnyArray) -> AnyArray:
    """Clip by jnp.clip: the converter has a rule for it, and makes a Max and a Min of lax.clamp."""
    return jnp.clip(x, least, most)


_REPLACED: dict[str, Callable[..., Any]] = {
    "clamp": _clamp,
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
