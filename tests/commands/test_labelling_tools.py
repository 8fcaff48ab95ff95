"""Test the way from a labelling tool and back on the command line, with an untrained model."""

import json

import numpy as np
import pytest
from PIL import Image

from segic_jax.commands.fit import ProjectFormat
from segic_jax.commands.predict import ResultFormat
from segic_jax.data.annotations.registry import READ, WRITTEN

WEIGHTS = ("--weights", "tiny.safetensors")


@pytest.fixture
def project(files, tmp_path):
    """Return a folder with a labelled image."""
    image = Image.open(files / "ref.png")
    image.save(tmp_path / "ref.png")
    points = [[4, 4], [30, 4], [30, 28], [4, 28]]
    shapes = [
        {"label": "disk", "points": points, "shape_type": "polygon"},
        {"label": "rest", "points": [[x, y + 4] for x, y in points], "shape_type": "polygon"},
    ]
    size = {"imageHeight": image.height, "imageWidth": image.width}
    content = {"imagePath": "ref.png", "imageData": None, "shapes": shapes} | size
    (tmp_path / "ref.json").write_text(json.dumps(content))
    return tmp_path


def test_options_list_every_format():
    assert ProjectFormat.__args__ == ("auto", *READ)
    assert ResultFormat.__args__ == WRITTEN


def test_a_reference_of_a_labelling_tool(segic, project, tmp_path, capsys):
    reference = (project / "ref.png", f"{project / 'ref.json'}:disk")
    out = tmp_path / "out"
    formats = [word for name in WRITTEN for word in ("--format", name)]
    assert (
        segic("predict", "--ref", *reference, "targets", "--keep-absent", "--out", out, *formats, *WEIGHTS)
        == 0
    )
    written = capsys.readouterr()
    assert "reference: disk, " in written.err
    assert f"labelme: {out / 'labelme'}" in written.out
    assert {path.name for path in out.iterdir() if path.is_dir()} >= set(WRITTEN)
    coco = json.loads((out / "coco/annotations.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a.jpg", "b.png"]
    labels = np.asarray(Image.open(out / "labels/a.png"))
    assert (np.asarray(Image.open(out / "voc/SegmentationClass/a.png")) == labels).all()
    # The files of all targets are written again, also where the model need not run.
    (out / "labelme/a.json").unlink()
    arguments = ("--keep-absent", "--out", out, "--format", "labelme")
    assert segic("predict", "--ref", *reference, "targets", *arguments, *WEIGHTS) == 0
    assert "2 of 2 were done before" in capsys.readouterr().out
    assert (out / "labelme/a.json").is_file()


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ("", "has several labels on ref.png, disk (1), rest (1): choose one, as in"),
        (":cat", "ref.json has no label 'cat' on ref.png; its labels are disk (1), rest (1)."),
    ],
)
def test_a_label_must_be_one_that_there_is(segic, project, tmp_path, capsys, suffix, message):
    file = f"{project / 'ref.json'}{suffix}"
    assert (
        segic("predict", "--ref", project / "ref.png", file, "targets", "--out", tmp_path / "out", *WEIGHTS)
        == 2
    )
    assert message in capsys.readouterr().err


def test_a_file_of_another_image_is_questioned(segic, files, project, tmp_path, capsys):
    file = f"{project / 'ref.json'}:disk"
    assert segic("fit", "--ref", files / "targets/a.jpg", file, "--out", tmp_path / "x.segic", *WEIGHTS) == 2
    error = capsys.readouterr().err
    assert "ref.json was made for ref.png, not for a.jpg: is it the right file?" in error
    assert "the image has" in error


def test_a_project_is_fitted(segic, project, capsys):
    out = project / "ctx.segic"
    assert segic("fit", project, "--out", out, *WEIGHTS) == 0
    assert "disk (1 example), rest (1 example)" in capsys.readouterr().out
    (project / "gone.json").write_text((project / "ref.json").read_text().replace("ref.png", "gone.png"))
    assert segic("fit", project, "--format", "labelme", "--drop", "rest", "--out", out, *WEIGHTS) == 2
    written = capsys.readouterr()
    assert "gone.json: its image gone.png is missing; put it beside the annotations" in written.err
    assert "disk (1 example)," in written.out


def test_of_a_project_damaged_images_are_left_out(segic, project, capsys):
    out = project / "ctx.segic"
    content = json.loads((project / "ref.json").read_text())
    (project / "cut.json").write_text(json.dumps(content | {"imagePath": "cut.png"}))
    (project / "cut.png").write_bytes((project / "ref.png").read_bytes()[:-40])
    assert segic("fit", project, "--out", out, *WEIGHTS) == 2
    written = capsys.readouterr()
    assert "cut.png is cut off or damaged" in written.err
    assert "disk (1 example), rest (1 example)" in written.out
    (project / "cut.png").write_bytes((project / "ref.png").read_bytes())
    assert segic("fit", project, "--max-images", "1", "--out", out, *WEIGHTS) == 0
    assert "disk (1 example), rest (1 example)" in capsys.readouterr().out
    assert segic("fit", project, "--max-images", "0", "--out", out, *WEIGHTS) == 2
    assert "max_images 0 must be at least 1" in capsys.readouterr().err


def test_a_label_of_a_label_map_by_its_name(segic, files, tmp_path, capsys):
    width, height = Image.open(files / "ref.png").size
    colours = np.zeros((height, width, 3), np.uint8)
    colours[2:20, 2:20], colours[22:, 22:] = (64, 0, 0), (64, 0, 128)
    Image.fromarray(colours).save(tmp_path / "labels.png")
    reference = ("--ref", "ref.png", f"{tmp_path / 'labels.png'}:cat")
    assert segic("fit", *reference, "--out", tmp_path / "x.segic", *WEIGHTS) == 0
    assert "cat (1 example)" in capsys.readouterr().out
    assert (
        segic(
            "fit", *reference[:2], f"{tmp_path / 'labels.png'}:bus", "--out", tmp_path / "x.segic", *WEIGHTS
        )
        == 2
    )
    assert "labels.png has no label 'bus'; its labels are cat, dog." in capsys.readouterr().err
