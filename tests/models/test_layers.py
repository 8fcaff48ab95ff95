import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from segic_jax.models.layers import UpConv, pixel_shuffle, pixel_unshuffle


@pytest.mark.parametrize("times", [1, 2])
def test_pixels_go_where_upconvs_leave_them(times):
    """Unshuffled images are in the arrangement that `pixel_shuffle` turns back into images."""
    grid, side = 3, 3 * 2**times
    images = jax.random.normal(jax.random.key(0), (2, side, side, 5))
    arranged = pixel_unshuffle(images, grid)
    embedding = jnp.zeros((2, 4, grid * grid))
    for _ in range(times):
        embedding = UpConv(embedding.shape[-2], 5, rngs=nnx.Rngs(0))(embedding)
    assert arranged.shape == embedding.shape
    for channel in range(5):
        back = pixel_shuffle(arranged[..., channel, :], grid, times)
        np.testing.assert_array_equal(back, images[..., channel])
