"""Count the floating point operations of a function, and say how fast a device can be.

Operations are those of matrix products and convolutions in the traced program, so loops count as often as
they run (XLA's cost analysis counts a loop's body once) and the number does not depend on the machine. A
multiplication and an addition are two.
"""

import math
import re
from collections.abc import Callable

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

# Dense bfloat16 operations a second of one JAX device, by words of its `device_kind`; the first match counts.
# NVIDIA's data sheets give twice as much, with sparsity. Cloud TPU: cloud.google.com/tpu/docs/v6e and so on.
PEAK_FLOPS = (
    ("H200 NVL", 835e12),  # NVIDIA H200 data sheet
    ("H200", 989e12),
    ("H100 NVL", 835e12),  # NVIDIA H100 data sheet
    ("H100 PCIe", 756e12),
    ("H100", 989e12),  # SXM
    ("A100", 312e12),  # NVIDIA A100 data sheet
    ("L4", 121e12),  # NVIDIA L4 data sheet
    ("RTX 4090", 165e12),  # NVIDIA Ada architecture paper; sums in float32
    ("V100", 125e12),  # NVIDIA V100 data sheet; float16, for it has no bfloat16
    ("TPU v6 lite", 918e12),
    ("TPU v6e", 918e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5e", 197e12),
    ("TPU v5p", 459e12),
    ("TPU v5", 459e12),
    ("TPU v4", 275e12),
    ("TPU v3", 61.5e12),  # half a chip, which is two devices
    ("TPU v2", 22.5e12),  # half a chip
)
_SLOWER = {"mig", "laptop", "d"}  # a part of a card, or a slower card of nearly the same name


def count_flops(function: Callable, *arguments) -> int:
    """Return the operations of one call with arguments of these shapes: arrays or `jax.ShapeDtypeStruct`s."""
    return flops_of(jax.make_jaxpr(function)(*arguments).jaxpr)


def flops_of(jaxpr: Jaxpr) -> int:
    """Return the operations of a traced program."""
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def peak_flops(device_kind: str) -> float | None:
    """Return the peak of one device; None where it is not known, as for a CPU."""
    words = set(re.findall(r"\w+", device_kind.lower()))
    if words & _SLOWER:
        return None
    return next((peak for name, peak in PEAK_FLOPS if set(name.lower().split()) <= words), None)


def _equation_flops(equation) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[parameters["dimension_numbers"].rhs_spec[0]]
        return 2 * equation.outvars[0].aval.size * math.prod(kernel) // outputs
    if name == "cond":
        return max(flops_of(branch.jaxpr) for branch in parameters["branches"])
    times = parameters["length"] if name == "scan" else 1  # a while loop counts once: its length is unknown
    return times * sum(flops_of(inner) for value in parameters.values() for inner in _inner_programs(value))


def _inner_programs(value) -> list[Jaxpr]:
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    return [value] if isinstance(value, Jaxpr) else []
