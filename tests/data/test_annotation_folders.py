"""Test the formats of several files: CVAT, YOLO and PASCAL VOC, read as their tools write them."""

from pathlib import Path

import numpy as np
import pytest
from annotated import example_masks, save_image
from annotation_files import areas, cvat, refusal
from PIL import Image

from segic_jax.data.images import as_image
from segic_jax.errors import DataError, InputWarning
from segic_jax.inference.annotations import read_examples
from segic_jax.inference.example import Example

VOC_SIDES = ("xmin", "ymin", "xmax", "ymax")


def test_cvat_shapes(photo):
    path = cvat(
        photo,
        '<polygon label="polygon" points="10.0,20.0;50.0,20.0;50.0,60.0;10.0,60.0"/>'
        '<box label="box" xtl="10" ytl="20" xbr="50" ybr="60"/>'
        '<box label="turned" xtl="40" ytl="40" xbr="60" ybr="50" rotation="90"/>'
        '<ellipse label="ellipse" cx="60" cy="45" rx="20" ry="10"/>'
        '<mask label="mask" rle="1, 2, 3, 3" left="110" top="80" width="3" height="3"/>'
        '<points label="points" points="1,1"/>',
    )
    with pytest.warns(InputWarning, match=r"1 of 6 annotations are left out: points 6 .* has no area"):
        found = areas(path)
    assert found.pop("ellipse") == pytest.approx(np.pi * 200, rel=0.02)
    assert found == {"polygon": 1600, "box": 1600, "turned": 200, "mask": 5}
    masks = example_masks(read_examples(path))
    assert masks["photo", "mask"][80:83, 110:113].tolist() == [
        [False, True, True],
        [False, False, False],
        [True, True, True],
    ]


def test_cvat_projects_have_a_folder_for_each_subset(tmp_path):
    for subset in ("Train", "Test"):
        save_image(tmp_path / f"images/{subset}/photo.jpg", 90, 120)
    box = '<box label="cat" xtl="10" ytl="20" xbr="50" ybr="60"/><box label="" xtl="1" ytl="2" xbr="3"/>'
    cvat(tmp_path / "annotations.xml", box, 'subset="Test" width="120" height="90"')
    with pytest.warns(InputWarning, match=r"1 of 2 annotations are left out: .* box 2 .* has no label"):
        (example,) = read_examples(tmp_path)
    assert example.image == tmp_path / "images/Test/photo.jpg"


def test_cvat_for_videos_is_named(photo):
    path = photo.with_suffix(".xml")
    path.write_text("<annotations><track id='0' label='cat'/></annotations>")
    assert "export it as 'CVAT for images 1.1'" in refusal(path)


def yolo(folder: Path, lines: str, names: str = "names: [cat, dog]\n") -> Path:
    save_image(folder / "images/train/photo.jpg", 90, 120)
    (folder / "labels/train").mkdir(parents=True)
    (folder / "labels/train/photo.txt").write_text(lines)
    (folder / "data.yaml").write_text(f"train: images/train\nnc: 2\n{names}")
    return folder


@pytest.mark.parametrize("names", ["names: [cat, dog]\n", "names:\n  0: cat\n  1: dog\n"])
def test_yolo_boxes_and_polygons(tmp_path, names):
    polygon = " ".join(
        str(value) for x, y in [[10, 20], [49, 20], [49, 59], [10, 59]] for value in (x / 120, y / 90)
    )
    lines = f"0 {polygon}\n\n1 0.5 0.5 0.1 0.1\n1 0.9 0.9 0.1 0.1 0.87\n"
    assert areas(yolo(tmp_path, lines, names)) == {"cat": 1600, "dog": 240}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "0 10 20 50 20 50 60",
            "photo.txt, line 1 ('cat') has coordinates from 10 to 60: YOLO's are relative",
        ),
        ("7 0.5 0.5 0.1 0.1", "line 1 has class 7, but"),
        ("0 0.5 0.5", "has 2 coordinates: a box has four"),
        ("cat 0.5 0.5 0.1 0.1", "line 1 is not a class and coordinates"),
    ],
)
def test_yolo_refusals(tmp_path, lines, message):
    assert message in refusal(yolo(tmp_path, lines))


def test_yolo_without_names_says_so(tmp_path):
    folder = yolo(tmp_path, "1 0.5 0.5 0.1 0.1")
    (folder / "data.yaml").unlink()
    assert "not the names of their classes: add data.yaml" in refusal(folder)
    (folder / "labels/train/photo.txt").write_text("a note on 5 things")
    assert "has no annotations of labelme" in refusal(folder)


def test_one_file_of_yolo_finds_the_names_above(tmp_path):
    folder = yolo(tmp_path, "1 0.5 0.5 0.1 0.1")
    (folder / "compose.yaml").write_text("hostnames: 5\n")
    example = Example(folder / "images/train/photo.jpg", folder / "labels/train/photo.txt", label="dog")
    assert example.object_mask(as_image(example.image)).sum() == 120
    (folder / "data.yaml").unlink()
    with pytest.raises(
        DataError, match=r"photo.txt has no label 'dog' on photo.jpg; its labels are 1 \(1\)\."
    ):
        example.object_mask(as_image(example.image))


def test_labels_without_an_image_are_named(tmp_path):
    folder = yolo(tmp_path, "0 0.5 0.5 0.1 0.1")
    (folder / "images/train/photo.jpg").unlink()
    assert "its image photo is missing; put it beside the annotations" in refusal(folder)


