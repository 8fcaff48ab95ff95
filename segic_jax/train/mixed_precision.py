"""Run any function in mixed precision: matrix products with bfloat16 operands and float32 sums.

Everything between the products stays in float32, and so do the parameters. The traced program is rewritten,
so that models need no second way of writing a product and the products of a gradient are included. On a CPU
with AMX such products are three to five times faster, but only with operands in their natural order: XLA
silently computes any other in float32.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.extend.core import Jaxpr, Literal

MIN_AXIS, MIN_PRODUCT = 16, 2**20  # smaller products stay in float32


def mixed_precision(function: Callable) -> Callable:
    """Return `function`, from trees of arrays to trees of arrays, with its products in bfloat16.

    Take a gradient inside the function, not of the result.
    """

    def with_bfloat16_products(*arguments):
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        results = _evaluate(traced.jaxpr, traced.consts, jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return with_bfloat16_products


def _evaluate(program: Jaxpr, constants: Sequence, arguments: Sequence) -> list:
    values = dict(zip([*program.constvars, *program.invars], [*constants, *arguments], strict=True))

    def read(variable):
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in program.eqns:
        inputs = [read(variable) for variable in equation.invars]
        primitive, parameters = equation.primitive, equation.params
        if primitive.name == "dot_general":
            results = [_product(*inputs, **parameters)]
        elif primitive.name == "jit":
            inner = parameters["jaxpr"]
            results = _evaluate(inner.jaxpr, inner.consts, inputs)
        else:
            results = primitive.bind(*inputs, **primitive.get_bind_params(parameters))
            results = results if primitive.multiple_results else [results]
        values.update(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in program.outvars]


def _product(left: jax.Array, right: jax.Array, dimension_numbers, **parameters) -> jax.Array:
    """Compute `lax.dot_general` as a product of [*batch, rows, inner] and [*batch, inner, columns]."""
    (left_inner, right_inner), (left_batch, right_batch) = dimension_numbers
    left_rest = [axis for axis in range(left.ndim) if axis not in (*left_inner, *left_batch)]
    right_rest = [axis for axis in range(right.ndim) if axis not in (*right_inner, *right_batch)]
    batch = [left.shape[axis] for axis in left_batch]
    rows = [left.shape[axis] for axis in left_rest]
    columns = [right.shape[axis] for axis in right_rest]
    sides = math.prod(rows), math.prod(left.shape[axis] for axis in left_inner), math.prod(columns)
    small = min(sides) < MIN_AXIS or math.prod(batch) * math.prod(sides) < MIN_PRODUCT
    if small or not left.dtype == right.dtype == jnp.float32:
        return jax.lax.dot_general_p.bind(left, right, dimension_numbers=dimension_numbers, **parameters)
    left = _natural_order(left, (*left_batch, *left_rest, *left_inner), (*batch, *sides[:2]))
    right = _natural_order(right, (*right_batch, *right_inner, *right_rest), (*batch, *sides[1:]))
    product = jnp.matmul(left, right, preferred_element_type=jnp.float32)
    # Without a barrier XLA exchanges the factors where the result is transposed, and with them their order.
    return jax.lax.optimization_barrier(product).reshape(*batch, *rows, *columns)


def _natural_order(x: jax.Array, order: tuple[int, ...], shape: tuple[int, ...]) -> jax.Array:
    x = x.astype(jnp.bfloat16)
    natural = tuple(range(x.ndim))
    if order != natural:
        x = with_layout_constraint(x.transpose(order), Layout(major_to_minor=natural))
    return x.reshape(shape)
