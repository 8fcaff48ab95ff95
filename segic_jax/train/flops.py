"""Count the floating point operations of a function.

Operations are those of matrix products and convolutions in the traced program, so loops count as often as
they run (XLA's cost analysis counts a loop's body once) and the number does not depend on the machine. A
multiplication and an addition are two.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

Products = Counter[tuple[str, str]]  # (dtype, precision: DEFAULT, HIGH or HIGHEST) -> operations


def count_flops(function: Callable, *arguments) -> int:
    """Return the operations of one call with arguments of these shapes: arrays or `jax.ShapeDtypeStruct`s."""
    return flops_of(jax.make_jaxpr(function)(*arguments).jaxpr)


def flops_of(jaxpr: Jaxpr, unknown_trips: int = 1) -> int:
    """Return the operations of a traced program; of branches, the one with the most counts.

    Args:
        unknown_trips: see `products_of`.
    """
    return sum(products_of(jaxpr, unknown_trips=unknown_trips).values())


def products_of(jaxpr: Jaxpr, platform: str | None = None, unknown_trips: int = 1) -> Products:
    """Return the operations of a traced program by the type of their operands.

    Args:
        platform: of code that depends on it, count what is compiled for `tpu`, `cuda` or `cpu`.
        unknown_trips: how often a while loop counts, whose length is unknown.
    """
    total: Products = Counter()
    for equation, times in equations_of(jaxpr, platform, unknown_trips=unknown_trips):
        if flops := _equation_flops(equation):
            total[_kind(equation)] += times * flops
    return total


def equations_of(
    jaxpr: Jaxpr, platform: str | None = None, times: int = 1, unknown_trips: int = 1
) -> Iterator[tuple[JaxprEqn, int]]:
    """Return all equations of a traced program, at any depth, and how often each runs on all devices.

    A while loop, whose length is unknown, counts `unknown_trips` times; of branches, the one with the most
    operations counts.
    """
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        yield equation, times
        if name == "cond":
            yield from equations_of(_chosen_branch(parameters, platform), platform, times, unknown_trips)
            continue
        inner_times = times
        if name == "scan":
            inner_times *= parameters["length"]
        elif name == "while":
            inner_times *= unknown_trips
        elif name == "pallas_call":  # the program of one cell of the grid
            inner_times *= math.prod(parameters["grid_mapping"].grid)
        elif name == "shard_map":  # the program of one device
            inner_times *= math.prod(
                parameters["mesh"].shape[axis] for axis in parameters["newly_manual_axes"]
            )
        for value in parameters.values():
            for inner in _inner_programs(value):
                yield from equations_of(inner, platform, inner_times, unknown_trips)


def _chosen_branch(parameters: dict, platform: str | None) -> Jaxpr:
    branches = [branch.jaxpr for branch in parameters["branches"]]
    platforms = parameters.get("branches_platforms")
    if platform is None or not platforms:
        return max(branches, key=lambda branch: products_of(branch, platform).total())
    default = platforms.index(None) if None in platforms else 0
    return branches[next((i for i, names in enumerate(platforms) if names and platform in names), default)]


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
    # cuDNN on [batch, tokens, heads, channels]: two products forward, five backward.
    if name.startswith("dot_product_attention_") and not any(map(_inner_programs, parameters.values())):
        queries, keys = (variable.aval.shape for variable in equation.invars[:2])
        return 2 * (5 if "bwd" in name else 2) * math.prod(queries) * keys[1]
    return 0


def _kind(equation) -> tuple[str, str]:
    precision = equation.params.get("precision")
    precision = precision[0] if isinstance(precision, tuple) else precision
    return equation.invars[0].aval.dtype.name, getattr(precision, "name", "DEFAULT")


def _inner_programs(value) -> list[Jaxpr]:
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    return [value] if isinstance(value, Jaxpr) else []
