"""Compare EfficientNet-Lite with XLA's own convolutions and with a naive reading of its definition."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import official
import pytest
from flax import nnx

from segic_jax.config import EfficientNetConfig
from segic_jax.models.backbones import backbone_template
from segic_jax.models.efficientnet import DepthwiseConv
from segic_jax.weights.formats import recognise

GOLDEN = Path(__file__).parents[1] / "goldens/efficientnet_lite.npz"


@pytest.mark.parametrize(("size", "stride", "side"), [(3, 1, 8), (3, 2, 8), (3, 2, 9), (5, 2, 10), (5, 2, 7)])
def test_depthwise_convolution(size, stride, side):
    layer = DepthwiseConv(size, stride, 6, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, side, side + 1, 6))
    expected = jax.lax.conv_general_dilated(
        x,
        layer.kernel[...][:, :, None],
        (stride, stride),
        "SAME",
        feature_group_count=6,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(layer(x), expected, atol=1e-6)


def test_the_blocks_equal_those_of_the_published_code():
    template = backbone_template(EfficientNetConfig.published(0))
    [part] = recognise(official.efficientnet_lite(), config=None, what="test")
    params = part.parameters(template.shapes)
    with np.load(GOLDEN) as golden:
        outputs = jax.jit(lambda x: template.bind(params).block_outputs(x))(golden["in.images"])
        for block in (0, 2, 4, 7, 10, 15):
            np.testing.assert_allclose(outputs[block], golden[f"out.block.{block}"], atol=1e-4)


def test_features_are_joined_on_one_grid_and_standardised():
    """A canvas that 32 does not divide; blocks at strides 16 and 32, and two finer levels."""
    config = EfficientNetConfig(0, blocks=(7, 12), fine_blocks=(4, 2))
    template = backbone_template(config)
    params = template.init(0)
    # With these last BatchNorms the outputs have another mean and variance than 0 and 1.
    params = {
        n: p + 2 if n.endswith("bn2/bias") else p * 3 if n.endswith("bn2/scale") else p
        for n, p in params.items()
    }
    images = jax.random.normal(jax.random.key(1), (1, 48, 48, 3))
    module = template.bind(params)
    features, outputs = module(images), module.block_outputs(images)
    assert features.patches.shape == (1, 3, 3, config.width)
    assert [x.shape for x in features.fine] == [(1, 6, 6, 40), (1, 12, 12, 24)]
    # Block 5 begins a stage, 6 and 7 are added to it: three times mean 2, variance 9.
    np.testing.assert_allclose(
        features.patches[..., : outputs[7].shape[-1]], (outputs[7] - 6) / np.sqrt(27), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(features.fine[0], (outputs[4] - 4) / np.sqrt(18), rtol=1e-5, atol=1e-5)
    assert jnp.isfinite(features.patches).all()
    assert len(template.bind(params).blocks) == 13  # later blocks are not built
