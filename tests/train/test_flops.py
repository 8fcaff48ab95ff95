"""Compare counted operations with numbers derived by hand."""

import jax
import jax.numpy as jnp

from segic_jax.config import ViTConfig
from segic_jax.models.segic import backbone_template
from segic_jax.train.flops import count_flops


def test_products_and_convolutions():
    a, b = jnp.zeros((3, 4, 5)), jnp.zeros((3, 5, 7))
    assert count_flops(jnp.matmul, a, b) == 2 * 3 * 4 * 5 * 7
    image, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((2, 2, 3, 5))

    def convolve(x, k):
        return jax.lax.conv_general_dilated(x, k, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert count_flops(convolve, image, kernel) == 2 * (2 * 4 * 4 * 5) * (2 * 2 * 3)


def test_loops_branches_and_gradients():
    square = jax.ShapeDtypeStruct((6, 6), jnp.float32)
    product = 2 * 6**3
    assert count_flops(lambda x: jax.lax.map(lambda row: row @ x, jnp.stack([x] * 5)), square) == 5 * product
    assert count_flops(jax.jit(lambda x: jnp.sin(x) @ x), square) == product
    assert count_flops(lambda x: jax.lax.cond(x[0, 0] > 0, lambda: x @ x, lambda: x), square) == product
    assert count_flops(jax.grad(lambda x: (x @ x).sum()), square) == 3 * product
    with_remat = jax.grad(jax.checkpoint(lambda x: jnp.sin(jnp.sin(x @ x) @ x).sum()))
    assert count_flops(with_remat, square) > count_flops(
        jax.grad(lambda x: jnp.sin(jnp.sin(x @ x) @ x).sum()), square
    )


def test_a_backbone_by_hand():
    """Compare with the usual formula, also where attention runs in a loop (above 1024 tokens)."""
    for side in (8, 40):
        vit = ViTConfig(patch_size=2, width=32, depth=3, num_heads=4, pos_grid=8)
        template = backbone_template(vit)
        image = jax.ShapeDtypeStruct((1, 2 * side, 2 * side, 3), jnp.float32)
        params = {name: jax.ShapeDtypeStruct(x.shape, jnp.float32) for name, x in template.shapes.items()}
        counted = count_flops(lambda p, x, t=template: t.bind(p)(x).patches, params, image)
        tokens, width = side**2 + 1, 32
        block = 2 * tokens * 12 * width**2 + 2 * 2 * tokens**2 * width
        expected = 3 * block + 2 * side**2 * 12 * width
        # Chunks of queries are padded, and positions are interpolated by products.
        assert expected <= counted <= 1.35 * expected
