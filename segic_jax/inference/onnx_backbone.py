"""Compute the blocks of an EfficientNet-Lite with onnxruntime, which takes a CPU less time than XLA does.

The graph is written from the weights, channels first and with the BatchNorms folded into the convolutions.
What comes before the blocks and after them is that of `models`, so that features are the same within
rounding; `benchmarks.exported` times both.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Float

from segic_jax.config import Backbone, EfficientNetConfig, MBConv
from segic_jax.errors import ConfigError
from segic_jax.models.efficientnet import NORM_EPSILON
from segic_jax.models.params import Params
from segic_jax.runtime.processors import usable_processors

_OPSET, _IR_VERSION = 18, 10  # not the newest, which older versions of onnxruntime refuse


class OnnxBlocks:
    """Run the stem and the blocks on the processors of this machine."""

    def __init__(self, config: Backbone, backbone: Params):
        """Make the graph and load it.

        Raises:
            ConfigError: the backbone is no EfficientNet, or a package is missing.
        """
        if not isinstance(config, EfficientNetConfig):
            raise ConfigError(
                "The backend onnxruntime runs EfficientNets, and others gain nothing from it: leave it out."
            )
        if missing := [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]:
            raise ConfigError(
                f"The backend onnxruntime needs {' and '.join(missing)}: pip install 'segic_jax[onnxruntime]'"
            )
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        # Its threads would otherwise spin after each image, on the processors that decode the masks.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.intra_op_num_threads = usable_processors()
        graph = _Graph(config, {name: np.asarray(value, np.float32) for name, value in backbone.items()})
        self._blocks = config.outputs
        self._session = onnxruntime.InferenceSession(graph.serialised(), options, ["CPUExecutionProvider"])

    def __call__(
        self, pixels: Float[np.ndarray, "n 3 S S"]
    ) -> dict[int, Float[np.ndarray, "n h w channels"]]:
        """Return the outputs of `config.outputs` by their blocks.

        Args:
            pixels: normalised images.
        """
        outputs = self._session.run([_output(block) for block in self._blocks], {"pixels": pixels})
        return dict(zip(self._blocks, map(np.asarray, outputs), strict=True))


class _Graph:
    """Collect the operators and weights of an EfficientNet in ONNX's layout."""

    def __init__(self, config: EfficientNetConfig, params: Mapping[str, np.ndarray]):
        self._params = params
        self._nodes: list[Any] = []
        self._weights: dict[str, np.ndarray] = {
            "zero": np.zeros((), np.float32),
            "six": np.full((), 6, np.float32),
        }
        self._outputs = config.outputs
        x = self._convolve("pixels", "conv_stem", "bn0", stride=2)
        for index, block in enumerate(config.layout()[: max(config.outputs) + 1]):
            x = self._block(x, f"blocks/{index}/", block)
            if index in config.outputs:
                self._add("Transpose", [x], _output(index), perm=[0, 2, 3, 1])

    def serialised(self) -> bytes:
        """Return the graph as the content of a file."""
        from onnx import TensorProto, helper, numpy_helper

        def ports(names: list[str], channels: int | None) -> list[Any]:
            return [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, channels, None, None])
                for name in names
            ]

        graph = helper.make_graph(
            [
                helper.make_node(kind, inputs, [output], **options)
                for kind, inputs, output, options in self._nodes
            ],
            "blocks",
            ports(["pixels"], 3),
            ports([_output(block) for block in self._outputs], None),
            [numpy_helper.from_array(value, name) for name, value in self._weights.items()],
        )
        opsets = [helper.make_opsetid("", _OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION).SerializeToString()

    def _block(self, x: str, name: str, block: MBConv) -> str:
        """Add an inverted residual block; see `models.efficientnet.InvertedResidual`."""
        y = x
        if block.expand > 1:
            y = self._convolve(y, f"{name}expand_conv", f"{name}bn0")
        y = self._convolve(y, f"{name}depthwise_conv", f"{name}bn1", stride=block.stride, depthwise=True)
        y = self._convolve(y, f"{name}project_conv", f"{name}bn2", clipped=False)
        residual = block.stride == 1 and block.inputs == block.outputs
        return self._add("Add", [x, y], f"{name}sum") if residual else y

    def _convolve(
        self, x: str, name: str, norm: str, stride: int = 1, *, depthwise: bool = False, clipped: bool = True
    ) -> str:
        """Add a convolution with its BatchNorm and, if `clipped`, ReLU6."""
        kernel, scale, bias, mean, variance = (
            self._params[key]
            for key in (f"{name}/kernel", *(f"{norm}/{part}" for part in ("scale", "bias", "mean", "var")))
        )
        if depthwise:
            kernel = kernel[:, :, None]
        kernel = kernel.reshape(*(1, 1)[: 4 - kernel.ndim], *kernel.shape)  # of a 1 x 1 convolution
        factor = scale / np.sqrt(variance + np.float32(NORM_EPSILON))
        self._weights |= {
            f"{name}/kernel": np.ascontiguousarray((kernel * factor).transpose(3, 2, 0, 1)),
            f"{name}/bias": bias - mean * factor,
        }
        size, groups = kernel.shape[0], len(factor) if depthwise else 1
        options = {"strides": [stride] * 2, "kernel_shape": [size] * 2, "group": groups}
        inputs = [x, f"{name}/kernel", f"{name}/bias"]
        y = self._add("Conv", inputs, name, auto_pad="SAME_UPPER", **options)
        return self._add("Clip", [y, "zero", "six"], f"{name}/clipped") if clipped else y

    def _add(self, kind: str, inputs: list[str], output: str, **options: Any) -> str:
        self._nodes.append((kind, inputs, output, options))
        return output


def _output(block: int) -> str:
    return f"block_{block}"
