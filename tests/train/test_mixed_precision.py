"""Test that mixed precision rounds the operands of products to bfloat16 and changes nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segic_jax.train.mixed_precision import mixed_precision

SHAPES = {  # shapes of the operands of products as they occur in gradients
    "ik,kj->ij": ((96, 128), (128, 112)),
    "ki,kj->ij": ((128, 96), (128, 112)),
    "ik,jk->ij": ((96, 128), (112, 128)),
    "bki,bjk->bij": ((3, 128, 96), (3, 112, 128)),
    "bsk,kj->bsj": ((3, 32, 128), (128, 112)),
    "bsk,bsj->kj": ((3, 32, 128), (3, 32, 112)),
}


def round_to_bfloat16(x):
    """Round to bfloat16, and return float64."""
    return np.asarray(jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32), np.float64)


@pytest.mark.parametrize("product", SHAPES)
def test_operands_are_rounded_and_sums_are_not(product):
    rng = np.random.default_rng(0)
    left, right = (rng.normal(size=shape).astype(np.float32) for shape in SHAPES[product])
    result = jax.jit(mixed_precision(lambda a, b: jnp.einsum(product, a, b)))(left, right)
    assert result.dtype == jnp.float32
    expected = np.einsum(product, round_to_bfloat16(left), round_to_bfloat16(right))
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)
    assert np.abs(result - np.einsum(product, left, right)).max() > 1e-3


def test_small_products_and_other_types_are_unchanged():
    rng = np.random.default_rng(0)
    vector, matrix = rng.normal(size=200).astype(np.float32), rng.normal(size=(200, 200)).astype(np.float32)
    for left in (vector, matrix.astype(jnp.bfloat16)):
        result = jax.jit(mixed_precision(jnp.matmul))(left, left.T if left.ndim == 2 else matrix)
        assert np.array_equal(result, jax.jit(jnp.matmul)(left, left.T if left.ndim == 2 else matrix))


def test_trees_loops_and_inner_programs_are_supported():
    @jax.jit
    def inner(x):
        return {"sum": jax.lax.scan(lambda total, row: (total + row, None), jnp.zeros(3), x)[0]}

    def outer(tree):
        return inner(jax.nn.relu(tree["x"])), tree["n"] + 1

    tree = {"x": jnp.arange(6.0).reshape(2, 3) - 2, "n": 4}
    result, number = mixed_precision(outer)(tree)
    assert result["sum"].tolist() == [1, 2, 3]
    assert number == 5
