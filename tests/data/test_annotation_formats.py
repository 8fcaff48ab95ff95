"""Test what all annotation formats share: round trips, projects, refusals of files that cannot be used."""

import json
from pathlib import Path

import numpy as np
import pytest
from annotated import LABELS, example_masks, least_iou, photographs, save_image
from annotation_files import SQUARE, areas, cvat, labelme, refusal, shape
from PIL import Image

from segic_jax.data.annotations.registry import FORMATS, READ, WRITTEN
from segic_jax.errors import ConfigError, InputWarning
from segic_jax.inference.annotations import read_examples, save_annotations


@pytest.mark.parametrize("name", [name for name in WRITTEN if name in READ])
def test_what_is_written_is_read_again(name, tmp_path):
    images, truth = photographs(tmp_path / "photos")
    save_annotations(images, LABELS, tmp_path / name, name)
    found = example_masks(read_examples(tmp_path / name, images=tmp_path / "photos"))
    assert least_iou(found, truth) >= (1 if name == "voc" else 0.98)
    assert (
        example_masks(read_examples(tmp_path / name, name, images=tmp_path / "photos")).keys() == truth.keys()
    )


def test_masks_are_written_for_each_class(tmp_path):
    images, truth = photographs(tmp_path / "photos")
    save_annotations(images, LABELS, tmp_path / "out", "masks")
    for (stem, label), mask in truth.items():
        assert (np.asarray(Image.open(tmp_path / "out" / label / f"{stem}.png")) == 255 * mask).all()


def test_names_of_written_files_are_relative(tmp_path):
    images, _ = photographs(tmp_path / "photos")
    for name in ("coco", "cvat", "label-studio", "labelme", "yolo", "via"):
        save_annotations(images, LABELS, tmp_path / name, name)
    coco = json.loads((tmp_path / "coco/annotations.json").read_text())
    assert [item["file_name"] for item in coco["images"]] == ["photo0.jpg", "below/photo1.jpg", "photo2.jpg"]
    assert 'name="below/photo1.jpg"' in (tmp_path / "cvat/annotations.xml").read_text()
    assert "?d=below/photo1.jpg" in (tmp_path / "label-studio/tasks.json").read_text()
    file = json.loads((tmp_path / "labelme/photo1.json").read_text())
    assert file["imagePath"] == "../photos/below/photo1.jpg"
    assert "train: ../photos" in (tmp_path / "yolo/data.yaml").read_text()
    via = json.loads((tmp_path / "via/via.json").read_text())
    assert via["_via_settings"]["core"]["default_filepath"] == "../photos/"
    size = images[1].path.stat().st_size
    assert via["_via_image_id_list"][1] == f"below/photo1.jpg{size}"
    regions = via["_via_img_metadata"][f"below/photo1.jpg{size}"]["regions"]
    assert {item["region_attributes"]["label"] for item in regions} == set(LABELS)
    assert set(via["_via_attributes"]["region"]["label"]["options"]) == set(LABELS)


def test_holes_are_kept(tmp_path):
    images, _ = photographs(tmp_path / "photos", 1)
    for name in ("coco", "cvat", "label-studio", "labelme"):
        save_annotations(images, LABELS, tmp_path / name, name)
    coco = json.loads((tmp_path / "coco/annotations.json").read_text())
    assert {type(item["segmentation"]) for item in coco["annotations"]} == {list, dict}
    assert "<mask " in (tmp_path / "cvat/annotations.xml").read_text()
    assert "brushlabels" in (tmp_path / "label-studio/tasks.json").read_text()
    shapes = json.loads((tmp_path / "labelme/photo0.json").read_text())["shapes"]
    assert {item["shape_type"] for item in shapes} == {"polygon", "mask"}


