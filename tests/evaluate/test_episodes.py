"""Compare the evaluation of episodes with a plain loop, over protocols, shots, folds and baselines."""

import dataclasses
import json

import cv2
import jax
import numpy as np
import pytest
from tiny import DISKS, DiskSource, bundle

from segic_jax import Example
from segic_jax.data.episodes import Episode, ObjectMasks
from segic_jax.data.masks import resize_nearest
from segic_jax.data.preprocess import resize_and_pad
from segic_jax.errors import ConfigError, DataError
from segic_jax.evaluate import episode_stream
from segic_jax.evaluate.episode_tasks import make_tasks, other_class_episodes
from segic_jax.evaluate.episodes import EpisodeEvaluation, score_episodes
from segic_jax.evaluate.instances import MAX_PREDICTIONS
from segic_jax.evaluate.protocols import find_protocol
from segic_jax.evaluate.runner import run_evaluation
from segic_jax.inference.engine import Engine
from segic_jax.inference.methods import make_engine
from segic_jax.inference.segmenter import Segmenter
from segic_jax.models import encoding, segic

ORIGINAL = find_protocol("original")


@pytest.fixture(scope="module")
def model():
    return bundle()


def evaluation(model, source=None, *, shots=1, manifests=None, protocol=ORIGINAL, **options):
    source = source or DiskSource()
    manifests = manifests or [source.manifest("original", 0, shots)]
    return EpisodeEvaluation(model, DISKS, source, manifests, protocol=protocol, **options)


def run(model, out, source=None, *, limit=None, **options):
    return run_evaluation(evaluation(model, source, **options), out, limit=limit)


