"""Count the floating point operations of a function.

Operations are those of matrix products and convolutions in the traced program, so loops count as often as
they run (XLA's cost analysis counts a loop's body once) and the number does not depend on the machine. A
multiplication and an addition are two.
"""

import math
from collections import Counter
from collections.abc import Callable

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

Products = Counter[tuple[str, str]]  # (dtype, precision: DEFAULT, HIGH or HIGHEST) -> operations


def count_flops(function: Callable, *arguments) -> int:
    """Return the operations of one call with arguments of these shapes: arrays or `jax.ShapeDtypeStruct`s."""
    return flops_of(jax.make_jaxpr(function)(*arguments).jaxpr)


def flops_of(jaxpr: Jaxpr) -> int:
    """Return the operations of a traced program; of branches, the one with the most counts."""
    return sum(products_of(jaxpr).values())


def products_of(jaxpr: Jaxpr, platform: str | None = None) -> Products:
    """Return the operations of a traced program by the type of their operands.

    Args:
        platform: of code that depends on it, count what is compiled for `tpu`, `cuda` or `cpu`.
    """
    total: Products = Counter()
    for equation in jaxpr.eqns:
        total.update(_equation_products(equation, platform))
    return total


def _equation_products(equation, platform: str | None) -> Products:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        flops = 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
        return Counter({_kind(equation): flops})
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[parameters["dimension_numbers"].rhs_spec[0]]
        flops = 2 * equation.outvars[0].aval.size * math.prod(kernel) // outputs
        return Counter({_kind(equation): flops})
    if name.startswith("dot_product_attention_"):  # cuDNN: two products forward, five backward
        queries, keys = (
            variable.aval.shape for variable in equation.invars[:2]
        )  # [batch, tokens, heads, channels]
        products = 5 if "bwd" in name else 2
        return Counter({_kind(equation): 2 * products * math.prod(queries) * keys[1]})
    if name == "cond":
        platforms = parameters.get("branches_platforms")
        branches = [products_of(branch.jaxpr, platform) for branch in parameters["branches"]]
        if platform and platforms:
            default = platforms.index(None) if None in platforms else 0
            matching = (i for i, names in enumerate(platforms) if names and platform in names)
            return branches[next(matching, default)]
        return max(branches, key=lambda products: sum(products.values()))
    times = 1  # also of a while loop, whose length is unknown
    if name == "scan":
        times = parameters["length"]
    elif name == "pallas_call":  # the program of one cell of the grid
        times = math.prod(parameters["grid_mapping"].grid)
    elif name == "shard_map":  # the program of one device
        times = math.prod(parameters["mesh"].shape[axis] for axis in parameters["newly_manual_axes"])
    total: Products = Counter()
    for value in parameters.values():
        for inner in _inner_programs(value):
            for kind, flops in products_of(inner, platform).items():
                total[kind] += times * flops
    return total


def _kind(equation) -> tuple[str, str]:
    precision = equation.params.get("precision")
    precision = precision[0] if isinstance(precision, tuple) else precision
    return equation.invars[0].aval.dtype.name, getattr(precision, "name", "DEFAULT")


def _inner_programs(value) -> list[Jaxpr]:
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    return [value] if isinstance(value, Jaxpr) else []
