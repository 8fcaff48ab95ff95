"""Test DINOv3's rotary positions and its features beyond what the comparison with PyTorch covers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import official
import pytest

from segic_jax.config import DinoV3Config, ModelConfig
from segic_jax.errors import ConfigError
from segic_jax.models.backbones import backbone_template
from segic_jax.models.dinov3 import RotaryPositions, rotary_periods, rotate
from segic_jax.weights.formats import recognise

CONFIG = official.DINOV3


def test_positions_count_as_differences():
    """A product of two rotated vectors depends on how far apart their patches are, not on where they are."""
    rows, columns, channels = 6, 6, 16
    rotation = jax.jit(lambda: RotaryPositions(channels)(rows, columns, 0))()
    random = np.random.default_rng(0)
    q, k = (jnp.broadcast_to(x, (1, rows * columns, 1, channels)) for x in random.normal(size=(2, channels)))
    q, k = (np.asarray(rotate(x.astype(jnp.float32), rotation))[0, :, 0] for x in (q, k))
    products = (q @ k.T).reshape(rows, columns, rows, columns)
    np.testing.assert_allclose(products[0, 0, 2, 3], products[3, 1, 5, 4], atol=1e-5)
    assert abs(products[0, 0, 2, 3] - products[0, 0, 3, 2]) > 1e-3  # rows and columns are told apart


def test_other_tokens_are_not_turned():
    rotation = RotaryPositions(8)(2, 3, 5)
    assert rotation.sin.shape == (11, 1, 8)
    np.testing.assert_array_equal(rotation.sin[:5], 0)
    np.testing.assert_array_equal(rotation.cos[:5], 1)
    np.testing.assert_allclose(rotary_periods(4), [1, 100**0.25, 10, 100**0.75], rtol=1e-6)


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
def test_features_lie_on_a_grid(ffn):
    config = dataclasses.replace(CONFIG, ffn=ffn)
    template = backbone_template(config)
    [part] = recognise(official.dinov3(config), config=None, what="test")
    images = np.random.default_rng(1).normal(size=(2, 48, 80, 3)).astype(np.float32)
    features = jax.jit(lambda params, x: template.bind(params)(x))(part.parameters(template.shapes), images)
    assert features.patches.shape == (2, 3, 5, config.width)
    assert features.registers.shape == (2, 4, config.width)
    assert features.fine == ()
    assert np.isfinite(features.patches).all()


def test_a_canvas_has_whole_patches_and_heads_whole_quarters():
    assert ModelConfig(backbone=CONFIG, canvas=64).grid == 4
    with pytest.raises(ConfigError, match="a multiple of the backbone's patches of 16"):
        ModelConfig(backbone=CONFIG, canvas=56)
    with pytest.raises(ConfigError, match="divisible by 4 x num_heads"):
        DinoV3Config(width=36, num_heads=6)
