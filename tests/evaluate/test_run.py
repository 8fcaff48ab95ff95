"""The runner: as a plain loop, whatever the batch, devices and workers, and after being killed."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from tiny import DISKS, DiskSource, bundle

from segic_jax.data.episodes import Episode, LabelledImage
from segic_jax.data.preprocess import resize_and_pad
from segic_jax.errors import ConfigError, DataError
from segic_jax.evaluate import metrics, report
from segic_jax.evaluate.baselines import copy_mask, wrong_references
from segic_jax.evaluate.episodes import evaluate, make_tasks, score
from segic_jax.evaluate.infer import judge_all, to_own_size
from segic_jax.evaluate.protocols import find_protocol, nearest
from segic_jax.evaluate.records import spread
from segic_jax.evaluate.rows import counts_of, row_of, summary
from segic_jax.evaluate.threshold import THRESHOLDS, tune_threshold
from segic_jax.inference import engine
from segic_jax.models import segic

ORIGINAL = find_protocol("original")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model():
    return bundle()


def run(model, out, source=None, *, shots=1, protocol=ORIGINAL, **options):
    source = source or DiskSource()
    manifest = source.manifest("original", 0, shots)
    return evaluate(model, DISKS, source, [manifest], protocol=protocol, out=out, **options)


def lines(out):
    return [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def done(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    return run(model, out, baselines=True, random_backbone=bundle(seed=5)), out


def test_result(done):
    result, out = done
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
    assert report.table(result).count("interval") == 6


segment = jax.jit(segic.segment, static_argnums=0)
encode = jax.jit(segic.encode, static_argnums=0)


def plain_logits(model, episode, source):
    """One episode through the functions of models/segic.py; several shots are their mean."""
    canvas = model.config.canvas
    shown = [source.load(view) for view in episode.reference_views]
    target, truth, _ = source.load(episode.target_view)
    references = [resize_and_pad(one.image, one.mask[None], canvas) for one in shown]
    placed, shots = resize_and_pad(target, truth[None], canvas), len(references)
    references = segic.ReferenceBatch(
        images=np.stack([one.image for one in references])[None],
        sizes=np.array([one.size for one in references])[None],
        masks=np.stack([one.masks[0] for one in references])[None, None],
        image_index=np.arange(shots)[None, None],
        valid=np.ones((1, 1, shots), bool),
        text=np.zeros((1, 1, 4), np.float32),
    )
    shown = encode(model.config, model.backbone, references)
    context = segic.Prototypes(shown.pooled, shown.pooled[:, :, None], np.ones((1, 1, 1), bool), shown.text)
    sizes = np.array([placed.size])
    logits, _ = segment(model.config, model.backbone, model.head, placed.image[None], sizes, context)
    h, w = placed.size
    return cv2.resize(np.asarray(logits)[0, 0, :h, :w], truth.shape[::-1]), truth


@pytest.mark.parametrize("shots", [1, 3])
def test_rows_against_a_plain_loop(model, tmp_path, shots):
    run(model, tmp_path, shots=shots)
    for row, episode in zip(lines(tmp_path), DiskSource().manifest("", 0, shots).episodes, strict=True):
        logits, truth = plain_logits(model, episode, DiskSource())
        assert (row["target"], row["references"]) == (episode.target, list(episode.references))
        assert abs(row["intersection"] - ((logits > 0) & truth).sum()) <= 2  # cv2 rounds otherwise
        assert abs(row["union"] - ((logits > 0) | truth).sum()) <= 2
        assert row["pixels"] == truth.size
        assert row["iou"] == row["intersection"] / row["union"]


def test_a_square_protocol(model, tmp_path):
    """Truth to the nearest pixel, logits bilinear, both on 518 x 518."""
    matcher = find_protocol("matcher")
    result = run(model, tmp_path, protocol=matcher)
    for row, episode in zip(lines(tmp_path), DiskSource().manifest("", 0, 1).episodes, strict=True):
        truth = DiskSource().load(episode.target_view).mask
        square = nearest(truth, 518)
        assert (row["pixels"], square.shape) == (518 * 518, (518, 518))
        assert row["union"] >= square.sum() >= row["intersection"]
        y, x = (np.arange(518) * side // 518 for side in truth.shape)
        assert (square != truth[y[:, None], x]).mean() < 1e-3  # torch's float32 falls one short at times
    assert result["protocol"]["size"] == 518


class Ignoring(DiskSource):
    """Without the left third of every image."""

    def load(self, view):
        shown = super().load(view)
        ignored = np.zeros_like(shown.mask)
        ignored[:, : ignored.shape[1] // 3] = True
        return shown._replace(ignored=ignored)


def test_ignored_pixels_count_nowhere(model, tmp_path):
    run(model, tmp_path / "all", Ignoring())
    for row, episode in zip(lines(tmp_path / "all"), Ignoring().manifest("", 0, 1).episodes, strict=True):
        logits, truth = plain_logits(model, episode, DiskSource())
        kept = np.arange(truth.shape[1]) >= truth.shape[1] // 3
        assert abs(row["intersection"] - ((logits > 0) & truth & kept).sum()) <= 2
        assert abs(row["union"] - (((logits > 0) | truth) & kept).sum()) <= 2
        assert row["pixels"] == truth.shape[0] * kept.sum()


def test_one_compilation_for_all_sizes(model, done, tmp_path):
    compiled = [program._cache_size for program in (engine.extract, engine._pool, engine._decode)]

    class Cut(DiskSource):
        def load(self, view):
            shown = super().load(view)
            return LabelledImage(
                shown.image[: 30 + int(view.image_name), 5:], shown.mask[: 30 + int(view.image_name), 5:]
            )

    before = [size() for size in compiled]
    run(model, tmp_path, Cut(), batch_size=3)
    assert [size() for size in compiled] == before


PROGRAM = """
import sys
from pathlib import Path
import jax
devices, batch, workers, out = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
jax.config.update("jax_num_cpu_devices", devices)
from segic_jax.runtime import distributed
distributed.initialize()
import time
from tiny import DISKS, DiskSource, bundle
from segic_jax.evaluate import episodes
from segic_jax.evaluate.protocols import find_protocol
row_of = run.row_of
run.row_of = lambda *arguments: time.sleep(float(sys.argv[5])) or row_of(*arguments)
if __name__ == "__main__":
    source = DiskSource()
    run.evaluate(
        bundle(), DISKS, source, [source.manifest("original", 0, 1)],
        protocol=find_protocol("original"), out=out, batch_size=batch, workers=workers, baselines=True,
    )
