"""Test the emulation of TF32 on values whose rounding is known."""

import jax
import jax.numpy as jnp
import numpy as np

from segic_jax.parity.tf32 import tf32_products

FACTORS = [1 + 2**-12, 1 + 2**-10, 1 + 2**-11 + 2**-13]
ROUNDED = [1, 1 + 2**-10, 1 + 2**-10]  # to 10 bits after the point
WEIGHTS = [1, 2**-3, 2**-7]  # with these, every sum fits in float32


def test_factors_are_rounded_and_sums_are_not():
    left, right = jnp.array([FACTORS], jnp.float32), jnp.array(WEIGHTS, jnp.float32)[:, None]
    program = jax.jit(lambda a, b: (a @ b, jnp.einsum("ij,jk->ik", a, b)))

    def products():
        return np.ravel([*program(left, right), jnp.dot(left, right)]).tolist()

    assert products() == [np.dot(FACTORS, WEIGHTS)] * 3
    with tf32_products() as how:
        assert how == "float32, products in TF32 (emulated)"
        assert products() == [np.dot(ROUNDED, WEIGHTS)] * 3
        assert (left.astype(jnp.bfloat16) @ right.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert products() == [np.dot(FACTORS, WEIGHTS)] * 3
