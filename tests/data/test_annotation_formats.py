"""Test that every format is read as its tool writes it, and what is said about files that cannot be used."""

import base64
import io
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from annotated import LABELS, example_masks, least_iou, photographs, save_image
from PIL import Image

from segic_jax.data.annotations import brush
from segic_jax.data.annotations.registry import FORMATS, READ, WRITTEN
from segic_jax.data.images import as_image
from segic_jax.errors import ConfigError, DataError, InputWarning
from segic_jax.inference.annotations import read_examples, save_annotations
from segic_jax.inference.example import Example

VOC_SIDES = ("xmin", "ymin", "xmax", "ymax")
SQUARE = [[10, 20], [50, 20], [50, 60], [10, 60]]  # on an image of 120 x 90


@pytest.fixture
def photo(tmp_path) -> Path:
    return save_image(tmp_path / "photo.jpg", 90, 120)


def areas(path: Path, **options) -> dict[str, int]:
    """Return the number of pixels of each label."""
    return {
        label: int(mask.sum()) for (_, label), mask in example_masks(read_examples(path, **options)).items()
    }


def refusal(path: Path, **options) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        with pytest.raises(DataError) as error:
            read_examples(path, **options)
    assert re.fullmatch(r"[^\n]+[.?]", str(error.value))
    return str(error.value)


def labelme(path: Path, *shapes: dict, **fields) -> Path:
    content = {"version": "5.5.0", "flags": {}, "imagePath": "photo.jpg", "imageData": None}
    content |= {"imageHeight": 90, "imageWidth": 120, "shapes": list(shapes)}
    path.with_suffix(".json").write_text(json.dumps(content | fields))
    return path.with_suffix(".json")


def shape(label: str = "cat", kind: str = "polygon", points=SQUARE, **fields) -> dict:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}} | fields


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


def test_labelme_shapes(tmp_path, photo):
    mask = io.BytesIO()
    Image.fromarray(np.eye(10, dtype=np.uint8)).save(mask, "PNG")
    encoded = base64.b64encode(mask.getvalue()).decode()
    path = labelme(
        photo,
        shape("polygon"),
        shape("rectangle", "rectangle", [[50, 60], [10, 20]]),
        shape("corners", "rectangle", SQUARE),
        shape("rotation", "rotation", SQUARE),
        shape("circle", "circle", [[60, 45], [60, 55]]),
        shape("mask", "mask", [[5, 6], [14, 15]], mask=encoded),
        shape("two", points=[[0, 0], [9, 0], [9, 9], [0, 9]], group_id=1),
        shape("two", points=[[20, 0], [29, 0], [29, 9], [20, 9]], group_id=1),
        shape("point", "point", [[1, 1]]),
        shape("__ignore__"),
    )
    with pytest.warns(
        InputWarning, match=r"1 of 10 annotations are left out: shape 9 \('point'\) is a point"
    ):
        found = areas(path)
    circle = found.pop("circle")
    assert circle == pytest.approx(np.pi * 10.5**2, rel=0.02)
    squares = dict.fromkeys(("polygon", "rectangle", "corners", "rotation"), 41 * 41)
    assert found == squares | {"mask": 10, "two": 200}


def test_labelme_has_the_image_inside(tmp_path, photo):
    content = base64.b64encode(photo.read_bytes()).decode()
    shapes = shape(), shape("dog")
    path = labelme(tmp_path / "inside.json", *shapes, imagePath="elsewhere.jpg", imageData=content)
    first, second = read_examples(path)
    assert first.image.size == (120, 90)
    assert first.image is second.image  # which is encoded once


def coco(path: Path, *annotations: dict, **fields) -> Path:
    content = {
        "images": [{"id": 7, "file_name": "photo.jpg", "height": 90, "width": 120}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [{"id": i, "image_id": 7, "category_id": 3} | a for i, a in enumerate(annotations, 1)],
    }
    path.with_suffix(".json").write_text(json.dumps(content | fields))
    return path.with_suffix(".json")


def flat(points=SQUARE) -> list:
    return [value for point in points for value in point]


def test_coco_annotations(photo):
    runs = {"size": [90, 120], "counts": [0, 5, 90 * 120 - 5]}
    path = coco(
        photo,
        {"segmentation": [flat()]},
        {"segmentation": flat([[60, 0], [70, 0], [70, 10], [60, 10]])},
        {"segmentation": runs, "iscrowd": 1},
        {"segmentation": [], "bbox": [100, 20, 10, 5], "category_id": 5},
        {"segmentation": [flat()], "category_id": 9},
        {"segmentation": []},
    )
    with pytest.warns(
        InputWarning, match=r"2 of 6 annotations are left out: annotation 5 belongs to an image or"
    ):
        assert areas(path) == {"cat": 1600 + 100 + 5, "dog": 50}


def test_a_folder_of_coco_has_files_of_other_kinds(tmp_path, photo):
    coco(tmp_path / "instances_val", {"segmentation": [flat()]})
    coco(tmp_path / "person_keypoints_val", {"segmentation": [flat()], "keypoints": []})
    coco(tmp_path / "captions_val", {"caption": "a cat"})
    assert len(read_examples(tmp_path)) == 1


def test_coco_results_name_no_images(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"image_id": 1, "category_id": 1, "segmentation": {}, "score": 1}]))
    assert "is a list of COCO results, which names no image and no class" in refusal(path)


