"""Test the ways to use several references."""

import dataclasses

import numpy as np
import pytest
from tiny import EXTENDED, bundle, parameters, random_image

from segic_jax.data.emoji.source import EmojiSource
from segic_jax.data.emoji.sprites import SpriteBank
from segic_jax.data.preprocess import resize_and_pad
from segic_jax.evaluate.episodes import score_episodes
from segic_jax.inference.engine import Engine
from segic_jax.models import segic
from segic_jax.models.encoding import Prototypes
from segic_jax.models.features import Features
from segic_jax.models.head import head_template
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


def test_for_equal_shots_every_map_of_a_level_is_that_of_the_mean():
    random = np.random.default_rng(0)
    features = Features(
        random.normal(size=(1, 4, 4, EXTENDED.backbone.width)).astype(np.float32),
        tuple(
            random.normal(size=(1, side, side, width)).astype(np.float32)
            for side, width in zip((8, 16), EXTENDED.backbone.fine_widths, strict=True)
        ),
    )
    shots = np.repeat(random.normal(size=(1, 1, 1, EXTENDED.backbone.width)).astype(np.float32), 2, axis=2)
    prototypes = Prototypes(
        shots.mean(2), shots, np.ones((1, 1, 2), bool), np.zeros((1, 1, EXTENDED.text_width), np.float32)
    )
    head = parameters(head_template(EXTENDED), 0)
    logits, _ = segic.decode(EXTENDED, head, features, prototypes)
    largest = kshot._decode_max(EXTENDED, head, features, prototypes).logits
    np.testing.assert_allclose(largest, segic.upsample(logits, EXTENDED.canvas), atol=1e-4)


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
