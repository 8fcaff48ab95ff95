"""Test video benchmarks from end to end on tiny trees in the official layouts."""

import dataclasses
import json
import shutil
import zipfile

import numpy as np
import pytest
import tiny
from layouts_video import PALETTE, write_clip, write_davis17, write_ytvos18
from PIL import Image

from segic_jax.config import INSTANCE_PROMPT
from segic_jax.data.benchmarks import find_benchmark, open_benchmark
from segic_jax.data.video import VideoSource
from segic_jax.errors import ConfigError, DataError
from segic_jax.evaluate.runner import run_evaluation
from segic_jax.evaluate.video import VideoEvaluation, summarise_videos, write_label_map
from segic_jax.evaluate.video_metrics import frame_scores
from segic_jax.inference.engine import Engine
from segic_jax.inference.tracker import track_annotations


@pytest.fixture(scope="module")
def bundle():
    return dataclasses.replace(
        tiny.bundle(), text={"": np.zeros(4, np.float32), INSTANCE_PROMPT: np.ones(4, np.float32)}
    )


def make(bundle, name, root, semantics="official"):
    benchmark = find_benchmark(name)
    return VideoEvaluation(bundle, benchmark, open_benchmark(benchmark, root), semantics=semantics)


def run(bundle, name, root, out, *, semantics="official", limit=None):
    return run_evaluation(make(bundle, name, root, semantics), out, limit=limit)


def png(path):
    return np.asarray(Image.open(path))


def comparable(result):
    return {key: value for key, value in result.items() if "second" not in key and key != "environment"}


