"""Run a frozen EfficientNet-Lite: pixels on a canvas -> standardised features of several blocks on a grid.

Follows efficientnet/lite/efficientnet_lite_builder.py of TensorFlow's TPU models: inverted residual blocks
without squeeze-and-excitation, ReLU6, "same" padding, BatchNorm with its stored statistics. What comes after
the blocks, a convolution and the classifier, is left out. Attribute names are those of the PyTorch port
`efficientnet-lite-pytorch` without their leading underscore, so weights port by name.
"""

from collections.abc import Mapping
from itertools import accumulate

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from segic_jax.config import EfficientNetConfig, MBConv
from segic_jax.models.features import Features
from segic_jax.models.layers import bilinear, torch_uniform
from segic_jax.models.params import AnyArray
from segic_jax.models.portable import is_for_onnx

_STEM_CHANNELS = 32
NORM_EPSILON = 1e-3


class EfficientNet(nnx.Module):
    """Run the backbone on any canvas that 16 divides; blocks that no output needs are not built."""

    def __init__(self, config: EfficientNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.conv_stem = SpatialConv(3, 2, 3, _STEM_CHANNELS, rngs=rngs)
        self.bn0 = BatchNorm(_STEM_CHANNELS)
        layout = config.layout()[: max(config.outputs) + 1]
        self.blocks = nnx.List(InvertedResidual(block, rngs=rngs) for block in layout)

    def __call__(self, images: Float[AnyArray, "batch height width 3"]) -> Features:
        """Return the features of normalised images."""
        outputs = self.block_outputs(images)
        return self.join({block: outputs[block] for block in self.config.outputs}, images.shape[1:3])

    def join(self, outputs: Mapping[int, Float[AnyArray, "batch _ _ _"]], size: tuple[int, ...]) -> Features:
        """Standardise the outputs of blocks and join them.

        Args:
            outputs: of `config.outputs`.
            size: (h, w) of the images.
        """
        means, variances = self._statistics()

        def standardised(block: int) -> AnyArray:
            return (outputs[block] - means[block]) * lax.rsqrt(variances[block])

        grid = tuple(side // self.config.stride for side in size)
        patches = [
            x if x.shape[1:3] == grid else bilinear(x, grid) for x in map(standardised, self.config.blocks)
        ]
        return Features(jnp.concatenate(patches, axis=-1), tuple(map(standardised, self.config.fine_blocks)))

    def block_outputs(self, images: Float[AnyArray, "batch height width 3"]) -> list[Array]:
        """Return the output of every block, as the published code computes it."""
        x = _relu6(self.bn0(self.conv_stem(images)))
        return list(accumulate(self.blocks, lambda x, block: block(x), initial=x))[1:]

    def _statistics(self) -> tuple[list[Array], list[Array]]:
        """Return mean and variance of each block's output channels, as the last BatchNorms imply them.

        A BatchNorm leaves the mean `bias` and the variance `scale`^2 on the data that it was trained on.
        Along residual connections means add up; so do variances, as far as the summands are not correlated.
        """
        means, variances = [], []
        for block in self.blocks:
            mean, variance = block.bn2.bias[...], block.bn2.scale[...] ** 2
            if block.residual:
                mean, variance = mean + means[-1], variance + variances[-1]
            means.append(mean)
            variances.append(variance)
        return means, variances


class InvertedResidual(nnx.Module):
    """Expand the channels, filter each by itself, project them, and add the input where it fits."""

    def __init__(self, block: MBConv, *, rngs: nnx.Rngs):
        hidden = block.inputs * block.expand
        self.residual = block.stride == 1 and block.inputs == block.outputs
        if block.expand > 1:
            self.expand_conv = PointConv(block.inputs, hidden, rngs=rngs)
            self.bn0 = BatchNorm(hidden)
        else:
            self.expand_conv = self.bn0 = None
        self.depthwise_conv = DepthwiseConv(block.kernel, block.stride, hidden, rngs=rngs)
        self.bn1 = BatchNorm(hidden)
        self.project_conv = PointConv(hidden, block.outputs, rngs=rngs)
        self.bn2 = BatchNorm(block.outputs)

    def __call__(self, x: Float[Array, "batch height width _"]) -> Float[Array, "batch rows columns _"]:
        y = x
        if self.expand_conv is not None and self.bn0 is not None:
            y = _relu6(self.bn0(self.expand_conv(y)))
        y = _relu6(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if self.residual else y


class BatchNorm(nnx.Module):
    """Apply a BatchNorm with frozen statistics; attribute names are those of Flax."""

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.Param(jnp.zeros(channels))
        self.var = nnx.Param(jnp.ones(channels))

    def __call__(self, x: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
        factor = self.scale[...] * lax.rsqrt(self.var[...] + NORM_EPSILON)
        return x * factor + (self.bias[...] - self.mean[...] * factor)


class PointConv(nnx.Module):
    """Apply a 1 x 1 convolution without bias: a matrix product, with sums in float32."""

    def __init__(self, features_in: int, features_out: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(torch_uniform(rngs.params(), (features_in, features_out)))

    def __call__(self, x: Float[Array, "*batch _"]) -> Float[Array, "*batch _"]:
        if is_for_onnx():
            return _convolve(x, self.kernel[...][None, None])
        return jnp.matmul(x, self.kernel[...], preferred_element_type=jnp.float32).astype(x.dtype)


class SpatialConv(nnx.Module):
    """Apply a convolution without bias and with "same" padding."""

    def __init__(self, size: int, stride: int, features_in: int, features_out: int, *, rngs: nnx.Rngs):
        self.stride = stride
        self.kernel = nnx.Param(torch_uniform(rngs.params(), (size, size, features_in, features_out)))

    def __call__(self, x: Float[AnyArray, "batch height width _"]) -> Float[Array, "batch rows columns _"]:
        return _convolve(x, self.kernel[...], self.stride)


class DepthwiseConv(nnx.Module):
    """Filter each channel by itself, without bias and with "same" padding.

    The sum over shifted images is one fused loop; XLA's grouped convolution is much slower on a CPU.
    """

    def __init__(self, size: int, stride: int, channels: int, *, rngs: nnx.Rngs):
        self.stride = stride
        self.kernel = nnx.Param(torch_uniform(rngs.params(), (size, size, channels)))

    def __call__(self, x: Float[Array, "batch height width channels"]) -> Array:
        size, stride = self.kernel.shape[0], self.stride
        if is_for_onnx():
            return _convolve(x, self.kernel[...][:, :, None], stride, groups=x.shape[-1])
        sides = x.shape[1:3]
        outputs = [-(-side // stride) for side in sides]
        padding = np.maximum((np.array(outputs) - 1) * stride + size - np.array(sides), 0)
        before = padding // 2  # TensorFlow's "same": the odd row or column comes after the image
        x = jnp.pad(
            x, [(0, 0), *((int(b), int(p - b)) for b, p in zip(before, padding, strict=True)), (0, 0)]
        )
        rows, columns = ((side - 1) * stride + 1 for side in outputs)
        y = jnp.zeros((), x.dtype)
        for i in range(size):
            for j in range(size):
                y = y + x[:, i : i + rows : stride, j : j + columns : stride] * self.kernel[i, j]
        return y


def _convolve(
    x: Float[AnyArray, "batch height width _"],
    kernel: Float[AnyArray, "size size _ _"],
    stride: int = 1,
    groups: int = 1,
) -> Float[Array, "batch rows columns _"]:
    """Convolve with "same" padding.

    For ONNX the channels come first, as its operator has them, and last again after it: the transposes of
    one convolution and the next are inverse, and onnxruntime removes them.
    """
    strides = stride, stride
    if not is_for_onnx():
        layout = "NHWC", "HWIO", "NHWC"
        return lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=layout)
    y = lax.conv_general_dilated(
        jnp.transpose(x, (0, 3, 1, 2)),
        jnp.transpose(kernel, (3, 2, 0, 1)),
        strides,
        "SAME",
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
        feature_group_count=groups,
    )
    return jnp.transpose(y, (0, 2, 3, 1))


def _relu6(x: Array) -> Array:
    return lax.clamp(np.asarray(0, x.dtype), x, np.asarray(6, x.dtype))
