import dataclasses
import json

import cv2
import jax
import numpy as np
import pytest
from tiny import DiskSource, bundle

from segic_jax import programs
from segic_jax.data.canvas import resize_and_pad
from segic_jax.data.episodes import DataError, Episode
from segic_jax.evaluate import report
from segic_jax.evaluate.baselines import (
    THRESHOLDS,
    copy_mask,
    tune_threshold,
    without_reference,
    wrong_references,
)
from segic_jax.evaluate.infer import encode_references, target_maps, to_own_size
from segic_jax.evaluate.run import Tally, chosen_episodes, episodes_hash, evaluate
from segic_jax.models import segic


@pytest.fixture(scope="module")
def model():
    return bundle()


@pytest.fixture(scope="module")
def result(model):
    return evaluate(model, DiskSource(), batch_size=3, random_backbone=bundle(seed=5))


def test_report(result):
    scores, _ = result
    assert scores["episodes"] == 8
    assert scores["classes"] == 2
    assert set(scores["class_iou"]) == {"disk", "ring"}
    assert scores["scores"]["miou"] == pytest.approx(np.mean(list(scores["class_iou"].values())), abs=0.01)
    assert set(scores["baselines"]) == {
        "copy",
        "cosine",
        "no_reference",
        "wrong_reference",
        "random_backbone",
    }
    assert scores["episodes_sha256"] == episodes_hash(DiskSource().episodes)
    assert scores["class_names_given"] is False


def test_the_batch_size_changes_nothing(model, result):
    scores, _ = evaluate(model, DiskSource(), batch_size=10, random_backbone=bundle(seed=5))
    expected, _ = result
    for name in ("scores", "class_iou", "baselines"):
        assert scores[name] == expected[name]


def test_one_compilation_for_all_sizes(model, result):
    compiled = [program._cache_size for program in (programs.extract, programs.encode, programs.decode)]
    before = [size() for size in compiled]
    source = DiskSource()
    source.load = lambda key: tuple(x[: 30 + len(key), 5:] for x in DiskSource().load(key))
    evaluate(model, source, batch_size=3)
    assert [size() for size in compiled] == before


segment = jax.jit(segic.segment, static_argnums=0)
encode = jax.jit(segic.encode, static_argnums=0)


def test_model_against_a_plain_loop(model, result):
    """One episode at a time, through the functions of models/segic.py."""
    source, tally = DiskSource(), Tally()
    for episode in source.episodes:
        (image, mask), (target, truth) = source.load(episode.references[0]), source.load(episode.target)
        shown, placed = resize_and_pad(image, mask[None], 64), resize_and_pad(target, truth[None], 64)
        references = segic.References(
            images=shown.image[None, None],
            sizes=np.array(shown.size)[None, None],
            masks=shown.masks[None, :, None],
            picture=np.zeros((1, 1, 1), int),
            valid=np.ones((1, 1, 1), bool),
            text=np.zeros((1, 1, 4), np.float32),
        )
        context = encode(model.config, model.backbone, references)
        sizes = np.array([placed.size])
        logits, _ = segment(model.config, model.backbone, model.head, placed.image[None], sizes, context)
        h, w = placed.size
        own = cv2.resize(np.asarray(logits)[0, 0, :h, :w], truth.shape[::-1])
        tally.add(episode, own > 0, truth)
    assert tally.scores() == result[0]["scores"]


def test_several_shots_are_averaged(model):
    source = DiskSource(shots=2)
    both = encode_references(model, source, source.episodes, batch_size=3)
    assert both.visual.shape == (8, 1, 2, 32)
    np.testing.assert_allclose(both.pooled, both.visual.mean(2), atol=1e-6)
    one = encode_references(model, DiskSource(), DiskSource().episodes, batch_size=3)
    np.testing.assert_allclose(both.visual[:, :, 0], one.pooled, atol=1e-6)


def test_without_a_reference_the_reference_does_not_matter(model):
    source, masks = DiskSource(), []
    for order in (slice(None), slice(None, None, -1)):
        context = encode_references(model, source, source.episodes[order], batch_size=3)
        contexts = {"blank": without_reference(context)}
        maps = list(target_maps(model, source, source.episodes, contexts, batch_size=3))
        assert not any(m.cosine.any() for m in maps)
        masks.append([m.logits["blank"] for m in maps])
    for a, b in zip(*masks, strict=True):
        np.testing.assert_array_equal(a, b)


def test_copy_and_own_size():
    assert copy_mask(np.eye(2, dtype=bool), (4, 6)).shape == (4, 6)
    ramp = np.tile(np.arange(64, dtype=np.float32), (64, 1))
    own = to_own_size(ramp, (32, 64), (64, 128))
    assert own.shape == (64, 128)
    np.testing.assert_allclose(own[0, 1:-1], (np.arange(1, 127) + 0.5) / 2 - 0.5)


def test_wrong_references_are_of_another_class():
    episodes = [Episode(c, f"{c}{i}", ("x",)) for c in "aaaab" for i in range(3)]
    for episode, other in zip(episodes, wrong_references(episodes), strict=True):
        assert episodes[other].class_name != episode.class_name
    assert wrong_references(episodes[:6]) is None


def test_threshold_against_a_plain_loop(model):
    source = DiskSource()
    threshold, score = tune_threshold(model, source, batch_size=3)
    context = encode_references(model, source, source.episodes, batch_size=3)
    maps = list(target_maps(model, source, source.episodes, {"segic": context}, batch_size=3))
    scores = []
    for t in THRESHOLDS:
        tally = Tally()
        for m in maps:
            tally.add(source.episodes[m.index], m.cosine > t, m.truth)
        scores.append(tally.scores()["miou"])
    assert score == pytest.approx(max(scores), abs=0.01)
    assert threshold == pytest.approx(THRESHOLDS[int(np.argmax(scores))], abs=1e-6)


def test_what_cannot_be_scored_is_said(model):
    source = DiskSource()
    source.episodes = source.episodes[:4]  # one class
    scores, _ = evaluate(dataclasses.replace(model, notes={}), source, batch_size=3)
    assert set(scores["baselines"]) == {"copy", "no_reference"}
    assert len(scores["notes"]) == 3
    assert "only one class" in report.table(scores)
    scores, _ = evaluate(model, source, batch_size=3, baselines=False)
    assert (scores["baselines"], scores["notes"]) == ({}, [])
    source.episodes = []
    with pytest.raises(DataError, match="disks"):
        evaluate(model, source)


def test_every_episode_needs_a_reference():
    with pytest.raises(DataError, match="at least one shot"):
        chosen_episodes(DiskSource(shots=0), None)


def test_limit_spreads_over_the_list():
    chosen = chosen_episodes(DiskSource(), 4)
    assert [e.target for e in chosen] == ["disk/0", "disk/2", "ring/0", "ring/2"]
    assert len(chosen_episodes(DiskSource(), 100)) == 8


def test_files(result, tmp_path):
    scores, rows = result
    report.write(tmp_path / "out", scores, rows)
    assert json.loads((tmp_path / "out/result.json").read_text()) == scores
    sheet = cv2.imread(str(tmp_path / "out/sheet.png"))
    assert sheet.shape == (8 * (report.TILE + report.CAPTION), 5 * (report.TILE + 4), 3)
    assert report.table(scores).count("interval") == 6