def test_davis_scores_equal_loops_and_files_are_complete(bundle, tmp_path):
    write_davis17(tmp_path / "DAVIS")
    out = tmp_path / "out"
    result = run(bundle, "davis17", tmp_path, out)
    assert (result["videos"], result["frames"], result["scores"]["objects"]) == (2, 10, 3)
    truth = tmp_path / "DAVIS/2017/Annotations/480p"
    objects = []
    for name, ids in (("bear", (1, 2)), ("cows", (1,))):
        files = sorted((out / "predictions" / name).iterdir())
        assert [path.name for path in files] == [f"{t:05}.png" for t in range(5)]
        assert Image.open(files[0]).getpalette()[:12] == PALETTE[:12]
        frames = [(png(truth / name / path.name), png(path)) for path in files[1:-1]]
        for number in ids:
            scores = [frame_scores((t == number)[None], (p == number)[None]) for t, p in frames]
            objects.append(100 * np.mean([[j[0], f[0]] for j, f in scores], axis=0))
    j, f = np.mean(objects, axis=0)
    assert result["scores"]["j"] == pytest.approx(j, abs=0.01)
    assert result["scores"]["f"] == pytest.approx(f, abs=0.01)
    assert result["scores"]["jf"] == pytest.approx((j + f) / 2, abs=0.01)
    means = {key: result["scores"][key] for key in ("jf", "j", "f", "objects")}
    assert result["davis2017_scores"] == pytest.approx(means)  # nothing is hidden here
    objects_csv = (out / "per_object.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in objects_csv[1:]] == [["bear", "1"], ["bear", "2"], ["cows", "1"]]
    lines = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    assert [(line["video"], len(line["objects"])) for line in lines] == [("bear", 2), ("cows", 1)]
    page = (out / "report.html").read_text()
    for text in (f"{result['scores']['jf']:.2f} <small>", ">cows<", result["manifest"]["sha256"]):
        assert text in page
    assert "Global score" in (out / "official.csv").read_text()
    assert json.loads((out / "result.json").read_text()) == result
    assert "J&F" in make(bundle, "davis17", tmp_path).table(result)


def test_a_killed_run_continues(bundle, tmp_path):
    write_davis17(tmp_path / "DAVIS")
    complete = run(bundle, "davis17", tmp_path, tmp_path / "whole")
    first = run(bundle, "davis17", tmp_path, tmp_path / "out", limit=1)
    assert first["videos"] == 1
    # As if killed while the second video was written.
    (tmp_path / "out/predictions/cows.part").mkdir()
    (tmp_path / "out/predictions/cows.part/00000.png").write_bytes(b"half")
    before = (tmp_path / "out/predictions/bear/00001.png").stat().st_mtime_ns
    resumed = run(bundle, "davis17", tmp_path, tmp_path / "out")
    assert comparable(resumed) == comparable(complete)
    assert (tmp_path / "out/predictions/bear/00001.png").stat().st_mtime_ns == before
    assert {path.name for path in (tmp_path / "out/predictions").iterdir()} == {"bear", "cows"}
    with pytest.raises(DataError, match="another run"):
        run(bundle, "davis17", tmp_path, tmp_path / "out", semantics="repaired")


def test_a_limit_is_spread_over_the_list(bundle, tmp_path):
    names = tuple((name, (1,)) for name in "abcd")
    write_davis17(tmp_path / "DAVIS", videos=names)
    result = run(bundle, "davis17", tmp_path, tmp_path / "out", limit=2)
    assert sorted(path.name for path in (tmp_path / "out/predictions").iterdir()) == ["a", "c"]
    assert (result["videos"], result["videos_in_list"]) == (2, 4)
    with pytest.raises(ConfigError, match="limit 0"):
        run(bundle, "davis17", tmp_path, tmp_path / "out", limit=0)


def test_youtube_writes_a_submission_in_both_semantics(bundle, tmp_path):
    write_ytvos18(tmp_path / "ytbvos18")
    result = run(bundle, "ytvos18", tmp_path, tmp_path / "official")
    assert result["scores"] is None
    assert "submission.zip" in make(bundle, "ytvos18", tmp_path).table(result)
    assert "submission.zip" in (tmp_path / "official/report.html").read_text()
    with zipfile.ZipFile(tmp_path / "official/submission.zip") as archive:
        assert sorted(archive.namelist()) == [
            f"Annotations/{video}/{t:05}.png" for video in ("aa", "bb") for t in (0, 5, 10)
        ]
    official = [png(path) for path in sorted((tmp_path / "official/predictions/bb").iterdir())]
    assert set(np.unique(official)) <= {0, 1}  # object 2 has id 1; object 5 appears later and is ignored
    run(bundle, "ytvos18", tmp_path, tmp_path / "repaired", semantics="repaired")
    repaired = [png(path) for path in sorted((tmp_path / "repaired/predictions/bb").iterdir())]
    assert set(np.unique(repaired[:3])) <= {0, 2}
    annotation = png(tmp_path / "ytbvos18/val/Annotations/bb/00015.png")
    np.testing.assert_array_equal(repaired[3] == 5, annotation == 5)
    assert len(official) == len(repaired) == 5


def test_the_hold_out_is_scored_and_saved(bundle, tmp_path):
    write_ytvos18(tmp_path / "ytbvos18")
    scores = run(bundle, "ytvos18_holdout", tmp_path, tmp_path / "out", semantics="repaired")["scores"]
    assert scores["objects"] == 4
    source = open_benchmark(find_benchmark("ytvos18_holdout"), tmp_path)
    clip = source.videos()[1]
    frames = [source.frame(clip, t) for t in range(5)]
    maps = {t: source.annotation(clip, t) for t in range(5)}
    predicted = list(track_annotations(Engine(bundle), frames, maps, semantics="repaired"))
    saved = [png(path) for path in sorted((tmp_path / "out/predictions/bb").iterdir())]
    np.testing.assert_array_equal(predicted, saved)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


FAULTS = {
    "cut frame": (
        lambda d: truncate(d / "JPEGImages/480p/cows/00003.jpg"),
        r"^[^;]*cows/00003\.jpg is cut off or damaged; [^;]*$",
    ),
    "cut map": (lambda d: truncate(d / "Annotations/480p/cows/00003.png"), r"cows/00003\.png is"),
    "no video": (lambda d: shutil.rmtree(d / "JPEGImages/480p/cows"), r"480p/cows"),
    "no list": (lambda d: (d / "ImageSets/2017/val.txt").unlink(), r"val\.txt is missing"),
    "empty list": (lambda d: (d / "ImageSets/2017/val.txt").write_text("\n"), r"val\.txt"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_files_are_named(bundle, tmp_path, fault):
    write_davis17(tmp_path / "DAVIS")
    damage, message = FAULTS[fault]
    damage(tmp_path / "DAVIS/2017")
    with pytest.raises(DataError, match=message):
        run(bundle, "davis17", tmp_path, tmp_path / "out")
    if "cut" in fault:  # finished videos are kept
        assert (tmp_path / "out/predictions/bear").is_dir()
        assert (tmp_path / "out/parts/00000.jsonl").read_text().count("\n") == 1


def resave(path, change):
    """Write a label map again, changed."""
    image = Image.open(path)
    changed = Image.fromarray(change(np.asarray(image)))
    changed.putpalette(image.getpalette())
    changed.save(path)


def test_label_maps_of_another_size_are_handled_and_named(bundle, tmp_path):
    """Take the size of the first map officially, and the frame's where the map does not fit on the canvas."""
    write_davis17(tmp_path / "DAVIS")
    maps = tmp_path / "DAVIS/2017/Annotations/480p"
    for path in (maps / "bear").iterdir():
        resave(path, lambda labels: labels[:, :-1])  # all of one size, as the official tool demands
    resave(maps / "cows/00000.png", lambda labels: labels.repeat(2, 0).repeat(2, 1))
    resave(maps / "cows/00002.png", lambda labels: labels[::2, ::2])
    result = run(bundle, "davis17", tmp_path, tmp_path / "out")
    predictions = {name: png(tmp_path / "out/predictions" / name / "00001.png") for name in ("bear", "cows")}
    assert {name: labels.shape for name, labels in predictions.items()} == {
        "bear": (40, 55),
        "cows": (40, 56),
    }
    assert result["scores"]["objects"] == 3
    notes = result["defects"]
    assert [note.partition(" is ")[0][-14:] for note in notes] == [
        "bear/00000.png",
        "cows/00000.png",
        "cows/00002.png",
    ]
    assert "is 55 x 40 pixels, its frame 56 x 40: it is scaled as the frame is" in notes[0]
    assert "is 112 x 80 pixels, its frame 56 x 40: it is resized to the frame, nearest pixel." in notes[1]
    assert "is 28 x 20 pixels, its prediction 56 x 40: it is resized to that, nearest pixel." in notes[2]
    assert "3 defect(s) of the data" in result["notes"][0]

    repaired = run(bundle, "davis17", tmp_path, tmp_path / "repaired", semantics="repaired")
    assert png(tmp_path / "repaired/predictions/bear/00001.png").shape == (40, 56)
    assert sum("bear" in note for note in repaired["defects"]) == 8  # 5 given, 3 scored


def test_missing_frames_and_maps_are_handled_and_named(bundle, tmp_path):
    write_davis17(tmp_path / "DAVIS")
    folder = tmp_path / "DAVIS/2017"
    (folder / "JPEGImages/480p/cows/00002.jpg").unlink()
    (folder / "Annotations/480p/bear/00003.png").unlink()
    result = run(bundle, "davis17", tmp_path, tmp_path / "out")
    assert (result["frames"], result["scores"]["objects"]) == (9, 3)
    first, second = result["defects"]
    assert first.endswith("bear has label maps of 4 of 5 frames: these are scored.")
    assert "cows/00002.png has no frame" in second
    truth = folder / "Annotations/480p/bear"
    frames = [
        (png(truth / f"{t:05}.png"), png(tmp_path / f"out/predictions/bear/{t:05}.png")) for t in (1, 2)
    ]
    expected = [frame_scores((t == 1)[None], (p == 1)[None])[0][0] for t, p in frames]
    lines = [json.loads(line) for line in (tmp_path / "out/episodes.jsonl").read_text().splitlines()]
    assert lines[0]["objects"][0]["j"] == pytest.approx(100 * np.mean(expected))


def test_videos_and_frames_that_meta_json_has_alone_are_left_out_and_named(bundle, tmp_path):
    write_ytvos18(tmp_path)
    path = tmp_path / "val/meta.json"
    meta = json.loads(path.read_text())
    meta["videos"]["aa"]["objects"]["1"]["frames"].append("00007")
    meta["videos"]["gone"] = meta["videos"].pop("bb")
    path.write_text(json.dumps(meta))
    result = run(bundle, "ytvos18", tmp_path, tmp_path / "out")
    assert result["videos"] == 1
    assert [note.partition("val/")[2] for note in result["defects"]] == [
        f"JPEGImages/bb is not in {path}: it is left out.",
        f"JPEGImages/gone is missing, and {path} lists it: it is left out.",
        "JPEGImages/aa/00007.jpg is missing, and meta.json lists it: it is left out.",
    ]


def test_a_damaged_meta_json_is_named(tmp_path):
    write_ytvos18(tmp_path)
    path = tmp_path / "val/meta.json"
    for content, message in (
        ('{"videos": {"cc": {"objects": {}}}}', r"JPEGImages holds no video that .*meta\.json lists"),
        ('{"videos": [1]}', "not a list of videos"),
        ("{", "not a list of videos"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=message):
            open_benchmark(find_benchmark("ytvos18"), tmp_path)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        open_benchmark(find_benchmark("ytvos18"), tmp_path)


def test_checks_count_files(tmp_path):
    write_davis17(tmp_path / "DAVIS")
    lines = find_benchmark("davis17").check(tmp_path)
    assert [line.found for line in lines] == [2, 10, 10]
    write_ytvos18(tmp_path / "y")
    assert [line.found for line in find_benchmark("ytvos18").check(tmp_path / "y")] == [2, 10]
    assert [line.found for line in find_benchmark("ytvos18_holdout").check(tmp_path / "y")] == [2, 10, 2]
    assert find_benchmark("davis17").check(tmp_path / "none")[0].problem


def test_the_largest_id_of_a_palette_is_written(bundle, tmp_path):
    """Write a map that is 255 everywhere, without background."""
    images = np.zeros((3, 40, 56, 3), np.uint8)
    labels = np.full((3, 40, 56), 255, np.uint8)
    write_clip(tmp_path / "2017/JPEGImages/480p/v", tmp_path / "2017/Annotations/480p/v", images, labels)
    (tmp_path / "2017/ImageSets/2017").mkdir(parents=True)
    (tmp_path / "2017/ImageSets/2017/val.txt").write_text("v\n")
    run(bundle, "davis17", tmp_path, tmp_path / "out", semantics="repaired")
    assert set(np.unique(png(tmp_path / "out/predictions/v/00000.png"))) == {255}


def test_ids_beyond_a_palette_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"00000\.png: object 300 has no place in a palette"):
        write_label_map(tmp_path / "00000.png", np.full((2, 3), 300, np.uint16), None)
    write_label_map(tmp_path / "00000.png", np.full((2, 3), 255, np.uint16), None)
    assert png(tmp_path / "00000.png").max() == 255


def test_the_truth_scores_100(bundle, tmp_path, monkeypatch):
    def true_maps(engine, frames, annotations, **_):
        yield from (annotations[number] for number, _ in enumerate(frames))

    monkeypatch.setattr("segic_jax.evaluate.video.track_annotations", true_maps)
    write_davis17(tmp_path / "DAVIS")
    scores = run(bundle, "davis17", tmp_path, tmp_path / "out")["scores"]
    assert scores == {"jf": 100, "j": 100, "f": 100, "interval_95": [100, 100], "objects": 3}


def test_the_interval_resamples_videos():
    random = np.random.default_rng(0)
    rows = [
        {"objects": [dict.fromkeys(("jf", "j", "f"), float(value)) for value in random.uniform(0, 100, n)]}
        for n in (1, 3, 0, 2, 2, 4)
    ]
    scores = summarise_videos(rows)
    objects = [scored["jf"] for row in rows for scored in row["objects"]]
    assert scores["jf"] == np.mean(objects)
    random = np.random.default_rng(0)
    means = []
    for _ in range(1000):
        sample = [rows[i]["objects"] for i in random.integers(len(rows), size=len(rows))]
        means.append(sum(s["jf"] for row in sample for s in row) / max(sum(map(len, sample)), 1))
    assert scores["interval_95"] == pytest.approx([*np.percentile(means, [2.5, 97.5])], rel=1e-12)


@pytest.mark.parametrize("semantics", ["official", "repaired"])
def test_no_file_is_decoded_twice(bundle, tmp_path, monkeypatch, semantics):
    reads = []
    for name in ("frame", "annotation"):
        method = getattr(VideoSource, name)

        def read_and_record(self, clip, number, method=method, name=name):
            reads.append((name, clip.name, number))
            return method(self, clip, number)

        monkeypatch.setattr(VideoSource, name, read_and_record)
    write_davis17(tmp_path / "DAVIS")
    run(bundle, "davis17", tmp_path, tmp_path / "out", semantics=semantics)
    # The last label map is not scored, and later ones are given in the repaired semantics only.
    read = {"frame": 5, "annotation": 4 if semantics == "official" else 5}
    assert sorted(reads) == sorted(
        (name, clip, number) for name in read for clip in ("bear", "cows") for number in range(read[name])
    )
