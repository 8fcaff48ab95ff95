"""Compute float32 products as a GPU does by default, in TF32, to measure what that changes in a mask.

The engine asks for full float32 products on every device, so TF32 takes no part in any result.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core.primitives import dot_general_p

EXPONENT_BITS, MANTISSA_BITS = 8, 10  # of TF32


@contextmanager
def tf32_products() -> Iterator[str]:
    """Compute all float32 products in TF32 within the context, and yield how: computed, or emulated.

    A GPU computes them. Other devices round both factors to TF32's mantissa, to the nearest, and add the
    products up in float32, which is what a GPU does but for the order of the sum.
    """
    on_gpu = jax.default_backend() == "gpu"
    original = dot_general_p.bind

    def bind(left, right, **parameters):
        if left.dtype == right.dtype == jnp.float32:
            if on_gpu:
                parameters["precision"] = lax.DotAlgorithmPreset.TF32_TF32_F32
            else:
                left, right = (lax.reduce_precision(x, EXPONENT_BITS, MANTISSA_BITS) for x in (left, right))
        return original(left, right, **parameters)

    jax.clear_caches()  # of programs with other products
    dot_general_p.bind = bind
    try:
        yield "float32, products in TF32" if on_gpu else "float32, products in TF32 (emulated)"
    finally:
        dot_general_p.bind = original
        jax.clear_caches()
