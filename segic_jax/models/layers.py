"""Provide the primitives that the official code takes from torch, channels last.

Each difference between torch and JAX defaults has its one place here: exact GELU, LayerNorm epsilon
and variance, convolutions as matrix products (on a CPU their weight gradient is 15 times faster), and
`interpolate` as products with small constant matrices, which are computed in numpy at trace time.
"""

import math
from functools import cache, partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from segic_jax.models.params import AnyArray

# torch's Linear and Conv default: uniform within 1 / sqrt(fan_in).
torch_uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Linear(nnx.Linear):
    """Multiply by a matrix with sums in float32, whatever the precision of input and output.

    On a CPU a bfloat16 product without float32 sums is slower than one in float32; with them it uses the
    processor's bfloat16 units (AMX).
    """

    def __init__(self, features_in: int, features_out: int, *, kernel_init=torch_uniform, rngs: nnx.Rngs):
        super().__init__(features_in, features_out, kernel_init=kernel_init, rngs=rngs)

    def __call__(self, x: Float[AnyArray, "*batch _"]) -> Float[Array, "*batch _"]:
        assert self.bias is not None
        y = jnp.matmul(x, self.kernel[...], preferred_element_type=jnp.float32) + self.bias[...]
        return y.astype(x.dtype)


# The fast variance loses digits when the mean is large; torch does not.
LayerNorm = partial(nnx.LayerNorm, use_fast_variance=False)
LayerNorm2d = partial(LayerNorm, epsilon=1e-6)  # SAM's name; here the channels are last anyway
# torch's Embedding default: standard normal.
Embedding = partial(nnx.Embed, embedding_init=nnx.initializers.normal(1.0))


def gelu(x: Array) -> Array:
    """Apply the exact (erf) GELU; jax.nn.gelu defaults to the tanh approximation."""
    return jax.nn.gelu(x, approximate=False)


def quick_gelu(x: Array) -> Array:
    """Apply CLIP's approximation of GELU."""
    return x * jax.nn.sigmoid(1.702 * x)


