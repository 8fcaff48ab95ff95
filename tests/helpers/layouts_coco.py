"""Write tiny COCO 2014, COCO 2017 and FSS-1000 trees in the official layouts."""

import json
from pathlib import Path

import cv2
import numpy as np

HEIGHT, WIDTH = 24, 32
# Image id -> [(class, polygon)]; class 3 is on the images 1 and 3, class 17 on three images.
ANNOTATIONS = {
    1: [(17, [2, 2, 10, 2, 10, 10, 2, 10]), (3, [20, 4, 28, 4, 28, 20, 20, 20])],
    2: [(17, [4, 4, 16, 4, 16, 20, 4, 20])],
    3: [(3, [0, 0, 8, 0, 8, 8, 0, 8]), (3, [16, 16, 24, 16, 24, 24, 16, 24])],
    5: [(17, [10, 10, 20, 10, 20, 20, 10, 20])],
}


def noise(seed):
    return np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


def label_map(values):
    """Return horizontal stripes of `values`."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for i, value in enumerate(values):
        labels[4 * i : 4 * i + 4] = value
    return labels


def write_coco20i(root: Path, episodes):
    """Write COCO2014/ as `root` with the images of some episodes; each shows its class and class 79."""
    classes: dict[str, set[int]] = {}
    for episode in episodes:
        for image_name in (episode.target, *episode.references):
            classes.setdefault(image_name, {79}).add(episode.class_id)
    for seed, (image_name, class_ids) in enumerate(classes.items()):
        for path in (root / image_name, root / "annotations" / image_name):
            path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / image_name), noise(seed))
        labels = label_map([class_id + 1 for class_id in sorted(class_ids)])
        cv2.imwrite(str((root / "annotations" / image_name).with_suffix(".png")), labels)


def write_fss1000(root: Path, classes, parent=""):
    """Write all ten images of the classes; the mask of image n is a square of n pixels a side."""
    for name in classes:
        folder = root / parent / name
        folder.mkdir(parents=True)
        for number in range(1, 11):
            mask = np.zeros((12, 16), np.uint8)
            mask[:number, :number] = 255
            cv2.imwrite(str(folder / f"{number}.jpg"), mask)
            cv2.imwrite(str(folder / f"{number}.png"), mask)


def coco_json(**changes):
    annotations = [
        {"id": i, "image_id": image, "category_id": class_id, "iscrowd": 0, "segmentation": [polygon]}
        for i, (image, class_id, polygon) in enumerate(
            (image, *annotation) for image, objects in ANNOTATIONS.items() for annotation in objects
        )
    ]
    return {
        "images": [
            {"id": i, "file_name": f"{i:012}.jpg", "height": HEIGHT, "width": WIDTH} for i in (5, 1, 2, 3, 4)
        ],
        "annotations": annotations,
        "categories": [{"id": 17, "name": "cat"}, {"id": 3, "name": "car"}],
    } | changes


def write_coco(root: Path):
    """Write coco/ as `root`."""
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    for i in (1, 2, 3, 4, 5):
        cv2.imwrite(str(root / f"val2017/{i:012}.jpg"), noise(i))
    (root / "annotations/instances_val2017.json").write_text(json.dumps(coco_json()))
