"""`segic predict`, `fit`, `video`, `explain` and `doctor` in process, with a model that learned nothing."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from tiny import CONFIG, command_files, picture

from segic_jax.commands import doctor
from segic_jax.commands.arguments import name_targets
from segic_jax.commands.parser import main
from segic_jax.inference.engine import Engine
from segic_jax.inference.segmenter import Segmenter
from segic_jax.inference.tracker import track_annotations


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return command_files(tmp_path_factory.mktemp("commands"))


@pytest.fixture
def segic(files, monkeypatch):
    """Runs a command inside the folder and gives the exit code."""
    monkeypatch.chdir(files)

    def run(*arguments) -> int:
        with pytest.raises(SystemExit) as stopped:
            main(list(map(str, arguments)))
        return stopped.value.code

    return run


WEIGHTS = ("--weights", "tiny.safetensors")
REF = ("--ref", "ref.png", "mask.png")


def test_predict_a_folder(segic, tmp_path, capsys):
    out = tmp_path / "out"
    code = segic("predict", *REF, "--name", "disk", "targets", "--keep-absent", "--out", out, *WEIGHTS)
    assert code == 0
    written = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    pictures = {f"{kind}/{name}.png" for kind in ("overlays", "labels") for name in "ab"}
    assert written == {
        "index.html",
        "annotations.json",
        "annotations/a.json",
        "annotations/b.json",
        *pictures,
    }
    labels = Image.open(out / "labels/b.png")
    assert (labels.mode, labels.size) == ("P", (70, 52))
    coco = json.loads((out / "annotations.json").read_text())
    assert [one["file_name"] for one in coco["images"]] == ["targets/a.jpg", "targets/b.png"]
    assert coco["categories"] == [{"id": 1, "name": "disk"}]
    area = {one["image_id"]: one["area"] for one in coco["annotations"]}
    assert area.get(2, 0) == (np.asarray(labels) == 1).sum()
    page = (out / "index.html").read_text()
    assert page.count('<article class="card">') == 2
    assert "disk in 2 images" in page
    assert "http" not in page
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_bad_target_does_not_stop_the_others(segic, files, tmp_path, capsys):
    (files / "cut.jpg").write_bytes((files / "targets/a.jpg").read_bytes()[:-300])
    targets = ("gone.jpg", "cut.jpg", "targets/b.png")
    assert segic("predict", *REF, *targets, "--out", tmp_path / "out", *WEIGHTS) == 2
    said = capsys.readouterr()
    assert "gone.jpg" in said.err
    assert "cut.jpg is cut off" in said.err
    assert len(said.err.splitlines()) == 2
    assert "targets/b.png: object" in said.out
    assert "cut.jpg is cut off" in (tmp_path / "out/index.html").read_text()


def test_a_stopped_run_is_whole_and_goes_on(segic, tmp_path, capsys, monkeypatch):
    many, asked = Segmenter.predict_many, []
    out = tmp_path / "out"

    def stopped(*arguments, **more):
        yield next(many(*arguments, **more))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "predict_many", stopped)
        assert segic("predict", *REF, "targets", "--out", out, *WEIGHTS) == 130
    assert len(json.loads((out / "annotations.json").read_text())["images"]) == 1
    assert '<article class="card">' in (out / "index.html").read_text()
    assert capsys.readouterr().err == "Stopped.\n"

    def counted(self, targets, *arguments, **more):
        asked.append([path.name for path in targets])
        return many(self, targets, *arguments, **more)

    monkeypatch.setattr(Segmenter, "predict_many", counted)
    assert segic("predict", *REF, "targets", "--out", out, *WEIGHTS) == 0
    assert "1 of 2 were done before" in capsys.readouterr().out
    assert segic("predict", *REF, "targets", "--out", tmp_path / "fresh", *WEIGHTS) == 0
    for file in ("annotations.json", "labels/a.png", "overlays/b.png"):
        assert (out / file).read_bytes() == (tmp_path / "fresh" / file).read_bytes()
    assert (out / "index.html").read_text().count('<article class="card">') == 2
    # What is missing, and what another command made, is done again.
    (out / "labels/b.png").unlink()
    assert segic("predict", *REF, "targets", "--out", out, *WEIGHTS) == 0
    assert segic("predict", *REF, "targets", "--out", out, *WEIGHTS, "--threshold", "0.4") == 0
    assert asked == [["b.png"], ["a.jpg", "b.png"], ["b.png"], ["a.jpg", "b.png"]]


def test_a_saved_context_gives_the_same(segic, tmp_path, capsys):
    box = ("--ref", "ref.png", "5,5,40,30", "--name", "disk", "--name", "box")
    assert segic("fit", *REF, *box, "--out", tmp_path / "new/c.segic", *WEIGHTS) == 0
    assert "disk (1 example), box (1 example)" in capsys.readouterr().out
    for name, shown in (("one", (*REF, *box)), ("two", ("--context", tmp_path / "new/c.segic"))):
        assert segic("predict", *shown, "targets/a.jpg", "--out", tmp_path / name, *WEIGHTS) == 0
    one, two = ((tmp_path / name / "annotations.json").read_text() for name in ("one", "two"))
    assert one == two
    dropped = ("--context", tmp_path / "new/c.segic", "--drop", "disk", "--out", tmp_path / "d.segic")
    assert segic("fit", *dropped, *WEIGHTS) == 0
    assert "box (1 example)" in capsys.readouterr().out.splitlines()[-1]
    assert segic("predict", "--context", tmp_path / "d.segic", "targets", "--out", tmp_path / "x") == 2
    assert "another model" in capsys.readouterr().err


def test_the_threshold_is_a_probability(segic, tmp_path):
    pixels = {}
    for threshold in ("0.2", "0.8"):
        shown = (*REF, "--threshold", threshold, "--keep-absent")
        assert segic("predict", *shown, "targets/a.jpg", "--out", tmp_path, *WEIGHTS) == 0
        pixels[threshold] = (np.asarray(Image.open(tmp_path / "labels/a.png")) > 0).sum()
    assert pixels["0.2"] > pixels["0.8"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--ref", "ref.png", "targets/a.jpg", "targets"), "70 x 51 pixels"),
        (("--ref", "ref.png", "black.png", "targets"), "black.png is empty"),
        (("--ref", "ref.png", "none.png", "targets"), "none.png"),
        (("--ref", "none.png", "mask.png", "targets"), "none.png"),
        (("--ref", "ref.png", "1,2,3,400", "targets"), "must have x0 < x1"),
        (("--ref", "ref.png", "1..2,2,3,4", "targets"), "four numbers"),
        (("--ref", "ref.png", "mask.png:7", "targets"), "no pixel of the label 7"),
        ((*REF,), "at least one target"),
        (("targets",), "Say what to look for"),
        (("targets", "--name", "x"), "no --ref is given"),
        (("targets", *REF, "--name", "x", "--name", "y"), "1 --ref and 2 --name"),
        (("targets", "--negative", "ref.png", "mask.png"), "--negative also needs"),
        (("targets", *REF, "--threshold", "1"), "between 0 and 1"),
        (("targets", "--context", "mask.png"), "not a saved context"),
        (("x" * 5000, *REF), "xxx... cannot be used (File name too long)"),
        (("targets", *REF, "--out", "ref.png"), "is a file"),
        (("empty", *REF), "has no images"),
    ],
)
def test_bad_input_is_one_sentence(segic, files, tmp_path, capsys, arguments, sentence):
    cv2.imwrite(str(files / "black.png"), np.zeros((50, 70), np.uint8))
    (files / "empty").mkdir(exist_ok=True)
    out = () if "--out" in arguments else ("--out", tmp_path / "out")
    assert segic("predict", *arguments, *out, *WEIGHTS) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert len(said.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_inputs_are_never_overwritten(segic, files, tmp_path, capsys):
    before = {path: path.read_bytes() for path in files.rglob("*.*") if path.is_file()}
    for arguments in (
        ("explain", *REF, "targets", "--out", "targets"),
        ("explain", *REF, "ref.png", "--out", "."),
        ("fit", *REF, "--out", "mask.png"),
        ("convert", "tiny.safetensors", "--out", "tiny.safetensors"),
        ("export", "tiny.safetensors", "--out", "ref.png"),
    ):
        assert segic(*arguments, *(WEIGHTS if arguments[1] == "--ref" else ())) == 2
        assert "give another --out" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def test_names_of_any_bytes(segic, files, tmp_path, capsys):
    names = [b"a b.png", b"-x.png", b"%s.png", b"a\nb.png", "猫.png".encode(), b"\xff\xfe.png", b"<b>&.png"]
    (files / "odd").mkdir()
    for name in names:
        (files / "odd" / os.fsdecode(name)).write_bytes((files / "ref.png").read_bytes())
    assert segic("predict", *REF, "--name", os.fsdecode(b"\xff"), "odd", "--out", tmp_path, *WEIGHTS) == 0
    assert sorted(os.listdir(os.fsencode(tmp_path / "labels"))) == sorted(names)
    assert "overlays/%FF%FE.png" in (tmp_path / "index.html").read_text()
    assert segic("predict", *REF, "a\0b", "--out", tmp_path, *WEIGHTS) == 2
    assert "NUL" in capsys.readouterr().err


def test_names_of_results(tmp_path):
    one, two, other = Path("x/a.jpg"), Path("x/a.png"), Path("y/A.jpg")
    assert list(name_targets([one, one, Path("y/../x/a.jpg")])) == ["a"]
    assert list(name_targets([one, two])) == ["a.jpg", "a.png"]
    assert list(name_targets([one, other, Path("b.jpg")])) == ["x_a.jpg", "y_A.jpg", "b"]


@pytest.fixture(scope="module")
def clip(files):
    """Six frames as a video and as a folder, and the first one's mask with two objects, 3 and 5."""
    (files / "frames").mkdir()
    video = cv2.VideoWriter(str(files / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (70, 50))
    for i in range(6):
        frame = np.roll(picture(0, 50, 70)[0], 2 * i, 1)
        video.write(frame)
        cv2.imwrite(str(files / f"frames/{i + 7}.png"), frame)
    video.release()
    labels = np.zeros((50, 70), np.uint8)
    labels[10:40, 20:35], labels[5:20, 50:60] = 5, 3
    cv2.imwrite(str(files / "first.png"), labels)
    return labels


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def frames_in(video):
    video = cv2.VideoCapture(str(video))
    return sum(video.read()[0] for _ in range(10))


def test_video_from_the_first_mask(segic, clip, tmp_path, capsys):
    outs = ("--out", tmp_path / "o.mp4", "--out", tmp_path / "labels")
    assert segic("video", "clip.avi", "--mask", "first.png", *outs, *WEIGHTS) == 0
    assert capsys.readouterr().out.startswith("6 frames are done: ")
    assert sorted(os.listdir(tmp_path)) == ["labels", "o.jsonl", "o.mp4"]
    assert sorted(os.listdir(tmp_path / "labels")) == [f"{i:06}.png" for i in range(6)]
    maps = [np.asarray(Image.open(tmp_path / f"labels/{i:06}.png")) for i in range(6)]
    np.testing.assert_array_equal(maps[0], clip)
    assert set(np.unique(maps)) <= {0, 3, 5}
    assert cv2.VideoCapture(str(tmp_path / "o.mp4")).get(cv2.CAP_PROP_FPS) == 10
    assert frames_in(tmp_path / "o.mp4") == 6
    rows = lines(tmp_path / "o.jsonl")
    assert [(row["frame"], row["class"]) for row in rows] == [(i, name) for i in range(6) for name in "35"]
    for row in rows:
        mask = maps[row["frame"]] == row["number"]
        assert row["area"] == mask.sum()
        assert row["present"] == mask.any()
        np.testing.assert_array_equal(coco.decode(row["segmentation"]), mask)
        if row["present"]:
            y, x = np.nonzero(mask)
            assert row["box"] == [x.min(), y.min(), x.max() + 1, y.max() + 1]

    # The tracker is that of the benchmarks; there a frame's mask is cut on the canvas.
    video = cv2.VideoCapture(str(Path("clip.avi")))
    read = [video.read()[1][..., ::-1] for _ in range(6)]
    bundle = Segmenter.load("tiny.safetensors").bundle
    expected = list(track_annotations(Engine(bundle), read, {0: clip}, semantics="repaired", prompt=""))
    assert np.mean(np.array(expected) == np.array(maps)) > 0.99


def test_video_of_a_folder_from_a_reference(segic, files, clip, tmp_path, capsys):
    bad = files / "frames" / "9.png"
    content = bad.read_bytes()
    bad.write_bytes(content[:-50])
    code = segic("video", "frames", *REF, "--out", tmp_path / "labels", *WEIGHTS)
    bad.write_bytes(content)
    assert code == 2
    assert "9.png is cut off" in capsys.readouterr().err
    names = ["7", "8", "10", "11", "12"]
    assert sorted(os.listdir(tmp_path / "labels")) == sorted(f"{name}.png" for name in names)
    assert [row["name"] for row in lines(tmp_path / "labels.jsonl")] == names


def test_a_stopped_video_goes_on(segic, clip, tmp_path, capsys, monkeypatch):
    from segic_jax.inference.video_io import VideoOutputs

    add, looked = VideoOutputs.add, []
    arguments = ("clip.avi", "--mask", "first.png", *WEIGHTS, "--out")
    outs = (tmp_path / "o.avi", "--out", tmp_path / "labels")
    start = Segmenter.start_result
    monkeypatch.setattr(Segmenter, "start_result", lambda *a, **more: looked.append(1) or start(*a, **more))
    assert segic("video", *arguments, tmp_path / "whole.avi") == 0
    assert len(looked) == 5  # the first frame is given

    def stopped(self, *arguments):
        if self._count == 3:
            raise KeyboardInterrupt
        add(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(VideoOutputs, "add", stopped)
        assert segic("video", *arguments, *outs) == 130
    assert "3 of 6 frames are done: repeat the command" in capsys.readouterr().err
    assert not (tmp_path / "o.avi").exists()
    with (tmp_path / "o.jsonl.part").open("a") as part:  # killed while it wrote
        part.write('{"frame": 3, "cla')
    looked.clear()
    assert segic("video", *arguments, *outs) == 0
    assert 3 <= len(looked) <= 4
    assert (tmp_path / "o.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    assert (tmp_path / "o.avi").read_bytes() == (tmp_path / "whole.avi").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["labels", "o.avi", "o.jsonl", "whole.avi", "whole.jsonl"]
    # Finished: nothing is done again, and a video that is missing is drawn without the model.
    looked.clear()
    assert segic("video", *arguments, *outs) == 0
    assert "6 frames were done before" in capsys.readouterr().out
    (tmp_path / "o.avi").unlink()
    assert segic("video", *arguments, *outs) == 0
    assert frames_in(tmp_path / "o.avi") == 6
    assert looked == []


def test_absence_and_negatives_in_videos(segic, clip, tmp_path, capsys, monkeypatch):
    def areas(name, *more):
        assert segic("video", "clip.avi", *REF, *more, "--out", tmp_path / name, *WEIGHTS) == 0
        return [row["area"] for row in lines(tmp_path / f"{name}.jsonl")]

    shown = areas("shown")
    assert "absent" not in capsys.readouterr().out
    with monkeypatch.context() as patch:  # what is a negative at all is taken away
        patch.setattr("segic_jax.inference.presence.MARGIN", -100)
        assert sum(areas("denied", "--negative", "ref.png", "mask.png")) < sum(shown)
    capsys.readouterr()
    assert sum(areas("none", "--threshold", "0.999999")) == 0
    assert "object: absent on 6 frames, 0-5" in capsys.readouterr().out
    assert not any(row["present"] for row in lines(tmp_path / "none.jsonl"))


def test_a_full_disk_is_said_of_a_video(segic, clip, tmp_path, capsys, monkeypatch):
    """OpenCV goes on writing, and nothing arrives."""
    rooms = iter([10**6, 10**6, 100])
    usage = type("Usage", (), {"free": property(lambda _: next(rooms))})
    monkeypatch.setattr("segic_jax.inference.video_io.shutil.disk_usage", lambda _: usage())
    assert segic("video", "clip.avi", "--mask", "first.png", "--out", tmp_path / "o.avi", *WEIGHTS) == 2
    assert "the disk is full" in capsys.readouterr().err
    assert not (tmp_path / "o.avi").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("none.mp4", *REF), "no such video"),
        (("mask.png:", *REF), "no such video"),
        (("tiny.safetensors", *REF), "cannot be read as a video"),
        (("clip.avi",), "Say what to look for"),
        (("clip.avi", *REF, "--mask", "first.png"), "not both"),
        (("clip.avi", *REF, "--out", "x.gif"), "the suffix of a video must be one of .mp4"),
        (("clip.avi", *REF, "--out", "clip.avi"), "the input itself"),
        (("clip.avi", "--mask", "targets/b.png"), "targets/b.png is 70 x 52 pixels"),
        (("clip.avi", *REF, "--threshold", "2"), "between 0 and 1"),
        (("clip.avi", *REF, "--fps", "0"), "--fps 0 must be above 0"),
    ],
)
def test_bad_videos_are_one_sentence(segic, clip, tmp_path, capsys, arguments, sentence):
    out = () if "--out" in arguments else ("--out", tmp_path / "out.mp4")
    assert segic("video", *arguments, *out, *WEIGHTS) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert len(said.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_explain(segic, tmp_path, capsys):
    shown = (*REF, "--ref", "ref.png", "0,0,20,20", "--name", "disk", "--name", "corner")
    assert segic("explain", *shown, "targets/a.jpg", "gone.jpg", "--out", tmp_path, *WEIGHTS) == 2
    assert "gone.jpg" in capsys.readouterr().err
    drawn = cv2.imread(str(tmp_path / "a.png"))
    assert drawn.shape[1] == 1320
    assert drawn.std() > 10


def test_the_doctor_never_fails(monkeypatch, segic, capsys):
    monkeypatch.setattr(doctor, "_product_rate", lambda side: 1e9)
    assert segic("doctor") == 0
    assert "cannot be found out" not in capsys.readouterr().out

    def broken(*_):
        raise RuntimeError("no\nway")

    sections = (
        "versions",
        "processor",
        "memory",
        "devices",
        "weights",
        "programs",
        "disk",
        "speed",
        "advice",
    )
    for name in sections:
        monkeypatch.setattr(doctor, name if name == "processor" else f"_{name}", broken)
    assert segic("doctor") == 0
    assert capsys.readouterr().out.count("cannot be found out: RuntimeError: no way\n") == len(sections)


def test_the_doctors_flops_are_those_of_the_products():
    """A linear layer of the backbone does 2 * patches * weights operations."""
    from segic_jax.models.segic import backbone_template

    shapes = backbone_template(CONFIG.vit).shapes
    weights = sum(np.prod(s.shape) for name, s in shapes.items() if "blocks" in name and len(s.shape) == 2)
    assert doctor._flops(CONFIG) > 2 * CONFIG.grid**2 * weights


def test_help_teaches(segic, capsys):
    assert segic("--help") == 0
    assert "doctor" in capsys.readouterr().out
    for name in ("predict", "fit", "video", "explain"):
        assert segic(name, "--help") == 0
        assert f"  segic {name} " in capsys.readouterr().out
