"""Test that TFDS data sets give the same images, masks, episodes and results as the original files."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
from layouts import WRITE
from PIL import Image

from segic_jax.commands.command_line import parse
from segic_jax.commands.data import Build
from segic_jax.data.benchmarks import find_benchmark, open_benchmark
from segic_jax.data.build import write
from segic_jax.data.build.compare import _equal
from segic_jax.data.build.info import NAME, read_info
from segic_jax.data.build.items import items, records
from segic_jax.data.build.read import open_built
from segic_jax.data.check import check_benchmark
from segic_jax.data.pairs import ClassPairs
from segic_jax.data.sources import coco20i
from segic_jax.errors import ConfigError, DataError
from segic_jax.weights.bundle import save_bundle

ROOT = Path(__file__).parents[2]


def build(name, root, out, **options):
    Build(name=name, data_root=root, out=out, **options).run()
    return out / name / "1.0.0"


@pytest.mark.parametrize("name", [name for name in WRITE if name not in ("emoji", "coco20i", "fss1000")])
def test_a_built_benchmark_equals_its_files(tmp_path, name, capsys):
    WRITE[name](tmp_path / "data")
    release = build(name, tmp_path / "data", tmp_path / "out")
    assert "all equal" in capsys.readouterr().out
    benchmark = find_benchmark(name)
    source, built = (open_benchmark(benchmark, tmp_path / folder) for folder in ("data", "out"))
    work = list(items(benchmark.kind, source))
    for item in work:
        assert _equal(records(benchmark.kind, source, item), records(benchmark.kind, built, item))
    assert built.name == name
    assert not (release / "parts").exists()
    if benchmark.kind == "semseg":
        assert built.classes == source.classes
        for split in {item.split for item in work}:
            assert built.image_names(split) == source.image_names(split)
            for image_name in source.image_names(split):
                assert built.present(split, image_name) == source.present(split, image_name)
    elif benchmark.kind == "video":
        for clip, copy in zip(source.videos(), built.videos(), strict=True):
            assert (clip.name, clip.required, clip.scored) == (copy.name, copy.required, copy.scored)
            assert [path.name for path in clip.frames] == [path.name for path in copy.frames]
            assert list(clip.annotations) == list(copy.annotations)
            assert source.palette(clip) == built.palette(copy)
    else:
        assert set(built.views()) == set(source.views())
        for protocol in benchmark.protocols:
            assert built.manifest(protocol, 0, 1) == source.manifest(protocol, 0, 1)


@pytest.mark.parametrize(
    ("name", "masks"),
    [("isic", "*_segmentation.png"), ("ade20k", "validation/*.png"), ("davis17", "cows/*.png")],
)
def test_defects_that_were_handled_are_named_in_both_forms(tmp_path, name, masks):
    WRITE[name](tmp_path / "data")
    path = sorted((tmp_path / "data").rglob(masks))[1]
    Image.fromarray(np.asarray(Image.open(path))[::2, ::2]).save(path)
    if name == "davis17":
        (tmp_path / "data/DAVIS/2017/JPEGImages/480p/bear/00003.jpg").unlink()
    build(name, tmp_path / "data", tmp_path / "out")
    files, built = (
        [
            line.note.rpartition("/")[2]
            for line in check_benchmark(find_benchmark(name), root).lines
            if line.note
        ]
        for root in (tmp_path / "data", tmp_path / "out")
    )
    assert files == built
    assert len(files) == 1 + (name == "davis17")


def test_coco20i_is_built_with_its_class_lists(tmp_path, monkeypatch):
    """Use class lists of the tiny tree instead of the published ones, which name 39059 images."""
    WRITE["coco20i"](tmp_path / "data")
    image_names = sorted(
        str(path.relative_to(tmp_path / "data/COCO2014")) for path in tmp_path.glob("data/COCO2014/*/*.jpg")
    )
    monkeypatch.setattr(coco20i, "class_images", lambda split: [image_names] * 80)
    build("coco20i", tmp_path / "data", tmp_path / "out")
    built = open_built(tmp_path / "out")
    assert len(list(built.views())) == 80 * len(image_names)
    assert built.class_name(79) == "toothbrush"
    assert built.manifest("matcher", 2, 5).sha256.startswith("a5ea7cecf977b4c7")


def test_the_original_files_are_stored_and_listed(tmp_path):
    WRITE["folder"](tmp_path / "data")
    folder = build("folder", tmp_path / "data", tmp_path / "out")
    files = {str(path.relative_to(tmp_path / "data")) for path in (tmp_path / "data").rglob("*.*")}
    info = read_info(folder)
    assert set(info.sources) == files
    import tensorflow_datasets as tfds

    skip = {"image": tfds.decode.SkipDecoding()}
    stored = tfds.builder_from_directory(folder).as_data_source("val", decoders=skip)
    assert stored[0]["image"] == (tmp_path / "data/ant/1.jpg").read_bytes()
    plain = tfds.builder_from_directory(folder).as_data_source("val")
    assert plain[0]["image"].shape == (41, 50, 3)


def test_eval_gives_the_same_result(tmp_path):
    WRITE["folder"](tmp_path / "data")
    build("folder", tmp_path / "data", tmp_path / "built")
    save_bundle(tmp_path / "tiny.safetensors", tiny.bundle())
    rows = []
    for folder, workers in (("data", 0), ("built", 0), ("built", 1)):
        out = tmp_path / f"{folder}{workers}"
        arguments = ["eval", "--benchmark", "folder", "--data-root", str(tmp_path / folder)]
        arguments += ["--weights", str(tmp_path / "tiny.safetensors"), "--workers", str(workers)]
        assert parse([*arguments, "--baselines", "False", "--out", str(out)]).run() == 0
        rows.append((out / "episodes.jsonl").read_text())
    assert rows[0] == rows[1] == rows[2]


def test_training_pairs_are_the_same(tmp_path):
    WRITE["folder"](tmp_path / "data")
    build("folder", tmp_path / "data", tmp_path / "built")
    sources = [
        ClassPairs(open_benchmark(find_benchmark("folder"), tmp_path / name)) for name in ("data", "built")
    ]
    for seed in range(5):
        a, b = (source.pair(np.random.default_rng(seed)) for source in sources)
        assert a.name == b.name
        np.testing.assert_array_equal(a.target.image, b.target.image)
        np.testing.assert_array_equal(a.reference.masks, b.reference.masks)


PROGRAM = """
import sys, time
from pathlib import Path
from segic_jax.commands.data import Build
from segic_jax.data.build import write
from segic_jax.data.sources.folder import FolderSource
write.ITEMS = 1
load = FolderSource.load
FolderSource.load = lambda self, view: time.sleep(0.15) or load(self, view)
root, out = map(Path, sys.argv[1:])
Build(name="folder", data_root=root, out=out, threads=1).run()
assert "tensorflow" not in sys.modules
"""


def test_a_killed_build_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "ITEMS", 1)
    WRITE["folder"](tmp_path / "data")
    complete = build("folder", tmp_path / "data", tmp_path / "whole")
    command = [sys.executable, "-c", PROGRAM, tmp_path / "data", tmp_path / "killed"]
    killed = tmp_path / "killed/folder/1.0.0"
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 240
    while len(list(killed.glob("*-of-00006"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in killed.glob("*-of-00006")}
    assert 2 <= len(finished) < 6
    assert not (killed / NAME).exists()
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in finished.items())
    assert (killed / NAME).read_bytes() == (complete / NAME).read_bytes()
    expected, resumed = open_built(complete), open_built(killed)
    for item in items("episodes", expected):
        assert _equal(records("episodes", expected, item), records("episodes", resumed, item))


def test_a_folder_with_a_build_of_other_data_is_refused(tmp_path, monkeypatch):
    WRITE["folder"](tmp_path / "data")
    broken = tmp_path / "data/bee/3.jpg"
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=re.escape(f"{broken} is cut off")):
        build("folder", tmp_path / "data", tmp_path / "out")
    broken.unlink()
    broken.with_suffix(".png").unlink()
    with pytest.raises(DataError, match="holds a build of other data"):
        build("folder", tmp_path / "data", tmp_path / "out")
    build("folder", tmp_path / "data", tmp_path / "other")
    (tmp_path / "data/bee/2.jpg").write_bytes((tmp_path / "data/bee/1.jpg").read_bytes())
    (tmp_path / "data/bee/2.png").write_bytes((tmp_path / "data/bee/1.png").read_bytes())
    with pytest.raises(DataError, match="differs from the files"):
        build("folder", tmp_path / "data", tmp_path / "other")


def test_damaged_data_sets_are_reported_in_one_sentence(tmp_path):
    WRITE["folder"](tmp_path / "data")
    folder = build("folder", tmp_path / "data", tmp_path / "out")
    with pytest.raises(DataError, match="has no episodes original_fold0_2shot, only original_fold0_1shot"):
        open_built(folder).manifest("original", 0, 2)
    with pytest.raises(DataError, match="holds folder, not isic"):
        open_benchmark(find_benchmark("isic"), tmp_path / "out")
    (file,) = folder.glob("*.array_record*")
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"x" * 100_000):
        file.write_bytes(damaged)
        source = open_built(folder)
        with pytest.raises(DataError, match="build the data set again") as error:
            source.load(next(source.views()))
        assert "\n" not in str(error.value)
    file.unlink()
    with pytest.raises(DataError, match="build the data set again"):
        open_built(folder).load(next(source.views()))
    info = folder / NAME
    original = info.read_bytes()
    content = json.loads(gzip.decompress(original))
    changes = [{"kind": 5}, {"records": 5}, {"records": {"val": [5]}}, {"class_names": [5]}, {"videos": 5}]
    wrong = [gzip.compress(json.dumps(value).encode()) for value in (5, *(content | c for c in changes))]
    for damaged in (original[:50], b"", b"{}", json.dumps({"format": 1}).encode(), *wrong):
        info.write_bytes(damaged)
        with pytest.raises(DataError, match=f"{NAME} is damaged"):
            open_built(folder)


def test_invalid_numbers_are_reported(tmp_path):
    for options in ({"threads": 0}, {"shots": (0,)}, {"shots": ()}):
        with pytest.raises(ConfigError, match="must be at least 1"):
            Build("emoji", tmp_path, **options).run()
    assert not list(tmp_path.iterdir())