"""


def start(tmp_path, devices, batch, workers, out, *, pause=0, **environment):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    return subprocess.Popen(
        [sys.executable, str(program), *map(str, (devices, batch, workers, out, pause))],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"} | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors


def comparable(out):
    result = json.loads((out / "result.json").read_text())
    del result["seconds"], result["environment"]
    return result


def test_devices_batches_workers_and_hosts_change_nothing(model, tmp_path):
    run(model, tmp_path / "here", batch_size=1, baselines=True)
    expected = (tmp_path / "here/episodes.jsonl").read_text()
    for name, options in {"eight": (8, 7, 0), "two": (2, 1, 2)}.items():
        finished(start(tmp_path, *options, tmp_path / name))
        assert (tmp_path / name / "episodes.jsonl").read_text() == expected
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hosts = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
    for process in [
        start(tmp_path, 2, 3, 0, tmp_path / "hosts", **hosts, JAX_PROCESS_ID=str(i)) for i in range(2)
    ]:
        finished(process)
    assert (tmp_path / "hosts/episodes.jsonl").read_text() == expected
    assert comparable(tmp_path / "hosts") == comparable(tmp_path / "here")


def test_killed_half_way_it_ends_with_the_same_result(model, tmp_path):
    run(model, tmp_path / "whole", baselines=True)
    process = start(tmp_path, 1, 1, 0, tmp_path / "killed", pause=0.2)
    part = tmp_path / "killed/parts/00000.jsonl"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not (part.exists() and part.read_text().count("\n") >= 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = part.read_text().count("\n")
    assert 2 <= kept < 8
    assert not (tmp_path / "killed/result.json").exists()
    run(model, tmp_path / "killed", baselines=True)
    assert part.read_text().count("\n") == 8  # nothing twice
    assert comparable(tmp_path / "killed") == comparable(tmp_path / "whole")
    for name in ("episodes.jsonl", "per_class.csv"):
        assert (tmp_path / "killed" / name).read_text() == (tmp_path / "whole" / name).read_text()


class Broken(DiskSource):
    """One image cannot be read."""

    def load(self, view):
        if view.class_id == "ring" and view.image_name == "2":
            raise DataError("ring/2.jpg is cut off; get the whole file again.")
        return super().load(view)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_keeps_what_is_done(model, tmp_path, workers):
    class Late(Broken):
        def manifest(self, protocol, fold, shots):
            manifest = super().manifest(protocol, fold, shots)
            shown = tuple(dataclasses.replace(e, references=("0",)) for e in manifest.episodes)
            return dataclasses.replace(manifest, episodes=shown)

    with pytest.raises(DataError, match=r"ring/2\.jpg is cut off"):
        run(model, tmp_path, Late() if workers == 0 else Broken(), workers=workers)
    part = (tmp_path / "parts/00000.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in part] == (list(range(6)) if workers == 0 else [])


def test_a_limit_is_spread_and_its_rows_are_used_again(model, tmp_path):
    result = run(model, tmp_path, limit=4)
    assert [row["index"] for row in lines(tmp_path)] == [0, 2, 4, 6]
    assert (result["episodes"], result["episodes_in_list"]) == (4, 8)
    before = (tmp_path / "parts/00000.jsonl").read_text()
    assert run(model, tmp_path)["episodes"] == 8
    assert (tmp_path / "parts/00000.jsonl").read_text().startswith(before)
    assert len(spread(range(8), 100)) == 8
    for options in ({"baselines": True}, {"random_backbone": model}):
        with pytest.raises(DataError, match="holds another run"):
            run(model, tmp_path, **options)


def test_several_folds(model, tmp_path):
    source = DiskSource()
    whole = source.manifest("original", 0, 1)
    folds = [
        dataclasses.replace(whole, fold=i, classes=(c, "never"), episodes=whole.episodes[4 * i : 4 * i + 4])
        for i, c in enumerate(("disk", "ring"))
    ]
    result = evaluate(model, DISKS, source, folds, protocol=find_protocol("matcher"), out=tmp_path)
    assert [row["fold"] for row in lines(tmp_path)] == [0] * 4 + [1] * 4
    both = [result["fold_scores"][fold] for fold in "01"]
    for key in ("miou", "fb_iou", "episode_iou"):
        assert result["scores"][key] == pytest.approx(np.mean([one[key] for one in both]), abs=0.01)
    for one in both:  # the class without an episode counts as 0
        assert (
            one["miou"] == one["miou_fold_classes"] == pytest.approx(one["miou_seen_classes"] / 2, abs=0.01)
        )


def test_only_the_mean_over_folds_is_rounded():
    rows = [
        {
            "fold": fold,
            "class": "a",
            "intersection": n,
            "union": 100_000,
            "pixels": 200_000,
            "boundary_iou": None,
        }
        for fold, n in enumerate((10_004, 10_004, 10_014))
    ]
    manifests = [dataclasses.replace(DiskSource().manifest("", fold, 1), classes=("a",)) for fold in range(3)]
    found = summary(rows, manifests, ORIGINAL, {})
    assert [found["fold_scores"][fold]["miou"] for fold in "012"] == [10.0, 10.0, 10.01]
    assert found["scores"]["miou"] == 10.01  # of 10.00733, not of 10.00333
    assert found["scores"]["boundary_iou"] is None


def test_class_names_reach_the_model(model, tmp_path):
    with pytest.raises(Exception, match="no text feature for 'a photo of a ring'"):
        run(model, tmp_path / "a", class_names=True)
    text = {**model.text, "a photo of a ring": np.ones(4, np.float32)}
    run(dataclasses.replace(model, text=text), tmp_path / "b", class_names=True)
    run(model, tmp_path / "c")
    assert lines(tmp_path / "b") != lines(tmp_path / "c")


def test_without_a_reference_the_reference_does_not_matter(model):
    source, answers = DiskSource(), []
    manifest = source.manifest("", 0, 1)
    for order in (slice(None), slice(None, None, -1)):
        turned = zip(manifest.episodes, manifest.episodes[order], strict=True)
        episodes = tuple(dataclasses.replace(a, references=b.references) for a, b in turned)
        tasks = make_tasks(model, source, [dataclasses.replace(manifest, episodes=episodes)])
        judged = judge_all(
            {"segic": engine.Engine(model)}, source, tasks, lambda a: a.logits["no_reference"], blank=True
        )
        answers.append(list(judged))
    np.testing.assert_array_equal(*answers)
    assert engine.Engine(model).rows == 1  # on a CPU


def test_copy_and_own_size():
    assert copy_mask(np.eye(2, dtype=bool), (4, 6)).shape == (4, 6)
    ramp = np.tile(np.arange(64, dtype=np.float32), (64, 1))
    own = to_own_size(ramp, (32, 64), (64, 128))
    assert own.shape == (64, 128)
    np.testing.assert_allclose(own[0, 1:-1], (np.arange(1, 127) + 0.5) / 2 - 0.5)


def test_wrong_references_are_of_another_class():
    episodes = [Episode(c, f"{i}", ("x",)) for c in "aaaab" for i in range(3)]
    for episode, other in zip(episodes, wrong_references(episodes), strict=True):
        assert episodes[other].class_id != episode.class_id
    assert wrong_references(episodes[:6]) is None


def test_threshold_against_a_plain_loop(model):
    source = DiskSource()
    manifest = source.manifest("", 0, 1)
    threshold, best = tune_threshold(model, source, manifest)
    tasks = make_tasks(model, source, [manifest])
    engines = {"segic": engine.Engine(model)}
    answers = list(judge_all(engines, source, tasks, lambda answer: answer, similarity=True))
    scores = []
    for t in THRESHOLDS:
        rows = [row_of(a._replace(logits={"segic": a.similarity - np.float32(t)}), ORIGINAL) for a in answers]
        scores.append(metrics.mean_iou(counts_of(rows)))
    assert best == pytest.approx(max(scores), abs=0.3)  # rounding of the shifted map
    assert threshold == pytest.approx(THRESHOLDS[int(np.argmax(scores))], abs=0.011)


def test_what_cannot_be_scored_is_said(model, tmp_path):
    source = DiskSource()
    manifest = source.manifest("original", 0, 1)
    one_class = dataclasses.replace(manifest, episodes=manifest.episodes[:4])
    silent = dataclasses.replace(model, notes={})
    result = evaluate(
        silent, DISKS, source, [one_class], protocol=ORIGINAL, out=tmp_path / "a", baselines=True
    )
    assert set(result["baselines"]) == {"copy", "no_reference"}
    assert len(result["notes"]) == 3
    assert "only one class" in report.table(result)
    for episodes, message in (((), "no episodes"), ((Episode("disk", "0", ()),), "at least one shot")):
        manifest = dataclasses.replace(manifest, episodes=episodes)
        with pytest.raises(DataError, match=message):
            evaluate(model, DISKS, source, [manifest], protocol=ORIGINAL, out=tmp_path / "b")
    for options, message in (({"batch_size": 0}, "batch_size 0"), ({"limit": 0}, "limit 0")):
        with pytest.raises(ConfigError, match=message):
            run(model, tmp_path / "c", **options)


def test_scores_alone(model, tmp_path):
    source = DiskSource()
    found = score(model, source, source.manifest("original", 0, 1), limit=4)
    assert found == run(model, tmp_path, limit=4)["scores"]
