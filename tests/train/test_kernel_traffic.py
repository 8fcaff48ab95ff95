"""Repeated reads of kernels against counts by hand."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas

from segic_jax.train.kernel_traffic import repeated_reads

TILE = 8 * 128 * 4  # bytes of a float32 tile


def test_blocks_that_are_read_again():
    """The rows of x change with the outer axis, the columns of y with the inner one, the row of z never."""

    def kernel(x, y, z, out):
        out[...] = x[...] @ y[...] + z[...]

    def product(x, y, z):
        return pallas.pallas_call(
            kernel,
            jax.ShapeDtypeStruct((32, 256), jnp.float32),
            grid=(4, 2),
            in_specs=[
                pallas.BlockSpec((8, 128), lambda i, j: (i, 0)),
                pallas.BlockSpec((128, 128), lambda i, j: (0, j)),
                pallas.BlockSpec((1, 128), lambda i, j: (0, 0)),
            ],
            out_specs=pallas.BlockSpec((8, 128), lambda i, j: (i, j)),
            interpret=True,
        )(x, y, z)

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((32, 128), (128, 256), (1, 128))]
    reads = {((32, 128), (128, 256), (1, 128)): (0, 3 * 16 * 2 * TILE, 0)}
    assert repeated_reads(jax.make_jaxpr(product)(*shapes).jaxpr) == reads
    assert repeated_reads(jax.make_jaxpr(jax.jit(product))(*shapes).jaxpr) == reads
