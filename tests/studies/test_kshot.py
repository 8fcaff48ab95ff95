"""Test the ways to use several references."""

import dataclasses

import numpy as np
import pytest
from tiny import bundle, random_image

from segic_jax.data.emoji.source import EmojiSource
from segic_jax.data.emoji.sprites import SpriteBank
from segic_jax.data.preprocess import resize_and_pad
from segic_jax.evaluate.episodes import score_episodes
from segic_jax.inference.engine import Engine
from studies import kshot


def test_for_equal_shots_the_largest_map_is_that_of_the_mean():
    """Check also that it differs for different shots."""
    model = bundle()
    image = random_image(0, 64, 64)[0]
    padded = resize_and_pad(image, np.zeros((0, 64, 64), bool), 64)
    visual = np.random.default_rng(0).normal(size=(1, 1, 2, 32)).astype(np.float32)

    def difference(shots):
        text = np.zeros((1, 1, 4), np.float32)
        tokens, largest = (
            np.asarray(engine.decode(engine.features([padded]), engine.prototypes(shots, text)).logits)
            for engine in (kshot.ShotEngine(model, method) for method in kshot.METHODS)
        )
        return np.abs(tokens - largest).max()

    assert difference(np.repeat(visual[:, :, :1], 2, axis=2)) < 1e-4
    assert difference(visual) > 1e-3


def test_the_mean_has_the_scores_of_the_evaluation(monkeypatch):
    load = SpriteBank.load
    monkeypatch.setattr(
        SpriteBank, "load", lambda split: dataclasses.replace(load(split), classes=load(split).classes[:9])
    )
    monkeypatch.setattr("segic_jax.data.emoji.source.SCENES", 3)
    model, source = bundle(), EmojiSource("novel")
    scores = kshot.compare(model, source, 2)
    assert list(scores) == ["mean", "tokens", "max"]
    assert scores["mean"] == score_episodes(Engine(model), source, source.manifest("original", 0, 2))
    assert scores["mean"]["miou"] != scores["tokens"]["miou"]
    one_shot = kshot.compare(model, source, 1)  # for one shot the methods are equal
    mious = [method["miou"] for method in one_shot.values()]
    assert mious == pytest.approx([mious[0]] * 3, abs=0.01)
