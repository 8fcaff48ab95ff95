"""Test that the page holds one backbone, whatever the methods that visitors choose."""

from dataclasses import replace

import numpy as np
import pytest
import tiny

from segic_jax import Example
from segic_jax.app.segmenters import Segmenters
from segic_jax.errors import ConfigError
from segic_jax.inference.engine import Engine, extract


def predict(segmenter) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    mask = np.zeros((60, 80), bool)
    mask[20:40, 20:50] = True
    segmenter.predict(image, segmenter.fit(Example(image, mask)))


@pytest.mark.parametrize("first", ["segic", "training_free"])
def test_methods_share_the_weights_of_the_backbone_and_its_programs(first):
    segmenters = Segmenters(tiny.bundle(), method=first)
    one, other = (segmenters.of(method) for method in sorted(segmenters.methods, key=first.__ne__))
    assert one.method == first
    assert other.method != first
    predict(one)
    programs = extract._cache_size()
    predict(other)
    assert extract._cache_size() == programs
    (weights,), (shared,) = one.engine._backbones.values(), other.engine._backbones.values()
    assert weights
    for name, value in weights.items():
        assert shared[name] is value


def test_only_the_trained_head_places_a_head():
    segmenters = Segmenters(tiny.bundle(), method="training_free")
    assert not segmenters.of("training_free").engine._heads
    (head,) = segmenters.of("segic").engine._heads.values()
    assert head.keys() == tiny.bundle().head.keys()


def test_other_weights_and_precisions_are_not_shared():
    bundle = tiny.bundle()
    engine = Engine(bundle, precision="float32")
    with pytest.raises(ConfigError, match="share a backbone"):
        Engine(bundle, precision="bfloat16", beside=engine)
    with pytest.raises(ConfigError, match="share a backbone"):
        Engine(replace(bundle, backbone=dict(bundle.backbone)), precision="float32", beside=engine)
