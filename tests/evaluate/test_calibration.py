"""Test the calibration of presence and the similarity threshold."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny import DiskSource, bundle

from segic_jax.data.emoji.sprites import SpriteBank
from segic_jax.evaluate import metrics
from segic_jax.evaluate.calibration import (
    CLASSES_PER_SCENE,
    THRESHOLDS,
    FolderSamples,
    PresenceSamples,
    auroc,
    collect_samples,
    false_positive_rate,
    fit_calibration,
    save_calibration,
    tune_threshold,
)
from segic_jax.evaluate.episode_stream import predict_episodes
from segic_jax.evaluate.episode_tasks import make_tasks
from segic_jax.evaluate.protocols import class_counts, find_protocol, prediction_row
from segic_jax.inference.engine import Engine
from segic_jax.inference.presence import EVIDENCE, decide_presence, read_calibration
from segic_jax.inference.segmenter import Segmenter
from segic_jax.weights.bundle import load_bundle, save_bundle


def random_samples(count: int = 4000) -> PresenceSamples:
    """Draw evidence of which one value is normal with means two standard deviations apart."""
    random = np.random.default_rng(0)
    present = random.random(count) < 0.3
    evidence = random.normal(size=(count, len(EVIDENCE))).astype(np.float32)
    evidence[:, 2] += 2 * present
    evidence[:, EVIDENCE.index("area")] = 1
    return PresenceSamples(evidence, present)


def test_the_fit_separates_present_from_absent_classes():
    """Expect AUROC = Phi(2 / sqrt 2), and even odds between the two means."""
    samples = random_samples()
    calibration = fit_calibration(samples)
    presence, present = decide_presence(calibration, samples.evidence)
    assert auroc(presence, samples.present) == pytest.approx(0.921, abs=0.012)
    assert present[samples.present].mean() == pytest.approx(0.95, abs=0.002)
    rate = false_positive_rate(presence, samples.present)
    assert rate == pytest.approx(present[~samples.present].mean(), abs=0.002)
    middle = np.zeros((1, len(EVIDENCE)), np.float32)
    middle[0, 2] = 1
    middle[0, EVIDENCE.index("area")] = 1
    assert calibration.presence(middle)[0] == pytest.approx(0.5, abs=0.05)


def test_a_fit_may_read_a_part_of_the_evidence():
    samples = random_samples()
    calibration = fit_calibration(samples, EVIDENCE[:2])
    assert {name for name, weight in calibration.weights.items() if weight} == set(EVIDENCE[:2])
    assert auroc(calibration.presence(samples.evidence), samples.present) < 0.6  # the third one tells


def test_auroc_counts_pairs():
    score, present = np.array([1, 2, 2, 3.0, 0]), np.array([True, True, False, True, False])
    pairs = [(a > b) + 0.5 * (a == b) for a in score[present] for b in score[~present]]
    assert auroc(score, present) == pytest.approx(np.mean(pairs))


@pytest.fixture
def few_classes(monkeypatch):
    load = SpriteBank.load
    monkeypatch.setattr(
        SpriteBank, "load", lambda split: dataclasses.replace(load(split), classes=load(split).classes[:9])
    )


def test_samples_include_absent_classes(few_classes):
    samples = collect_samples(Segmenter(bundle()), "novel", 3, 1)
    assert samples.evidence.shape == (len(samples.present), len(EVIDENCE))
    assert 0 < samples.present.sum() < len(samples.present) <= 3 * CLASSES_PER_SCENE
    assert np.isfinite(samples.evidence).all()


def test_a_fold_is_measured_with_fits_that_never_saw_its_classes():
    """Ask about four classes on images of five; the evidence names both classes."""
    asked, shown = np.tile(np.arange(4), 5), np.repeat(np.arange(5), 4)
    evidence = np.zeros((20, len(EVIDENCE)), np.float32)
    evidence[:, 0], evidence[:, 1] = asked, shown
    samples = FolderSamples(PresenceSamples(evidence, asked == shown), asked, shown)
    measured = [samples.about(fold, 2).evidence[:, :2] for fold in (0, 1)]
    fitted = [samples.without(fold, 2).evidence[:, :2] for fold in (0, 1)]
    assert len(np.unique(np.concatenate(measured), axis=0)) == 20  # every question once
    assert sorted(map(tuple, fitted[0])) == [(1, 1), (1, 3), (3, 1), (3, 3)]
    assert {row[0] for row in measured[0]} == {0, 2}
    assert samples.without(1, 2).present.sum() == 2


def test_a_calibration_is_saved_in_the_model_file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_bundle(path, bundle(), float16=False)
    before = load_bundle(path)
    random = np.random.default_rng(0)
    evidence = random.random((99, len(EVIDENCE))).astype(np.float32)
    calibration = fit_calibration(PresenceSamples(evidence, random.random(99) < 0.5))
    save_calibration(path, calibration)
    after = load_bundle(path)
    assert read_calibration(after.notes) == calibration
    assert after.notes["cosine_threshold"] == 0.3
    jax.tree.map(np.testing.assert_array_equal, after.head, before.head)
    jax.tree.map(np.testing.assert_array_equal, after.backbone, before.backbone)
    segmenter = Segmenter(before)
    assert Segmenter(after).fingerprint == segmenter.fingerprint  # saved contexts remain valid


def test_the_threshold_equals_that_of_a_plain_loop():
    model, source = bundle(), DiskSource()
    manifest = source.manifest("", 0, 1)
    threshold, best = tune_threshold(model, (source, manifest))
    tasks = make_tasks(model, source, [manifest])
    predictions = list(
        predict_episodes({"segic": Engine(model)}, source, tasks, lambda p: p, similarity=True)
    )
    scores = []
    for value in THRESHOLDS:
        rows = [
            prediction_row(
                p._replace(logits={"segic": p.similarity - np.float32(value)}), find_protocol("original")
            )
            for p in predictions
        ]
        scores.append(metrics.mean_iou(class_counts(rows)))
    assert best == pytest.approx(max(scores), abs=0.3)  # the shifted map is rounded
    assert threshold == pytest.approx(THRESHOLDS[int(np.argmax(scores))], abs=0.011)