def lines(out):
    return [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished_run(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    return run(model, out, baselines=True, random_backbone=bundle(seed=5)), out


def test_the_result_and_its_files_are_complete(model, finished_run):
    result, out = finished_run
    assert json.loads((out / "result.json").read_text()) == result
    assert (result["episodes"], result["classes"]) == (8, 2)
    assert set(result["class_iou"]) == {"disk", "ring"}
    assert result["scores"]["miou"] == pytest.approx(np.mean(list(result["class_iou"].values())), abs=0.01)
    assert set(result["baselines"]) == {
        "copy",
        "cosine",
        "no_reference",
        "wrong_reference",
        "random_backbone",
    }
    assert result["manifest"]["folds"] == {"0": DiskSource().manifest("", 0, 1).sha256}
    assert (result["class_names_given"], result["in_domain"]) == (False, None)
    assert (out / "per_class.csv").read_text().startswith("class,iou\ndisk,")
    assert evaluation(model).table(result).count("interval") == 6
    assert {path.name for path in out.iterdir()} == {
        "result.json",
        "per_class.csv",
        "episodes.jsonl",
        "report.html",
        "sheet.png",
        "run.json",
        "parts",
    }


def test_a_baseline_has_the_scores_of_a_separate_evaluation(finished_run, tmp_path):
    result, _ = finished_run
    random_backbone = run(bundle(seed=5), tmp_path)["scores"]
    scores = result["baselines"]["random_backbone"]
    assert scores == {name: random_backbone[name] for name in scores}


segment = jax.jit(segic.segment, static_argnums=0)
encode = jax.jit(encoding.encode, static_argnums=0)


def plain_logits(model, episode, source):
    """Segment an episode with the functions of models/; features of several shots are averaged."""
    canvas = model.config.canvas
    loaded = [source.load(view) for view in episode.reference_views]
    target, truth, *_ = source.load(episode.target_view)
    references = [resize_and_pad(view.image, view.mask[None], canvas) for view in loaded]
    padded, shots = resize_and_pad(target, truth[None], canvas), len(references)
    batch = encoding.ReferenceBatch(
        images=np.stack([reference.image for reference in references])[None],
        sizes=np.array([reference.size for reference in references])[None],
        masks=np.stack([reference.masks[0] for reference in references])[None, None],
        image_index=np.arange(shots)[None, None],
        valid=np.ones((1, 1, shots), bool),
        text=np.zeros((1, 1, 4), np.float32),
    )
    encoded = encode(model.config, model.backbone, batch)
    prototypes = encoding.Prototypes(
        encoded.pooled, encoded.pooled[:, :, None], np.ones((1, 1, 1), bool), encoded.text
    )
    sizes = np.array([padded.size])
    logits, _ = segment(model.config, model.backbone, model.head, padded.image[None], sizes, prototypes)
    h, w = padded.size
    return cv2.resize(np.asarray(logits)[0, 0, :h, :w], truth.shape[::-1]), truth


@pytest.mark.parametrize("shots", [1, 3])
def test_rows_equal_a_plain_loop(model, tmp_path, shots):
    run(model, tmp_path, shots=shots)
    for row, episode in zip(lines(tmp_path), DiskSource().manifest("", 0, shots).episodes, strict=True):
        logits, truth = plain_logits(model, episode, DiskSource())
        assert (row["target"], row["references"]) == (episode.target, list(episode.references))
        assert abs(row["intersection"] - ((logits > 0) & truth).sum()) <= 2  # cv2 rounds differently
        assert abs(row["union"] - ((logits > 0) | truth).sum()) <= 2
        assert row["pixels"] == truth.size
        assert row["iou"] == row["intersection"] / row["union"]


@pytest.mark.parametrize("shots", [1, 3])
def test_the_training_free_method_gives_the_masks_of_the_api(model, tmp_path, monkeypatch, shots):
    monkeypatch.setattr(episode_stream, "GRID_BLOCK", 3)  # several blocks, each with its references
    source = DiskSource()
    manifest = source.manifest("original", 0, shots)
    engine = make_engine(model, "training_free")
    predicted = episode_stream.predict_episodes(
        {"segic": engine}, source, make_tasks(model, source, [manifest]), lambda p: p.logits["segic"]
    )
    segmenter, found = Segmenter(model, method="training_free"), False
    for logits, episode in zip(predicted, manifest.episodes, strict=True):
        references = [source.load(view) for view in episode.reference_views]
        context = segmenter.fit([Example(one.image, one.mask) for one in references])
        target = source.load(episode.target_view).image
        np.testing.assert_array_equal(logits, segmenter.predict(target, context).small_logits[0])
        found |= bool((logits > 0).any())
    assert found
    result = run(model, tmp_path, shots=shots, protocol=find_protocol("insid3"), method="training_free")
    assert result["method"]["name"] == "training_free"
    assert {row["pixels"] for row in lines(tmp_path)} == {1024**2}
    with pytest.raises(ConfigError, match="leave --baselines"):
        evaluation(model, method="training_free", baselines=True)


class ObjectSource(DiskSource):
    """Tell the objects of DiskSource apart."""

    def objects(self, view):
        mask = self.load(view).mask
        halves = np.stack([mask, mask])
        halves[0, :, mask.shape[1] // 2 :] = halves[1, :, : mask.shape[1] // 2] = False
        return ObjectMasks(halves, [False, False])


def test_tiles_and_instances_are_those_of_the_api(model, tmp_path):
    result = run(model, tmp_path, ObjectSource(), tiles=2, instances="peaks")
    assert (result["tiles"], result["instances_from"]) == (2, "peaks")
    assert set(result["instances"]) == {"ap", "ap50", "ap75"}
    segmenter, source = Segmenter(model), ObjectSource()
    for row, episode in zip(lines(tmp_path), source.manifest("", 0, 1).episodes, strict=True):
        reference, target = source.load(episode.reference_views[0]), source.load(episode.target_view)
        context = segmenter.fit(Example(reference.image, reference.mask))
        segmented = segmenter.predict(target.image, context, keep_absent=True, tiles=2, instances="peaks")
        assert abs(row["intersection"] - (segmented.mask(0) & target.mask).sum()) <= 5  # as above
        assert abs(row["union"] - (segmented.mask(0) | target.mask).sum()) <= 5
        scores = sorted(segmented.instance_scores(0), reverse=True)[:MAX_PREDICTIONS]
        assert row["objects"]["scores"] == pytest.approx(scores, abs=0.01)
    with pytest.raises(DataError, match="holds another run"):
        run(model, tmp_path, ObjectSource())


def test_instances_need_a_source_that_tells_objects_apart(model):
    with pytest.raises(ConfigError, match="does not tell the objects of a class apart"):
        evaluation(model, instances="peaks")


def test_a_square_protocol_resizes_truth_and_logits(model, tmp_path):
    """Compare on 518 x 518 pixels: the truth by nearest neighbour, the logits bilinearly."""
    result = run(model, tmp_path, protocol=find_protocol("matcher"))
    for row, episode in zip(lines(tmp_path), DiskSource().manifest("", 0, 1).episodes, strict=True):
        square = resize_nearest(DiskSource().load(episode.target_view).mask, 518, 518)
        assert row["pixels"] == 518 * 518
        assert row["union"] >= square.sum() >= row["intersection"]
    assert result["protocol"]["size"] == 518


class IgnoringSource(DiskSource):
    """Mark the left third of every image as ignored."""

    def load(self, view):
        loaded = super().load(view)
        ignored = np.zeros_like(loaded.mask)
        ignored[:, : ignored.shape[1] // 3] = True
        return loaded._replace(ignored=ignored)


def test_ignored_pixels_are_not_counted(model, tmp_path):
    run(model, tmp_path, IgnoringSource())
    for row, episode in zip(lines(tmp_path), DiskSource().manifest("", 0, 1).episodes, strict=True):
        logits, truth = plain_logits(model, episode, DiskSource())
        used = np.arange(truth.shape[1]) >= truth.shape[1] // 3
        assert abs(row["intersection"] - ((logits > 0) & truth & used).sum()) <= 2
        assert abs(row["union"] - (((logits > 0) | truth) & used).sum()) <= 2
        assert row["pixels"] == truth.shape[0] * used.sum()


@pytest.mark.parametrize("workers", [0, 2])
def test_neither_batch_size_nor_workers_change_a_row(finished_run, model, tmp_path, workers):
    run(model, tmp_path, baselines=True, random_backbone=bundle(seed=5), batch_size=3, workers=workers)
    assert (tmp_path / "episodes.jsonl").read_bytes() == (finished_run[1] / "episodes.jsonl").read_bytes()


class BrokenSource(DiskSource):
    """Fail to read one image."""

    def load(self, view):
        if view.class_id == "ring" and view.image_name == "2":
            raise DataError("ring/2.jpg is cut off; get the whole file again.")
        return super().load(view)


class LateSource(BrokenSource):
    """Use the unreadable image as a target only."""

    def manifest(self, protocol, fold, shots):
        manifest = super().manifest(protocol, fold, shots)
        episodes = tuple(dataclasses.replace(e, references=("0",)) for e in manifest.episodes)
        return dataclasses.replace(manifest, episodes=episodes)


@pytest.mark.parametrize(
    ("source", "workers", "indices"), [(LateSource(), 0, list(range(6))), (BrokenSource(), 1, [])]
)
def test_rows_before_a_broken_image_are_kept(model, tmp_path, source, workers, indices):
    with pytest.raises(DataError, match=r"ring/2\.jpg is cut off"):
        run(model, tmp_path, source, workers=workers)
    part = (tmp_path / "parts/00000.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in part] == indices


def test_a_run_with_other_baselines_is_refused(model, tmp_path):
    run(model, tmp_path, limit=2)
    for options in ({"baselines": True}, {"random_backbone": model}):
        with pytest.raises(DataError, match="holds another run"):
            run(model, tmp_path, **options)


def test_scores_are_means_over_folds(model, tmp_path):
    full = DiskSource().manifest("original", 0, 1)
    folds = [
        dataclasses.replace(full, fold=i, classes=(c, "never"), episodes=full.episodes[4 * i : 4 * i + 4])
        for i, c in enumerate(("disk", "ring"))
    ]
    result = run(model, tmp_path, manifests=folds, protocol=find_protocol("matcher"))
    assert [row["fold"] for row in lines(tmp_path)] == [0] * 4 + [1] * 4
    fold_scores = [result["fold_scores"][fold] for fold in "01"]
    for key in ("miou", "fb_iou", "episode_iou"):
        assert result["scores"][key] == pytest.approx(np.mean([fold[key] for fold in fold_scores]), abs=0.01)
    for fold in fold_scores:  # the class without an episode counts as 0
        assert fold["miou"] == fold["miou_fold_classes"]
        assert fold["miou"] == pytest.approx(fold["miou_seen_classes"] / 2, abs=0.01)


def test_class_names_reach_the_model(model, tmp_path):
    with pytest.raises(ValueError, match="no text feature for 'a photo of a ring'"):
        run(model, tmp_path / "a", class_names=True)
    text = {**model.text, "a photo of a ring": np.ones(4, np.float32)}
    run(dataclasses.replace(model, text=text), tmp_path / "b", class_names=True)
    run(model, tmp_path / "c")
    assert lines(tmp_path / "b") != lines(tmp_path / "c")


def test_wrong_references_are_of_another_class():
    episodes = [Episode(c, f"{i}", ("x",)) for c in "aaaab" for i in range(3)]
    for episode, other in zip(episodes, other_class_episodes(episodes), strict=True):
        assert episodes[other].class_id != episode.class_id
    assert other_class_episodes(episodes[:6]) is None


def test_missing_baselines_are_noted(model, tmp_path):
    manifest = DiskSource().manifest("original", 0, 1)
    one_class = dataclasses.replace(manifest, episodes=manifest.episodes[:4])
    without_threshold = evaluation(
        dataclasses.replace(model, notes={}), manifests=[one_class], baselines=True
    )
    result = run_evaluation(without_threshold, tmp_path)
    assert set(result["baselines"]) == {"copy", "no_reference"}
    assert len(result["notes"]) == 3
    assert "only one class" in without_threshold.table(result)


def test_invalid_settings_are_refused(model, tmp_path):
    manifest = DiskSource().manifest("original", 0, 1)
    for episodes, message in (((), "no episodes"), ((Episode("disk", "0", ()),), "at least one shot")):
        with pytest.raises(DataError, match=message):
            run(model, tmp_path, manifests=[dataclasses.replace(manifest, episodes=episodes)])
    for options, message in (
        ({"batch_size": 0}, "batch_size 0"),
        ({"workers": -1}, "workers -1"),
        ({"limit": 0}, "limit 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(model, tmp_path, **options)


def test_score_episodes_writes_no_file_and_gives_the_same_scores(model, tmp_path):
    source = DiskSource()
    scores = score_episodes(Engine(model), source, source.manifest("original", 0, 1), limit=4)
    assert scores == run(model, tmp_path, limit=4)["scores"]
