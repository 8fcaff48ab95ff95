"""Test that the tools' own libraries read what is written, and that their encoding is read here.

Each test needs a package that is not always installed; pip install -e '.[labelling-test]' brings them.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from annotated import LABELS, Masks, example_masks, least_iou, photographs
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from requirements import require_module

from segic_jax.data.annotations import brush
from segic_jax.data.annotations.types import LabelledImage
from segic_jax.inference.annotations import read_examples, save_annotations

Written = tuple[Path, list[LabelledImage], Masks]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Written:
    """Return a folder with images and their annotations in every format, and what they hold."""
    folder = tmp_path_factory.mktemp("tools")
    images, truth = photographs(folder / "photos")
    for name in ("labelme", "coco", "cvat", "label-studio", "yolo", "voc"):
        save_annotations(images, LABELS, folder / name, name)
    flat = folder / "flat"
    flat.mkdir()
    for image in images:
        shutil.copy(image.path, flat)
    return folder, images, truth


def polygon_mask(points: list[float], height: int, width: int) -> np.ndarray:
    return coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects([points], height, width))).astype(bool)


def add(found: Masks, key: tuple[str, str], mask: np.ndarray) -> None:
    found[key] = found[key] | mask if key in found else mask


def test_pycocotools_reads_annotations_and_results(written, capsys):
    folder, _, truth = written
    coco = COCO(str(folder / "coco/annotations.json"))
    found: Masks = {}
    for item in coco.anns.values():
        stem = Path(coco.imgs[item["image_id"]]["file_name"]).stem
        add(found, (stem, coco.cats[item["category_id"]]["name"]), coco.annToMask(item).astype(bool))
    assert least_iou(found, truth) >= 0.98
    evaluation = COCOeval(coco, coco.loadRes(str(folder / "coco/results.json")), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[1] == 1  # AP at an IoU of 0.5


def read_by_supervision(*paths: Path) -> Masks:
    """Read the folders of images and labels, and data.yaml."""
    supervision = require_module("supervision")
    found: Masks = {}
    data = supervision.DetectionDataset.from_yolo(*map(str, paths), force_masks=True)
    for path, _, detections in data:
        for mask, number in zip(detections.mask, detections.class_id, strict=True):
            add(found, (Path(path).stem, data.classes[number]), mask.astype(bool))
    return found


def test_supervision_reads_yolo(written):
    folder, _, truth = written
    found = read_by_supervision(folder / "flat", folder / "yolo/labels", folder / "yolo/data.yaml")
    assert least_iou(found, truth) >= 0.98


def test_what_supervision_writes_as_yolo_is_read(written, tmp_path):
    supervision = require_module("supervision")
    folder, images, truth = written
    detections = {}
    for image in images:
        masks = np.stack([truth[image.stem, label] for label in LABELS])
        boxes = supervision.mask_to_xyxy(masks)
        detections[str(folder / f"flat/{image.path.name}")] = supervision.Detections(
            xyxy=boxes, mask=masks, class_id=np.arange(len(LABELS))
        )
    data = supervision.DetectionDataset(LABELS, list(detections), detections)
    paths = [tmp_path / path for path in ("images", "labels", "data.yaml")]
    data.as_yolo(*map(str, paths), approximation_percentage=0)
    assert least_iou(example_masks(read_examples(tmp_path)), read_by_supervision(*paths)) >= 0.99


@pytest.mark.parametrize("name", ["cvat", "voc"])
def test_datumaro_reads(name, written, tmp_path):
    datumaro = pytest.importorskip("datumaro", exc_type=ImportError)
    folder, _, truth = written
    shutil.copytree(folder / name, tmp_path / name)
    if name == "cvat":
        shutil.copytree(folder / "photos", tmp_path / "cvat/images")
    else:
        shutil.copytree(folder / "flat", tmp_path / "voc/JPEGImages")
    data = datumaro.Dataset.import_from(
        str(tmp_path / name), {"cvat": "cvat", "voc": "voc_segmentation"}[name]
    )
    categories = data.categories()[datumaro.AnnotationType.label]
    found: Masks = {}
    for item in data:
        height, width = item.media.data.shape[:2]
        for annotation in item.annotations:
            if annotation.type == datumaro.AnnotationType.polygon:
                mask = polygon_mask(list(annotation.points), height, width)
            else:
                mask = np.asarray(annotation.image).astype(bool)
            if (label := categories[annotation.label].name) in LABELS:
                add(found, (Path(item.id).name, label), mask)
    assert least_iou(found, truth) >= 0.98


def test_label_studio_decodes_and_encodes_brush_strokes(written):
    converter = pytest.importorskip("label_studio_sdk.converter.brush", exc_type=ImportError)
    folder, _, truth = written
    found: Masks = {}
    kinds = set()
    for task in json.loads((folder / "label-studio/tasks.json").read_text()):
        for item in task["predictions"][0]["result"]:
            height, width, value = item["original_height"], item["original_width"], item["value"]
            if item["type"] == "brushlabels":
                mask = converter.decode_rle(value["rle"]).reshape(height, width, 4)[..., 3] > 0
            else:
                points = (np.array(value["points"]) / 100 * (width, height)).ravel().tolist()
                mask = polygon_mask(points, height, width)
            kinds.add(item["type"])
            add(found, (Path(task["data"]["image"].split("?d=")[1]).stem, value[item["type"]][0]), mask)
    assert kinds == {"polygonlabels", "brushlabels"}
    assert least_iou(found, truth) >= 0.98
    for mask in truth.values():
        packed = converter.mask2rle(255 * mask.astype(np.uint8))
        assert (brush.decode(packed, *mask.shape) == mask).all()


def test_labelme_reads(written):
    label_file = pytest.importorskip("labelme._label_file", exc_type=ImportError)
    utils = pytest.importorskip("labelme.utils", exc_type=ImportError)
    folder, images, truth = written
    found: Masks = {}
    for image in images:
        file = label_file.LabelFile(str(folder / f"labelme/{image.stem}.json"))
        for label in LABELS:
            shapes = [item for item in file.shapes if item["label"] == label]
            labels, _ = utils.shapes_to_label(image.size, shapes, {label: 1})
            found[image.stem, label] = labels == 1
    assert least_iou(found, truth) >= 0.98
