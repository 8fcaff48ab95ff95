"""Test `segic predict` and `segic fit` with an untrained model."""

import json
import os

import cv2
import numpy as np
import pytest
import tiny
from PIL import Image

from segic_jax.inference import output_folder
from segic_jax.inference.segmenter import Segmenter
from segic_jax.weights.bundle import save_bundle

WEIGHTS = ("--weights", "tiny.safetensors")
REF = ("--ref", "ref.png", "mask.png")


def test_a_folder_is_predicted(segic, tmp_path, capsys):
    out = tmp_path / "out"
    code = segic("predict", *REF, "--name", "disk", "targets", "--keep-absent", "--out", out, *WEIGHTS)
    assert code == 0
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    png_files = {f"{kind}/{name}.png" for kind in ("overlays", "labels") for name in "ab"}
    assert files == {
        "index.html",
        "annotations.json",
        "annotations/a.json",
        "annotations/b.json",
        *png_files,
    }
    labels = Image.open(out / "labels/b.png")
    assert (labels.mode, labels.size) == ("P", (70, 52))
    coco = json.loads((out / "annotations.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["targets/a.jpg", "targets/b.png"]
    assert coco["categories"] == [{"id": 1, "name": "disk"}]
    area = {annotation["image_id"]: annotation["area"] for annotation in coco["annotations"]}
    assert area.get(2, 0) == (np.asarray(labels) == 1).sum()
    page = (out / "index.html").read_text()
    assert page.count('<article class="card">') == 2
    assert "disk in 2 images" in page
    assert "http" not in page
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_tiles_and_instances_change_the_results(segic, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ("predict", *REF, "targets", "--keep-absent", "--out", out, *WEIGHTS)
    assert segic(*arguments) == 0
    assert segic(*arguments, "--tiles", "2", "--instances", "peaks") == 0
    assert "were done before" not in capsys.readouterr().out  # they belong to the identity of a run
    assert segic(*arguments, "--tiles", "2", "--instances", "peaks") == 0
    assert "2 of 2 were done before" in capsys.readouterr().out
    images = json.loads((out / "annotations.json").read_text())["images"]
    assert len(images) == 2
    assert segic(*arguments, "--tiles", "0") == 2
    assert "must be" in capsys.readouterr().err


def test_the_training_free_method(segic, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = (*REF, "--method", "training_free", *WEIGHTS)
    assert segic("predict", *arguments, "targets", "--out", out) == 0
    assert "`segic calibrate --method training_free`" in capsys.readouterr().err
    image = json.loads((out / "annotations/a.json").read_text())["images"][0]
    assert image["presence"].keys() == {"object"}
    assert segic("fit", *arguments, "--out", tmp_path / "disk.segic") == 0
    again = tmp_path / "again"
    context = ("--context", tmp_path / "disk.segic", "--method", "training_free", *WEIGHTS)
    assert segic("predict", *context, "targets", "--out", again) == 0
    assert (again / "labels/a.png").read_bytes() == (out / "labels/a.png").read_bytes()
    assert segic("explain", *arguments, "targets", "--out", tmp_path / "explained") == 0
    capsys.readouterr()
    assert segic("predict", "--context", tmp_path / "disk.segic", *WEIGHTS, "targets", "--out", again) == 2
    assert "another model" in capsys.readouterr().err
    assert segic("predict", *arguments, "--together", "targets", "--out", tmp_path / "other") == 2
    assert "leave together out" in capsys.readouterr().err
    assert segic("video", "targets", *arguments, "--out", tmp_path / "video") == 2
    assert "leave --method out" in capsys.readouterr().err


def test_doubts_about_the_weights_are_told_once(segic, tmp_path, capsys):
    model = tiny.bundle()
    model.notes["domain"] = "scenes of emoji"
    save_bundle(tmp_path / "x.safetensors", model)
    out = tmp_path / "out"
    assert segic("predict", *REF, "targets", "--out", out, "--weights", tmp_path / "x.safetensors") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 2
    assert lines[0].startswith("warning: x.safetensors segments scenes of emoji only")
    assert lines[1].startswith("warning: x.safetensors has no calibration of presence")
    assert "x.safetensors segments scenes of emoji only" in (out / "index.html").read_text()


def test_a_bad_target_does_not_stop_the_others(segic, files, tmp_path, capsys):
    (files / "cut.jpg").write_bytes((files / "targets/a.jpg").read_bytes()[:-300])
    targets = ("gone.jpg", "cut.jpg", "targets/b.png")
    assert segic("predict", *REF, *targets, "--out", tmp_path / "out", *WEIGHTS) == 2
    captured = capsys.readouterr()
    assert "gone.jpg" in captured.err
    assert "cut.jpg is cut off" in captured.err
    assert len([line for line in captured.err.splitlines() if not line.startswith("reference: ")]) == 2
    assert "targets/b.png: object" in captured.out
    assert "cut.jpg is cut off" in (tmp_path / "out/index.html").read_text()


def test_a_stopped_run_leaves_complete_files_and_resumes(segic, tmp_path, capsys, monkeypatch):
    predict_many, calls = Segmenter.predict_many, []
    out = tmp_path / "out"

    def stopped(*arguments, **options):
        yield next(predict_many(*arguments, **options))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "predict_many", stopped)
        assert segic("predict", *REF, "targets", "--out", out, *WEIGHTS) == 130
    assert len(json.loads((out / "annotations.json").read_text())["images"]) == 1
    assert '<article class="card">' in (out / "index.html").read_text()
    assert capsys.readouterr().err.splitlines()[-1] == "Stopped."

    def record(self, targets, *arguments, **options):
        calls.append([path.name for path in targets])
        return predict_many(self, targets, *arguments, **options)

    monkeypatch.setattr(Segmenter, "predict_many", record)
    assert segic("predict", *REF, "targets", "--out", out, *WEIGHTS) == 0
    assert "1 of 2 were done before" in capsys.readouterr().out
    assert segic("predict", *REF, "targets", "--out", tmp_path / "fresh", *WEIGHTS) == 0
    for file in ("annotations.json", "labels/a.png", "overlays/b.png"):
        assert (out / file).read_bytes() == (tmp_path / "fresh" / file).read_bytes()
    assert (out / "index.html").read_text().count('<article class="card">') == 2
    # Missing files, and those of other options, are predicted again.
    (out / "labels/b.png").unlink()
    assert segic("predict", *REF, "targets", "--out", out, *WEIGHTS) == 0
    assert segic("predict", *REF, "targets", "--out", out, *WEIGHTS, "--threshold", "0.4") == 0
    assert calls == [["b.png"], ["a.jpg", "b.png"], ["b.png"], ["a.jpg", "b.png"]]


def test_a_saved_context_gives_the_same_annotations(segic, tmp_path, capsys):
    box = ("--ref", "ref.png", "5,5,40,30", "--name", "disk", "--name", "box")
    assert segic("fit", *REF, *box, "--out", tmp_path / "new/c.segic", *WEIGHTS) == 0
    assert "disk (1 example), box (1 example)" in capsys.readouterr().out
    references = {"examples": (*REF, *box), "context": ("--context", tmp_path / "new/c.segic")}
    for name, options in references.items():
        assert segic("predict", *options, "targets/a.jpg", "--out", tmp_path / name, *WEIGHTS) == 0
    annotations = [(tmp_path / name / "annotations.json").read_text() for name in references]
    assert annotations[0] == annotations[1]
    options = ("--context", tmp_path / "new/c.segic", "--drop", "disk", "--out", tmp_path / "d.segic")
    assert segic("fit", *options, *WEIGHTS) == 0
    assert "box (1 example)" in capsys.readouterr().out.splitlines()[-1]
    assert segic("predict", "--context", tmp_path / "d.segic", "targets", "--out", tmp_path / "x") == 2
    assert "another model" in capsys.readouterr().err


def test_the_threshold_is_a_probability(segic, tmp_path):
    pixels = {}
    for threshold in ("0.2", "0.8"):
        options = (*REF, "--threshold", threshold, "--keep-absent")
        assert segic("predict", *options, "targets/a.jpg", "--out", tmp_path, *WEIGHTS) == 0
        pixels[threshold] = (np.asarray(Image.open(tmp_path / "labels/a.png")) > 0).sum()
    assert pixels["0.2"] > pixels["0.8"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--ref", "ref.png", "small.png", "targets"), "70 x 51 pixels"),
        (("--ref", "ref.png", "targets/a.jpg", "targets"), "compressed with a loss"),
        (("--ref", "ref.png", "black.png", "targets"), "black.png is empty"),
        (("--ref", "ref.png", "none.png", "targets"), "none.png"),
        (("--ref", "none.png", "mask.png", "targets"), "none.png"),
        (("--ref", "ref.png", "1,2,3,400", "targets"), "must have x0 < x1"),
        (("--ref", "ref.png", "1..2,2,3,4", "targets"), "four numbers"),
        (("--ref", "ref.png", "mask.png:7", "targets"), "no pixel of the label 7"),
        ((*REF,), "at least one target"),
        (("targets",), "Say what to look for"),
        (("targets", "--name", "x"), "no --ref is given"),
        (("targets", *REF, "--name", "x", "--name", "y"), "--ref is given 1 times and --name 2 times"),
        (("targets", "--negative", "ref.png", "mask.png"), "--negative also needs"),
        (("targets", *REF, "--threshold", "1"), "between 0 and 1"),
        (("targets", "--context", "mask.png"), "not a saved context"),
        (("x" * 5000, *REF), "xxx... cannot be used (File name too long)"),
        (("targets", *REF, "--out", "ref.png"), "is a file"),
        (("empty", *REF), "has no images"),
    ],
)
def test_invalid_input_is_reported_in_one_sentence(segic, files, tmp_path, capsys, arguments, sentence):
    cv2.imwrite(str(files / "black.png"), np.zeros((50, 70), np.uint8))
    cv2.imwrite(str(files / "small.png"), np.eye(51, 70, dtype=np.uint8) * 255)
    (files / "empty").mkdir(exist_ok=True)
    out = () if "--out" in arguments else ("--out", tmp_path / "out")
    assert segic("predict", *arguments, *out, *WEIGHTS) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_inputs_are_never_overwritten(segic, files, tmp_path, capsys):
    before = {path: path.read_bytes() for path in files.rglob("*.*") if path.is_file()}
    for arguments in (
        ("explain", *REF, "targets", "--out", "targets"),
        ("explain", *REF, "ref.png", "--out", "."),
        ("fit", *REF, "--out", "mask.png"),
        ("fit", *REF, "--out", "tiny.safetensors"),
        ("video", *REF, "targets", "--out", "."),
        ("video", "--mask", "targets/b.png", "targets", "--out", "./targets/", *WEIGHTS),
        ("convert", "tiny.safetensors", "--out", "tiny.safetensors"),
        ("export", "tiny.safetensors", "--out", "ref.png"),
    ):
        assert segic(*arguments, *(WEIGHTS if arguments[1] == "--ref" else ())) == 2
        assert "give another --out" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def test_only_the_first_targets_get_thumbnails(segic, tmp_path, monkeypatch):
    names, make_card = [], output_folder.make_card
    monkeypatch.setattr(output_folder, "MAX_CARDS", 1)
    monkeypatch.setattr(output_folder, "make_card", lambda *card: names.append(card[0]) or make_card(*card))
    assert segic("predict", *REF, "targets", "--out", tmp_path, *WEIGHTS) == 0
    assert names == ["a"]
    page = (tmp_path / "index.html").read_text()
    assert page.count('<article class="card">') == 1
    assert "1 more target is in annotations.json" in page


def test_file_names_may_hold_any_bytes(segic, files, tmp_path, capsys):
    names = [b"a b.png", b"-x.png", b"%s.png", b"a\nb.png", "猫.png".encode(), b"\xff\xfe.png", b"<b>&.png"]
    (files / "odd").mkdir()
    for name in names:
        (files / "odd" / os.fsdecode(name)).write_bytes((files / "ref.png").read_bytes())
    assert segic("predict", *REF, "--name", os.fsdecode(b"\xff"), "odd", "--out", tmp_path, *WEIGHTS) == 0
    assert sorted(os.listdir(os.fsencode(tmp_path / "labels"))) == sorted(names)
    assert "overlays/%FF%FE.png" in (tmp_path / "index.html").read_text()
    assert segic("predict", *REF, "a\0b", "--out", tmp_path, *WEIGHTS) == 2
    assert "NUL" in capsys.readouterr().err
