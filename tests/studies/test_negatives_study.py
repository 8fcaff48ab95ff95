"""Test the study of negative examples and look-alikes."""

import dataclasses

import numpy as np
from tiny import bundle

from segic_jax.data.emoji.scenes import scene
from segic_jax.data.emoji.sprites import SpriteBank
from segic_jax.inference.segmenter import Segmenter
from studies import negatives
from studies.negatives import SearchScene


def test_a_negative_takes_masks_off_look_alikes(monkeypatch):
    load = SpriteBank.load
    monkeypatch.setattr(
        SpriteBank, "load", lambda split: dataclasses.replace(load(split), classes=load(split).classes[:9])
    )
    results = negatives.compare(Segmenter(bundle()), "novel", 1)
    assert list(results) == ["positive alone", "with one negative"]
    without, with_one = results.values()
    assert with_one.on_alike < without.on_alike
    assert with_one.on_alike_alone < without.on_alike_alone


def test_scores_of_known_masks():
    sprites = SpriteBank.load("novel").classes
    scenes = [
        SearchScene("x", scene(sprites[:3], "a", 0), present=True),
        SearchScene("x", scene(sprites[1:3], "b", 0), present=False),
    ]
    truth = [search.scene.labels == (1 if search.present else 9) for search in scenes]
    alike = [search.scene.labels == len(search.scene.names) - 1 for search in scenes]
    assert negatives.score(truth, scenes) == (100, 0, 0, 0)
    assert negatives.score(alike, scenes) == (0, 100, 100, 100)


def test_scenes_are_repeatable_and_show_their_objects():
    sprites = SpriteBank.load("novel").classes[:3]
    first, repeated, other = scene(sprites, "a", 0), scene(sprites, "a", 0), scene(sprites, "a", 1)
    assert np.array_equal(first.image, repeated.image)
    assert not np.array_equal(first.image, other.image)
    assert first.names == tuple(sprite.name for sprite in sprites)
    assert set(np.unique(first.labels)) == {0, 1, 2, 3}
