"""How many floating point operations a function takes: those of its matrix products and convolutions.

Counted in the traced program, so loops count as often as they run (XLA's cost analysis counts a loop's body
once) and the number does not depend on the machine. A multiplication and an addition are two.
"""

import math
from collections.abc import Callable

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def count_flops(function: Callable, *arguments) -> int:
    """Of one call with arguments of these shapes; arrays or `jax.ShapeDtypeStruct`s."""
    return flops_of(jax.make_jaxpr(function)(*arguments).jaxpr)


def flops_of(jaxpr: Jaxpr) -> int:
    """The same of a traced program."""
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation) -> int:
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
    times = parameters["length"] if name == "scan" else 1  # a while loop counts once: nobody knows how often
    return times * sum(flops_of(inner) for value in parameters.values() for inner in _programs(value))


def _programs(value) -> list[Jaxpr]:
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    return [value] if isinstance(value, Jaxpr) else []