class PatchConv(nnx.Module):
    """Apply a convolution whose stride is its kernel size: fold patches, then one matrix product."""

    def __init__(self, size: int, features_in: int, features_out: int, *, bias: bool = True, rngs: nnx.Rngs):
        self.size = size
        self.kernel = nnx.Param(torch_uniform(rngs.params(), (size, size, features_in, features_out)))
        self.bias = nnx.Param(jnp.zeros(features_out)) if bias else None

    def __call__(self, x: Float[AnyArray, "*batch height width _"]) -> Float[Array, "*batch rows columns _"]:
        *batch, height, width, channels = x.shape
        s = self.size
        x = x.reshape(*batch, height // s, s, width // s, s, channels)
        x = jnp.moveaxis(x, -4, -3).reshape(*batch, height // s, width // s, s * s * channels)
        y = x @ self.kernel.reshape(s * s * channels, -1)
        return y if self.bias is None else y + self.bias


class Conv3x3(nnx.Module):
    """Apply a 3 x 3 convolution with padding 1 and no bias."""

    def __init__(self, features_in: int, features_out: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(torch_uniform(rngs.params(), (3, 3, features_in, features_out)))

    def __call__(self, x: Float[AnyArray, "*batch height width _"]) -> Float[Array, "*batch height width _"]:
        *batch, height, width, channels = x.shape
        x = jnp.pad(x, [(0, 0)] * len(batch) + [(1, 1), (1, 1), (0, 0)])
        shifted = [x[..., i : i + height, j : j + width, :] for i in range(3) for j in range(3)]
        return jnp.concatenate(shifted, axis=-1) @ self.kernel.reshape(9 * channels, -1)


class UpConv(nnx.Module):
    """Apply torch's ConvTranspose2d with kernel 2 and stride 2; the kernel is [2, 2, out, in].

    Channels come before pixels, for they are few and a TPU pads the last axis to 128. Layers that treat each
    pixel by itself may follow before `pixel_shuffle` moves the pixels to their places: moving one logit a
    pixel costs less than moving all channels.
    """

    def __init__(self, features_in: int, features_out: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=-2, out_axis=-1)
        self.kernel = nnx.Param(init(rngs.params(), (2, 2, features_out, features_in)))
        self.bias = nnx.Param(jnp.zeros(features_out))

    def __call__(self, x: Float[AnyArray, "*batch _ pixels"]) -> Float[Array, "*batch 2 2 _ pixels"]:
        """Replace every pixel by two rows and two columns of pixels."""
        *batch, channels, pixels = x.shape
        y = self.kernel.reshape(-1, channels) @ x
        return y.reshape(*batch, 2, 2, -1, pixels) + self.bias[:, None]


def pixel_shuffle(
    x: Float[Array, "*batch pixels"], grid: int, times: int
) -> Float[Array, "*batch_of_images side side"]:
    """Arrange the pixels that `times` UpConvs made of grid x grid pixels as images.

    Args:
        x: [*batch_of_images, 2, 2, ..., 2, 2, pixels]: rows and columns in turn, from the first UpConv on.
    """
    first = x.ndim - 1 - 2 * times
    batch = x.shape[:first]
    x = x.reshape(*x.shape[:-1], grid, grid)
    rows, columns = (
        [last, *range(first + start, x.ndim - 2, 2)] for start, last in ((0, x.ndim - 2), (1, x.ndim - 1))
    )
    side = grid * 2**times
    return x.transpose(*range(first), *rows, *columns).reshape(*batch, side, side)


def pixel_unshuffle(
    x: Float[Array, "batch side side channels"], grid: int
) -> Float[Array, "batch *places channels pixels"]:
    """Arrange images as UpConvs arrange the pixels that they make of grid x grid pixels.

    Returns:
        [batch, 2, 2, ..., 2, 2, channels, pixels]: as many pairs of rows and columns as UpConvs.
    """
    batch, side, _, channels = x.shape
    times = (side // grid).bit_length() - 1
    x = x.reshape(batch, grid, *[2] * times, grid, *[2] * times, channels)
    pairs = [axis for i in range(times) for axis in (2 + i, 3 + times + i)]
    x = x.transpose(0, *pairs, x.ndim - 1, 1, 2 + times)
    return x.reshape(*x.shape[:-2], grid * grid)


class MLP(nnx.Module):
    """Apply linear layers with ReLU between them (SAM's MLP)."""

    def __init__(self, width_in: int, hidden: int, width_out: int, depth: int, *, rngs: nnx.Rngs):
        widths = [width_in] + [hidden] * (depth - 1) + [width_out]
        self.layers = nnx.List(Linear(a, b, rngs=rngs) for a, b in pairwise(widths))

    def __call__(self, x: Float[AnyArray, "*batch _"]) -> Float[Array, "*batch _"]:
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


def l2_normalise(x: Float[AnyArray, "*batch channels"], eps: float) -> Float[Array, "*batch channels"]:
    """Return x / max(|x|, eps), with a finite gradient at 0."""
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    return jnp.multiply(x, jax.lax.rsqrt(jnp.maximum(squared, math.pow(eps, 2))))


def bilinear(x: Float[AnyArray, "*batch height width channels"], size: tuple[int, int]) -> Array:
    """Resize to `size` (height, width): bilinear, align_corners False, no antialias."""
    return separable(x, bilinear_weights(x.shape[-3], size[0]), bilinear_weights(x.shape[-2], size[1]))


def separable(
    x: Float[AnyArray, "*batch height width channels"],
    rows: Float[np.ndarray, "rows height"],
    columns: Float[np.ndarray, "columns width"],
) -> Float[Array, "*batch rows columns channels"]:
    """Apply one weight matrix to the height and one to the width."""
    dtype = x.dtype
    x = jnp.einsum("ih,...hwc->...iwc", jnp.asarray(rows, dtype), x)
    return jnp.einsum("jw,...iwc->...ijc", jnp.asarray(columns, dtype), x)


@cache
def bilinear_weights(size_in: int, size_out: int) -> np.ndarray:
    """Return weights [out, in]; the source coordinate is clamped at 0 below, its index above."""
    source = np.maximum((np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5, 0)
    low = np.minimum(np.floor(source).astype(int), size_in - 1)
    high = np.minimum(low + 1, size_in - 1)
    fraction = source - low
    weights = np.zeros((size_out, size_in))
    np.add.at(weights, (np.arange(size_out), low), 1 - fraction)
    np.add.at(weights, (np.arange(size_out), high), fraction)
    return weights.astype(np.float32)


@cache
def bicubic_weights(size_in: int, size_out: int, offset: float) -> np.ndarray:
    """Return the weights of torch's bicubic (coefficient -0.75), taps clamped at the border.

    The step is `size_in / (size_out + offset)`: DINOv2 passes a scale factor with 0.1 added
    (vision_transformer.py:180-212).
    """
    step = np.float32(size_in / (size_out + offset))  # torch rounds it to float32
    source = (np.arange(size_out) + 0.5) * np.float64(step) - 0.5
    base = np.floor(source).astype(int)
    weights = np.zeros((size_out, size_in))
    for tap in (-1, 0, 1, 2):
        index = np.clip(base + tap, 0, size_in - 1)
        np.add.at(weights, (np.arange(size_out), index), _cubic(source - (base + tap), -0.75))
    return weights.astype(np.float32)


@cache
def bicubic_antialias_weights(size_in: int, size_out: int) -> np.ndarray:
    """Return the weights of torch's antialiased bicubic: coefficient -0.5, widened, renormalised."""
    step = size_in / size_out
    stretch = max(step, 1.0)
    source = (np.arange(size_out) + 0.5) * step - 0.5
    weights = _cubic((source[:, None] - np.arange(size_in)[None]) / stretch, -0.5)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Return the values of Keys' cubic convolution kernel."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