def cvat(path: Path, shapes: str, size='width="120" height="90"') -> Path:
    text = f'<?xml version="1.0"?><annotations><version>1.1</version><image id="0" name="photo.jpg" {size}>'
    path.with_suffix(".xml").write_text(f"{text}{shapes}</image></annotations>")
    return path.with_suffix(".xml")


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


def region(kind: str, label: str, **value) -> dict:
    item = {"id": "x", "type": f"{kind}labels", "value": value | {f"{kind}labels": [label]}}
    return item | {"original_width": 120, "original_height": 90, "image_rotation": 0}


def label_studio(
    path: Path, *results: list, key="annotations", image="/data/upload/1/0a1b2c3d-photo.jpg"
) -> Path:
    task = {"id": 4, "data": {"image": image}, key: [{"result": list(result)} for result in results]}
    path.with_suffix(".json").write_text(json.dumps([task]))
    return path.with_suffix(".json")


def test_label_studio_regions(photo):
    points = (np.array(SQUARE) / [1.2, 0.9]).tolist()
    mask = np.zeros((90, 120), bool)
    mask[3:5, 6:9] = True
    path = label_studio(
        photo,
        [
            region("polygon", "polygon", points=points),
            region("rectangle", "rectangle", x=50, y=50, width=10, height=10, rotation=0),
            region("ellipse", "ellipse", x=50, y=50, radiusX=10, radiusY=10),
            region("brush", "brush", format="rle", rle=brush.encode(mask)),
            {"type": "choices", "value": {"choices": ["good"]}},
        ],
    )
    found = areas(path)
    assert found.pop("ellipse") == pytest.approx(np.pi * 12 * 9, rel=0.03)
    assert found == {"polygon": 1600, "rectangle": 108, "brush": 6}


def test_label_studio_predictions_are_read_if_nobody_has_annotated(photo):
    box = region("rectangle", "cat", x=50, y=50, width=10, height=10)
    assert areas(label_studio(photo, [box], key="predictions")) == {"cat": 108}


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (
            [[region("rectangle", "cat", x=5, y=5, width=9, height=9)]] * 2,
            "task 4 has 2 annotations: mark one",
        ),
        ([[region("polygon", "cat", points=[]) | {"image_rotation": 90}]], "was drawn on a turned image"),
        ([[region("rectangle", "cat", x=5, y=5)]], "'width'"),
    ],
)
def test_label_studio_refusals(photo, results, message):
    assert message in refusal(label_studio(photo, *results))


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


def via(path: Path, *regions: dict, **fields) -> Path:
    entry = {"filename": "photo.jpg", "size": path.stat().st_size, "regions": list(regions)} | fields
    path.with_suffix(".json").write_text(json.dumps({"_via_img_metadata": {"photo.jpg1": entry}}))
    return path.with_suffix(".json")


def via_region(attributes: dict, **shape) -> dict:
    return {"shape_attributes": shape, "region_attributes": attributes}


def test_via_regions(photo):
    x, y = zip(*SQUARE, strict=True)
    path = via(
        photo,
        via_region({"class": "polygon"}, name="polygon", all_points_x=x, all_points_y=y),
        via_region({"class": "rect"}, name="rect", x=10, y=20, width=40, height=40),
        via_region({"class": {"circle": True}}, name="circle", cx=60, cy=45, r=10),
        via_region({"class": "point"}, name="point", cx=60, cy=45),
    )
    with pytest.warns(
        InputWarning, match=r"1 of 4 annotations are left out: region 4 of photo.jpg has no area"
    ):
        found = areas(path)
    assert found.pop("circle") == pytest.approx(np.pi * 100, rel=0.03)
    assert found == {"polygon": 1600, "rect": 1600}


def test_via_attributes_must_name_one_label(photo):
    rect = {"name": "rect", "x": 10, "y": 20, "width": 40, "height": 40}
    assert areas(via(photo, via_region({"label": "cat", "quality": "good"}, **rect))) == {"cat": 1600}
    assert areas(via(photo, via_region({}, **rect))) == {"object": 1600}
    defaults = {"name": "cat", "type": "unknown", "image_quality": {"good": True}}
    assert areas(via(photo, via_region(defaults, **rect))) == {"cat": 1600}
    message = refusal(via(photo, via_region({"colour": "red", "quality": "good"}, **rect)))
    assert "several attributes (colour, quality), of which one must be the label" in message


def test_an_image_of_another_size_in_bytes_is_questioned(photo):
    path = via(photo, via_region({}, name="rect", x=1, y=2, width=4, height=4), size=999)
    with pytest.warns(InputWarning, match=r"photo.jpg had 999 bytes when it was annotated"):
        read_examples(path)


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
