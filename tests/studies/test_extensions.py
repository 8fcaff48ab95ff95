"""Test the study of the head's extensions."""

import dataclasses

import pytest
from tiny import DiskSource, bundle

from segic_jax.config import EfficientNetConfig
from segic_jax.errors import ConfigError
from segic_jax.train.experiment import load_config
from studies import extensions


def test_the_variants_differ_in_the_extensions_only():
    config = load_config("photo")
    variants = {name: extensions.variant(config, name) for name in extensions.VARIANTS}
    assert variants["both"] == config
    plain = variants["plain"].model
    assert isinstance(plain.backbone, EfficientNetConfig)
    assert (plain.backbone.fine_blocks, plain.head.level_maps) == ((), False)
    assert variants["level maps"].model.backbone == plain.backbone
    assert variants["finer levels"].model.head == plain.head
    for variant in variants.values():
        assert dataclasses.replace(variant, model=config.model) == config


def test_a_backbone_without_finer_levels_is_refused():
    with pytest.raises(ConfigError, match="no fine_blocks"):
        extensions.variant(load_config("emoji_tiny"), "both")


def test_scores_are_those_of_the_evaluation_and_gains_their_differences():
    models = {"plain": bundle(0), "level maps": bundle(1), "both": bundle(0)}
    scores = extensions.compare(models, DiskSource())
    for name, score in scores.items():
        alone = extensions.compare({"plain": models[name]}, DiskSource())["plain"]
        assert score.miou == pytest.approx(alone.miou)
        assert score.gain == pytest.approx(score.miou - scores["plain"].miou)
        assert score.low <= score.gain + 1e-6
        assert score.gain <= score.high + 1e-6
    assert scores["both"][1:] == (0, 0, 0)
    assert scores["level maps"].gain != 0
