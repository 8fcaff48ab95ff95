"""Compare counted operations with numbers derived by hand."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas
from jax.sharding import AxisType

from segic_jax.config import ViTConfig
from segic_jax.models.backbones import backbone_template
from segic_jax.train.flops import count_flops, flops_of, products_of


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


def test_loops_of_unknown_length_count_as_often_as_the_caller_says():
    square = jax.ShapeDtypeStruct((6, 6), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda x: jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x @ x, x))(
        square
    ).jaxpr
    assert flops_of(jaxpr) == 2 * 6**3
    assert products_of(jaxpr, unknown_trips=3).total() == 3 * 2 * 6**3


def test_kinds_of_products_and_code_that_depends_on_the_platform():
    def product(x):
        return jax.lax.platform_dependent(
            x, tpu=lambda x: (x.astype(jnp.bfloat16) @ x.astype(jnp.bfloat16)).astype(x.dtype),
            default=lambda x: jnp.matmul(x, x, precision="highest") @ x,
        )  # fmt: skip

    once, jaxpr = 2 * 6**3, jax.make_jaxpr(product)(jnp.zeros((6, 6))).jaxpr
    assert list(products_of(jaxpr, "tpu").values()) == [once]
    assert {dtype for dtype, _ in products_of(jaxpr, "tpu")} == {"bfloat16"}
    assert products_of(jaxpr, "cuda")["float32", "HIGHEST"] >= once
    assert products_of(jaxpr, "cuda").total() == flops_of(jaxpr) == 2 * once


def test_kernels_and_programs_of_devices():
    """A Pallas kernel runs once a cell of its grid, a program under shard_map once a device."""

    def kernel(x, y):
        y[...] = x[...] @ x[...]

    def blocks(x):
        block = pallas.BlockSpec((8, 8), lambda i: (i, 0))
        call = pallas.pallas_call(kernel, x, grid=(4,), in_specs=[block], out_specs=block, interpret=True)
        return call(x)

    assert count_flops(blocks, jax.ShapeDtypeStruct((32, 8), jnp.float32)) == 4 * 2 * 8**3
    mesh = jax.sharding.AbstractMesh((4,), ("data",), axis_types=(AxisType.Auto,))
    rows = jax.sharding.PartitionSpec("data")
    share = jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)
    assert count_flops(share, jax.ShapeDtypeStruct((8, 3), jnp.float32)) == 4 * 2 * 2 * 3 * 2


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
