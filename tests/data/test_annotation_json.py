"""Test the formats of JSON files: labelme, COCO, Label Studio and VIA, read as their tools write them."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from annotation_files import SQUARE, areas, labelme, refusal, shape
from PIL import Image

from segic_jax.data.annotations import brush
from segic_jax.errors import InputWarning
from segic_jax.inference.annotations import read_examples


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
