"""The commands that measure the API: ways of joining shots, presence, negatives."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny import bundle, picture

from segic_jax.data.emoji.scenes import scene
from segic_jax.data.emoji.source import EmojiSource
from segic_jax.data.emoji.sprites import SpriteBank
from segic_jax.data.preprocess import resize_and_pad
from segic_jax.evaluate import calibration as calibration_tool
from segic_jax.evaluate.calibration import Asked, calibrate
from segic_jax.inference.presence import EVIDENCE, read_calibration
from segic_jax.inference.segmenter import Segmenter
from segic_jax.weights.bundle import load_bundle, save_bundle
from studies import kshot, negatives


@pytest.fixture
def few_classes(monkeypatch):
    load = SpriteBank.load
    monkeypatch.setattr(
        SpriteBank, "load", lambda split: dataclasses.replace(load(split), classes=load(split).classes[:9])
    )


def test_ways_to_join_shots():
    """Of two equal shots the largest map is the map of the mean; of others it is not."""
    model = bundle()
    image = picture(0, 64, 64)[0]
    placed = resize_and_pad(image, np.zeros((0, 64, 64), bool), 64)
    visual = np.random.default_rng(0).normal(size=(1, 1, 2, 32)).astype(np.float32)

    def difference(shots):
        text = np.zeros((1, 1, 4), np.float32)
        engines = [kshot.EachShot(model, way) for way in kshot.OTHERS]
        one, other = (
            engine.decode(engine.features([placed]), engine.prototypes(shots, text)).logits
            for engine in engines
        )
        return np.abs(np.asarray(one) - np.asarray(other)).max()

    assert difference(np.repeat(visual[:, :, :1], 2, axis=2)) < 1e-4
    assert difference(visual) > 1e-3


def test_kshot_scores_every_way(few_classes, monkeypatch):
    monkeypatch.setattr("segic_jax.data.emoji.source.SCENES", 3)
    scores = kshot.compare(bundle(), EmojiSource("novel"), 2)
    assert list(scores) == ["mean", "tokens", "max"]
    assert all(0 <= one["miou"] <= 100 for one in scores.values())


def test_scenes_are_the_same_again_and_show_what_they_say():
    classes = SpriteBank.load("novel").classes[:3]
    one, again, other = scene(classes, "a", 0), scene(classes, "a", 0), scene(classes, "a", 1)
    assert np.array_equal(one.image, again.image)
    assert not np.array_equal(one.image, other.image)
    assert one.names == tuple(concept.name for concept in classes)
    assert one.labels.max() <= 3
    assert (one.labels == 1).any()


def test_presence_is_asked_about_absent_classes_too(few_classes):
    asked = calibration_tool.ask(Segmenter(bundle()), "novel", 3, 1)
    assert asked.evidence.shape == (len(asked.there), len(EVIDENCE))
    assert 0 < asked.there.sum() < len(asked.there) <= 3 * calibration_tool.ASKED
    assert np.isfinite(asked.evidence).all()


def test_a_calibration_is_kept_in_the_model_file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_bundle(path, bundle(), half=False)
    before = load_bundle(path)
    random = np.random.default_rng(0)
    asked = Asked(random.random((99, len(EVIDENCE))).astype(np.float32), random.random(99) < 0.5)
    calibration = calibrate(asked)
    calibration_tool.save(path, calibration)
    after = load_bundle(path)
    assert read_calibration(after.notes) == calibration
    assert after.notes["cosine_threshold"] == 0.3
    jax.tree.map(np.testing.assert_array_equal, after.head, before.head)
    jax.tree.map(np.testing.assert_array_equal, after.backbone, before.backbone)
    segmenter = Segmenter(before)
    assert Segmenter(after).fingerprint == segmenter.fingerprint  # contexts fit before and after


def test_negatives_are_measured_on_look_alikes(few_classes):
    results = negatives.compare(Segmenter(bundle()), "novel", 1)
    assert list(results) == ["positive alone", "with one negative"]
    without, with_one = results.values()
    assert with_one.on_alike <= without.on_alike
    assert all(0 <= value <= 100 for value in (*without, *with_one))


def test_what_is_measured_of_negatives():
    concept = SpriteBank.load("novel").classes
    shown = [("x", scene(concept[:3], "a", 0), True), ("x", scene(concept[1:3], "b", 0), False)]
    truth = [one.labels == (1 if there else 9) for _, one, there in shown]
    near = [one.labels == len(one.names) - 1 for _, one, _ in shown]
    assert negatives.measure(truth, shown) == (100, 0, 0, 0)
    assert negatives.measure(near, shown) == (0, 100, 100, 100)
