"""Test that onnxruntime runs EfficientNets as JAX does."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from exported import extended_bundle
from requirements import require_module

from segic_jax.config import EfficientNetConfig
from segic_jax.data.preprocess import resize_and_pad
from segic_jax.errors import ConfigError
from segic_jax.inference.engine import Engine
from segic_jax.inference.example import Example
from segic_jax.inference.segmenter import Segmenter
from segic_jax.models.backbones import backbone_template

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True, scope="module")
def _require_onnxruntime():
    require_module("onnx")
    require_module("onnxruntime")


def random_efficientnet(config: EfficientNetConfig, canvas: int):
    """Return a model with random weights; the variances of its BatchNorms are not one."""
    bundle = extended_bundle()
    random = np.random.default_rng(0)
    backbone = {
        name: random.uniform(0.5, 2, np.shape(value)).astype(np.float32) if name.endswith("var") else value
        for name, value in tiny.parameters(backbone_template(config), 0).items()
    }
    model = replace(bundle.config, backbone=config, canvas=canvas)
    return replace(bundle, config=model, backbone=backbone)


@pytest.mark.parametrize(
    ("config", "canvas"),
    [
        (EfficientNetConfig(0, blocks=(5, 15), fine_blocks=(4, 2)), 80),  # 32 does not divide it
        (EfficientNetConfig(1, blocks=(8,)), 96),
        (EfficientNetConfig(4, blocks=(29, 20)), 64),
    ],
)
def test_features_are_those_of_jax(config, canvas):
    bundle = random_efficientnet(config, canvas)
    pairs = [tiny.random_image(seed, 40, 70) for seed in range(2)]
    images = [resize_and_pad(image, mask[None], canvas) for image, mask in pairs]
    expected, features = (
        jax.tree.leaves(Engine(bundle, backend=backend).features(images, rows=3).features)
        for backend in ("jax", "onnxruntime")
    )
    assert len(features) == 1 + len(config.fine_blocks)
    for array, wanted in zip(features, expected, strict=True):
        wanted = np.asarray(wanted)
        np.testing.assert_allclose(array, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("method", ["segic", "training_free"])
def test_masks_of_the_packaged_model_are_those_of_jax(method):
    example = Example(EXAMPLES / "cat_reference.jpg", EXAMPLES / "cat_reference_mask.png", name="cat")
    [target, *_] = sorted((EXAMPLES / "targets").iterdir())
    one, other = (
        Segmenter.load("photo", method=method, backend=backend) for backend in ("jax", "onnxruntime")
    )
    context = one.fit([example])  # contexts serve both
    expected = one.predict(target, context, keep_absent=True)
    result = other.predict(target, context, keep_absent=True)
    assert np.mean(result.masks != expected.masks) < 1e-4
    assert expected.masks.any()
    np.testing.assert_allclose(result.presence, expected.presence, atol=1e-3)


def test_what_it_cannot_run_is_refused():
    with pytest.raises(ConfigError, match="runs EfficientNets"):
        Engine(tiny.bundle(), backend="onnxruntime")
    with pytest.raises(ConfigError, match="in float32"):
        Engine(extended_bundle(), precision="bfloat16", backend="onnxruntime")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(
        "segic_jax.inference.onnx_backbone.find_spec",
        lambda name: None if name == "onnxruntime" else find_spec(name),
    )
    with pytest.raises(ConfigError, match=r"needs onnxruntime: pip install 'segic_jax\[onnxruntime\]'"):
        Engine(extended_bundle(), backend="onnxruntime")


def test_engines_of_two_backends_share_no_backbone():
    bundle = extended_bundle()
    with pytest.raises(ConfigError, match="backend"):
        Engine(bundle, backend="jax", beside=Engine(bundle, backend="onnxruntime"))