@pytest.mark.parametrize(
    ("shapes", "fields", "message"),
    [
        (
            [shape()],
            {"imageHeight": 45, "imageWidth": 60},
            "annotated with 60 x 45 pixels, the image has 120 x 90",
        ),
        (
            [shape(points=[[130, 10], [140, 10], [140, 20]])],
            {},
            "photo.json, shape 1 ('cat') lies outside of its",
        ),
        (
            [shape(points=[[0.1, 0.1], [0.5, 0.1], [0.5, 0.5]])],
            {},
            "shape 1 ('cat') has coordinates of 0 to 1",
        ),
        ([shape(points=[[10, 10], [90, 80], [90, 10], [10, 80]])], {}, "shape 1 ('cat') crosses itself"),
        (
            [shape(points=[[10, 10], [90, 80]])],
            {},
            "shape 1 ('cat') is empty: it marks no pixel; draw it again",
        ),
        ([shape(points=[])], {}, "shape 1 ('cat') is empty"),
        ([shape(points=[["a", 1]])], {}, "shape 1 ('cat') has points that are not pairs of numbers"),
        ([shape(kind="blob")], {}, "shape 1 ('cat') is a blob, which is not known"),
        ([shape(kind="circle", points=[[1, 1]])], {}, "has 1 points, but a circle has 2"),
        ([shape(kind="mask", points=[[1, 1], [2, 2]], mask="?")], {}, "cannot be decoded"),
        ([shape("cat"), shape("Cat")], {}, "The labels 'cat' ("),
        ([{"points": SQUARE}], {}, "shape 1 has no label"),
        (
            [shape()],
            {"imagePath": "gone.jpg"},
            "its image gone.jpg is missing; put it beside the annotations",
        ),
        ([], {}, "has no annotation of labelme that can be used as a reference"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_fix(photo, shapes, fields, message):
    assert message in refusal(labelme(photo, *shapes, **fields))


def test_an_empty_annotation_beside_others_is_left_out(photo):
    path = labelme(photo, shape(), shape(points=[[1, 1], [2, 2]]))
    with pytest.warns(
        InputWarning, match=r"1 of 2 annotations mark no pixel and are left out: .*shape 2 \('cat'\)"
    ):
        assert areas(path) == {"cat": 41 * 41}


def test_an_image_that_its_tag_turns_is_explained(tmp_path):
    image = Image.new("RGB", (120, 90))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "photo.jpg", exif=exif)
    message = refusal(labelme(tmp_path / "photo.jpg", shape()))
    assert (
        "annotated with 120 x 90 pixels, the image has 90 x 120, which its EXIF tag turns by 90 degrees"
        in message
    )
    path = labelme(tmp_path / "photo.jpg", shape(), imageHeight=120, imageWidth=90)
    assert areas(path) == {"cat": 41 * 41}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"shapes": [', "a.json is damaged or not JSON"),
        ("a.json", b"{}", "a.json is none of the formats that are read (labelme, COCO,"),
        ("a.json", b"[" * 100_000, "a.json is damaged or not JSON"),
        (
            "a.json",
            b'{"shapes": [], "imagePath": 1, "imageHeight": [], "imageData": 5}',
            "imageData cannot be decoded",
        ),
        (
            "a.json",
            b'{"_via_img_metadata": {"x": 5}}',
            "a.json is not as VIA writes it (AttributeError: 'int'",
        ),
        ("a.xml", b"<annotations><image", "a.xml is damaged or not XML"),
        ("a.xml", b'<!DOCTYPE x [<!ENTITY a "b">]><annotations/>', "it declares entities"),
        ("a.xml", b"<annotation/>", "a.xml is none of the formats"),
        ("a.zip", b"PK\x05\x06" + bytes(18), "a.zip is a ZIP archive: unpack it"),
    ],
)
def test_damaged_and_unknown_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in refusal(tmp_path / name)


def test_a_project_of_two_formats_asks_for_one(photo):
    labelme(photo, shape())
    cvat(photo, '<box label="dog" xtl="10" ytl="20" xbr="50" ybr="60"/>')
    message = refusal(photo.parent)
    assert "several formats, labelme (1 images), cvat (1 images): choose one with --format" in message
    assert areas(photo.parent, format="cvat") == {"dog": 1600}
    assert "has no annotations of VIA" in refusal(photo.parent, format="via")
    assert "There is no format 'paint': choose one of labelme, coco" in refusal(photo.parent, format="paint")


def test_images_are_found_below_the_project(tmp_path):
    save_image(tmp_path / "deep/down/photo.jpg", 90, 120)
    labelme(tmp_path / "photo.jpg", shape(), imagePath="..\\elsewhere\\photo.jpg")
    assert areas(tmp_path) == {"cat": 41 * 41}
    save_image(tmp_path / "other/photo.jpg", 90, 120)
    assert "its image ../elsewhere/photo.jpg could be" in refusal(tmp_path)
    assert areas(tmp_path, images=tmp_path / "other") == {"cat": 41 * 41}


def test_one_bad_annotation_does_not_stop_the_others(photo):
    labelme(photo, shape("cat"), shape("dog", points=[[1, 1], [2, 2]]))
    labelme(photo.with_name("gone.jpg"), shape("a"), shape("b"), imagePath="gone.jpg")
    photo.with_name("broken.json").write_text("{")
    errors = []
    examples = read_examples(
        photo.parent, on_error=lambda file, error: errors.append((file.name, str(error)))
    )
    assert [example.name for example in examples] == ["cat"]
    assert sorted(name for name, _ in errors) == ["broken.json", "gone.json", "photo.json"]


def test_a_project_reads_no_pixels(tmp_path, monkeypatch):
    save_image(tmp_path / "photo.png", 90, 120)
    labelme(tmp_path / "photo.png", shape(), shape("dog"), imagePath="photo.png")

    def load(*_):
        raise AssertionError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    assert areas(tmp_path) == {"cat": 41 * 41, "dog": 41 * 41}


def test_a_part_of_a_project_is_drawn_by_the_names_of_images(tmp_path):
    names = [f"{number}.jpg" for number in range(12)]
    for number, name in enumerate(names):
        save_image(tmp_path / "images" / name, 90, 120)
        labelme(tmp_path / name, shape(), shape("dog" if number % 2 else "owl"), imagePath=name)
    (tmp_path / "images/3.jpg").unlink()  # another one takes its place

    def draw(count: int, project: Path = tmp_path) -> dict[str, set[str]]:
        found = read_examples(project, max_images=count, images=tmp_path / "images", on_error=lambda *_: None)
        return {
            name: {Path(example.image).name for example in found if example.name == name}
            for name in ("cat", "dog", "owl")
        }

    few, more = draw(3), draw(5)
    assert {name: len(images) for name, images in more.items()} == {"cat": 5, "dog": 5, "owl": 5}
    assert all(len(few[name]) == 3 and few[name] < more[name] for name in few)
    assert few["cat"] <= few["dog"] | few["owl"]
    (tmp_path / "other").mkdir()
    for number, path in enumerate(sorted(tmp_path.glob("*.json"), reverse=True)):
        path.rename(tmp_path / f"other/{number}.json")
    assert draw(3, tmp_path / "other") == few
    with pytest.raises(ConfigError, match="must be at least 1"):
        draw(0)


def test_every_format_reads_or_writes():
    assert set(READ) | set(WRITTEN) == set(FORMATS)