def voc(folder: Path, image: Image.Image) -> Path:
    save_image(folder / "JPEGImages/photo.jpg", 90, 120)
    (folder / "SegmentationClass").mkdir()
    image.save(folder / "SegmentationClass/photo.png")
    return folder


def test_voc_label_maps(tmp_path):
    colours = np.zeros((90, 120, 3), np.uint8)
    colours[:10], colours[10:30], colours[30:32] = (64, 0, 0), (64, 0, 128), (224, 224, 192)
    assert areas(voc(tmp_path / "rgb", Image.fromarray(colours))) == {"cat": 1200, "dog": 2400}
    grey = np.zeros((90, 120), np.uint8)
    grey[:10], grey[10:12] = 8, 255
    assert areas(voc(tmp_path / "grey", Image.fromarray(grey))) == {"cat": 1200}
    colours[50:60] = 1, 2, 3
    assert "has colours that PASCAL VOC's table does not have (#010203): put a labelmap.txt" in refusal(
        voc(tmp_path / "other", Image.fromarray(colours))
    )


def test_a_labelmap_names_colours(tmp_path):
    colours = np.zeros((90, 120, 3), np.uint8)
    colours[:10], colours[10:30] = (1, 2, 3), (4, 5, 6)
    folder = voc(tmp_path, Image.fromarray(colours))
    table = folder / "labelmap.txt"
    table.write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\nleaf:1,2,3::\nstem:4,5,6::\n")
    assert areas(folder) == {"leaf": 1200, "stem": 2400}
    table.write_text("leaf 1,2,3\n")
    assert "labelmap.txt, line 1 is not label:red,green,blue" in refusal(folder)


@pytest.mark.parametrize("folder", ["SegmentationClass", "SegmentationClassPNG"])
def test_label_maps_of_labelme_have_its_names_not_those_of_voc(tmp_path, folder):
    colours = np.zeros((90, 120, 3), np.uint8)
    colours[:10], colours[10:30], colours[40:41] = (128, 0, 0), (0, 128, 0), (224, 224, 192)
    project = voc(tmp_path, Image.fromarray(colours))
    (project / "SegmentationClass").rename(project / folder)
    (project / "class_names.txt").write_text("_background_\nleaf\nstem")
    assert areas(project) == {"leaf": 1200, "stem": 2400}
    (project / "class_names.txt").write_text("_background_\nleaf\n")
    assert "has colours that " in refusal(project)


def test_boxes_of_voc(tmp_path):
    def item(name: str, *sides: int) -> str:
        box = "".join(f"<{side}>{value}</{side}>" for side, value in zip(VOC_SIDES, sides, strict=True))
        return f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"

    save_image(tmp_path / "JPEGImages/photo.jpg", 90, 120)
    save_image(tmp_path / "AnnotationsVisualization/photo.jpg", 90, 120)  # as labelme exports them
    (tmp_path / "Annotations").mkdir()
    path = tmp_path / "Annotations/photo.xml"
    size = "<size><width>120</width><height>90</height></size>"
    boxes = item("cat", 10, 20, 50, 60) + item("dog", 0, 0, 5, 4) + "<object><name>dog</name></object>"
    path.write_text(f"<annotation><filename>photo.jpg</filename>{size}{boxes}</annotation>")
    with pytest.warns(
        InputWarning, match=r"1 of 3 annotations are left out: object 3 \('dog'\) has neither box"
    ):
        assert areas(tmp_path) == {"cat": 1600, "dog": 20}
    labels = np.zeros((90, 120), np.uint8)
    labels[:10] = 8
    voc(tmp_path, Image.fromarray(labels))
    assert areas(tmp_path) == {"cat": 1200}  # a label map says more than a box
    path.write_text(path.read_text().replace("<ymax>60</ymax>", "<ymax>?</ymax>"))
    assert "photo.xml, object 1 ('cat') has points" in refusal(path)


def test_polygons_of_voc(tmp_path):
    corners = [(10, 20), (50, 20), (50, 60), (10, 60)]
    numbered = "".join(f"<x{i}>{x}</x{i}><y{i}>{y}</y{i}>" for i, (x, y) in enumerate(corners, 1))
    listed = "<username>a</username>" + "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in corners[:3])
    box = "<bndbox><xmin>0</xmin><ymin>0</ymin><xmax>90</xmax><ymax>90</ymax></bndbox>"
    save_image(tmp_path / "photo.jpg", 90, 120)
    path = tmp_path / "photo.xml"

    def write(size: str, *polygons: str, end: str = "") -> None:
        objects = "".join(
            f"<object><name>cat</name>{box}<polygon>{polygon}</polygon>{end}</object>" for polygon in polygons
        )
        path.write_text(f"<annotation><filename>photo.jpg</filename>{size}{objects}</annotation>")

    write("<size><width>120</width><height>90</height></size>", numbered)  # as Roboflow exports them
    assert areas(tmp_path) == {"cat": 1600}
    write("<imagesize><nrows>90</nrows><ncols>120</ncols></imagesize>", listed)  # as LabelMe's web tool does
    assert areas(tmp_path)["cat"] == pytest.approx(800, abs=40)
    write("<imagesize><nrows>80</nrows><ncols>120</ncols></imagesize>", listed)
    assert "was annotated with 120 x 80 pixels" in refusal(path)
    write("", listed, end="<deleted>1</deleted>")
    assert "no annotation of PASCAL VOC" in refusal(path)
    write("", numbered.replace("<y3>60</y3>", ""))
    assert "photo.xml, object 1 ('cat') has points that are not pairs" in refusal(path)
