"""Write tiny data sets for semantic segmentation in their exact layouts on disk."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ((40, 56), (48, 48), (60, 44), (36, 64), (50, 50))


def label_map(number: int, values: list[int], ignored: int | None) -> np.ndarray:
    """Return vertical stripes of `values`; the top two rows are `ignored` unless that is None."""
    height, width = SIZES[number % len(SIZES)]
    labels = np.repeat(np.array(values), -(-width // len(values)))[:width]
    labels = np.tile(labels, (height, 1))
    if ignored is not None:
        labels[:2] = ignored
    return labels


def colours(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return an image in which every label has its own colour, with noise."""
    noise = np.random.default_rng(seed).integers(0, 40, (*labels.shape, 3))
    plain = np.stack([labels * 37 % 200, labels * 91 % 200, labels * 53 % 200], -1)
    return (plain + noise).astype(np.uint8)


def write_label_maps(
    images: Path, labels: Path, ending: str, values: dict[str, list[int]], ignored: int
) -> None:
    """Write an image and a label map for each name in `values`."""
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    for number, (name, labels_of_image) in enumerate(values.items()):
        classes = label_map(number, labels_of_image, ignored)
        kind = np.uint8 if ending == ".png" else np.uint16
        Image.fromarray(classes.astype(kind)).save(labels / f"{name}{ending}")
        Image.fromarray(colours(classes, number)).save(images / f"{name}.jpg", quality=95)


def write_ade20k(root: Path) -> Path:
    """Write ADE20K: label 0 is ignored; the classes 0, 2, 4 and 149 have the labels 1, 3, 5 and 150."""
    for split, values in {
        "training": {"ADE_train_1": [1, 3], "ADE_train_2": [3, 5], "ADE_train_3": [1, 150, 5]},
        "validation": {"ADE_val_1": [1, 3], "ADE_val_2": [5, 1, 3], "ADE_val_3": [150, 3]},
    }.items():
        folder = root / "ade20k"
        write_label_maps(folder / "images" / split, folder / "annotations" / split, ".png", values, 0)
    return root


def write_ade847(root: Path) -> Path:
    """Write ADE20K-847, whose labels are the classes 0, 1, 400 and 846."""
    folder = root / "ADE20K_2021_17_01"
    for split, values in {
        "training": {"ADE_train_00000001": [0, 400], "ADE_train_00000002": [846, 1]},
        "validation": {"ADE_val_00000001": [0, 1], "ADE_val_00000002": [846, 0, 400]},
    }.items():
        images, labels = folder / "images_detectron2" / split, folder / "annotations_detectron2" / split
        write_label_maps(images, labels, ".tif", values, 65535)
    return root


def write_pc459(root: Path) -> Path:
    """Write PC-459 with the classes 0, 7 and 458, and an image without labels, as in VOC2010."""
    folder = root / "VOCdevkit/VOC2010"
    values = {"2008_000002": [0, 7], "2008_000003": [7, 458], "2008_000007": [0, 458]}
    images = folder / "JPEGImages"
    write_label_maps(images, folder / "annotations_detectron2/pc459_val", ".tif", values, 65535)
    Image.new("RGB", (20, 20)).save(images / "2010_006086.jpg")
    return root


def write_coco_semantic(root: Path) -> Path:
    """Write COCO with the class ids 3 and 17, which overlap in the first validation image."""
    folder = root / "coco"
    (folder / "annotations").mkdir(parents=True)
    categories = [{"id": 17, "name": "cat"}, {"id": 3, "name": "car"}]
    boxes = {
        "train": {7: [(3, (4, 4, 24, 24))], 9: [(17, (8, 8, 20, 30)), (17, (30, 8, 10, 10))]},
        "val": {1: [(3, (2, 2, 20, 20)), (17, (12, 2, 20, 20))], 2: [(17, (4, 4, 16, 24))], 5: []},
    }
    for split, objects_of_image in boxes.items():
        (folder / f"{split}2017").mkdir()
        images, annotations = [], []
        for number, (image_id, objects) in enumerate(objects_of_image.items()):
            height, width = SIZES[number]
            name = f"{image_id:012}.jpg"
            images.append({"id": image_id, "file_name": name, "height": height, "width": width})
            labels = np.zeros((height, width), int)
            for category, (x, y, w, h) in objects:
                labels[y : y + h, x : x + w] = category
                corners = [x, y, x + w, y, x + w, y + h, x, y + h]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": category,
                        "segmentation": [corners],
                        "iscrowd": 0,
                        "bbox": [x, y, w, h],
                        "area": w * h,
                    }
                )
            Image.fromarray(colours(labels, image_id)).save(folder / f"{split}2017" / name, quality=95)
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))
    return root
