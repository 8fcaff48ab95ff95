"""Write tiny data sets in the exact layouts of LVIS-92i, PASCAL-Part and PACO-Part."""

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco

HEIGHT, WIDTH = 24, 32


def rectangle(left: int, top: int, right: int, bottom: int) -> list[float]:
    """Return a polygon that covers the rows [top, bottom) and the columns [left, right)."""
    return [float(v) for v in (left, top, right, top, right, bottom, left, bottom)]


def box_mask(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


def run_lengths(mask: np.ndarray) -> dict:
    """Return compressed run lengths as pycocotools writes them: size and bytes."""
    return dict(coco.encode(np.asfortranarray(mask, np.uint8)))


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    cv2.imwrite(str(path), pixels)


def write_pickle(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))


def write_lvis92i(root: Path) -> dict:
    """Write <root>/LVIS with 23 classes on 12 images, and return the content of lvis_val.pkl.

    Every object is a rectangle: a polygon in even images, run lengths in odd images.
    """
    names = [f"{'train2017' if n % 5 == 4 else 'val2017'}/{n + 1:012}.jpg" for n in range(12)]
    counts = [7] * 12 + [3] * 8 + [1] * 3  # images of each class
    content: dict[int, dict] = {}
    annotations = []
    for position, count in enumerate(counts):
        class_id = (position * 7) % 23 + 1  # ids are not in the order of the file
        content[class_id] = {}
        for step in range(count):
            number = (position + 5 * step) % 12
            box = (position % 8, step, position % 8 + 9, step + 6)
            segmentation = [rectangle(*box)] if number % 2 == 0 else run_lengths(box_mask(*box))
            annotation = {
                "id": len(annotations) + 1,
                "image_id": number + 1,
                "category_id": class_id,
                "area": 54,
            }
            entry = content[class_id][names[number]] = {"height": HEIGHT, "width": WIDTH, "annotations": []}
            entry["annotations"].append(annotation | {"bbox": [*box[:2], 9, 6], "segmentation": segmentation})
            annotations.append(annotation | {"bbox": [*box[:2], 9, 6], "segmentation": [rectangle(*box)]})
            if step == 0:  # a second object of the class
                extra = annotation | {"id": len(annotations) + 1, "segmentation": [rectangle(20, 12, 24, 20)]}
                entry["annotations"].append(extra)
                annotations.append(extra)
    write_pickle(root / "LVIS/lvis_val.pkl", content)
    write_pickle(root / "LVIS/lvis_train.pkl", {class_id: {} for class_id in content})
    for number, name in enumerate(names):
        write_image(root / "LVIS/coco" / name, number)
    published = {
        "images": [
            {
                "id": number + 1,
                "coco_url": f"http://images.cocodataset.org/{name}",
                "height": HEIGHT,
                "width": WIDTH,
            }
            for number, name in enumerate(names)
        ],
        "categories": [{"id": n, "name": f"tiny_class_{n}"} for n in range(1, 24)],
        "annotations": annotations,
    }
    (root / "LVIS/lvis_v1_val.json").write_text(json.dumps(published))
    return content


def write_pascal_part(root: Path) -> dict:
    """Write <root>/Pascal-Part with 14 images, and return the content of all_obj_part_to_image.json.

    Each image has three objects of every name. The first has all parts (two of each in even images), the
    second has none, and the third has all parts in odd images.
    """
    folder = root / "Pascal-Part/VOCdevkit/VOC2010"
    names = {
        "animals": {"cat": ["HEAD", "TAIL"], "bird": ["LEGS", "WING"]},
        "indoor": {"pottedplant": ["POT"]},
        "person": {"person": ["HEAD", "LOWER_ARM"]},
        "vehicles": {"aeroplane": ["BODY", "TAIL"], "car": ["WHEEL"]},
    }
    ids = [f"2008_{number:06}" for number in range(14)]
    index = {
        fold: {
            "object": {
                name: {"part": {part: {"train": ["2008_999999"], "val": list(ids)} for part in parts}}
                for name, parts in objects.items()
            }
        }
        for fold, objects in names.items()
    }
    index["animals"]["object"]["bird"]["part"]["WING"]["train"] = []  # counts as entries, not as a class
    folder.mkdir(parents=True)
    (folder / "all_obj_part_to_image.json").write_text(json.dumps(index))
    (folder / "Annotations_Part_json_merged_part_classes").mkdir()
    for number, image_name in enumerate(ids):
        objects = []
        for objects_of_fold in names.values():
            for name, parts in objects_of_fold.items():
                for instance in range(3):
                    has_parts = instance == 0 or (instance == 2 and number % 2 == 1)
                    left = 2 + 4 * instance
                    boxes = [(left, 4, left + 5, 8), (left + 6, 10, left + 9, 30)][: 1 + (number % 2 == 0)]
                    objects.append(
                        {
                            "name": name,
                            "bndbox": {"xmin": left, "ymin": 3, "xmax": str(left + 12), "ymax": 40},
                            "parts": [
                                {"name": part, "mask": [_ascii(run_lengths(box_mask(*box))) for box in boxes]}
                                for part in (parts if has_parts else [])
                            ],
                        }
                    )
        path = folder / f"Annotations_Part_json_merged_part_classes/{image_name}.json"
        path.write_text(json.dumps({"file_name": f"{image_name}.jpg", "object": objects}))
        write_image(folder / f"JPEGImages/{image_name}.jpg", number)
    return index


def _ascii(segmentation: dict) -> dict:
    return {"size": segmentation["size"], "counts": segmentation["counts"].decode()}


def write_paco_part(root: Path) -> tuple[dict, dict]:
    """Write <root>/PACO-Part with 16 classes on 9 images, and return the content of both pickles.

    Some boxes lie outside the image, some are smaller than a pixel, and some extend beyond the image.
    """
    names = [f"{'train2017' if n % 4 == 3 else 'val2017'}/{n + 1:012}.jpg" for n in range(9)]
    train = {
        "cid2img": {(n * 5) % 16 + 100: [{1: "coco/train2017/1.jpg"}] for n in range(16)},
        "img2anno": {},
    }
    val: dict = {"cid2img": {}, "img2anno": {}}
    rng = np.random.default_rng(3)
    boxes = [[4.7, 3.2, 10.9, 12.9], [2.0, 40.0, 5.0, 5.0], [6.5, 6.5, 0.3, 8.0], [20.0, 10.0, 30.0, 30.0]]
    boxes += [[1.5, 2.5, 20.0, 15.0]] * 6
    for n in range(14):  # two classes are in the training list only
        class_id = 115 - n
        image_names = [(n + 2 * step) % 9 for step in range(1 if n == 3 else 4 + n % 4)]
        entries = [{1000 + number: f"datasets/coco/{names[number]}"} for number in image_names]
        val["cid2img"][class_id] = entries + entries[:2]  # the published lists repeat some entries
        for number in image_names:
            for instance in range(1 + (n + number) % 3):
                for part in range(1 + number % 2):
                    left, top = (int(v) for v in rng.integers(0, 12, 2))
                    box = (left, top, left + 8, top + 5)
                    polygons = [rectangle(*box)] if part == 0 else run_lengths(box_mask(*box))
                    annotation = {
                        "category_id": class_id,
                        "obj_ann_id": 10 * number + instance,
                        "obj_bbox": boxes[(n + number + instance) % len(boxes)],
                        "segmentation": polygons,
                    }
                    val["img2anno"].setdefault(1000 + number, []).append(annotation)
    write_pickle(root / "PACO-Part/paco/paco_part_train.pkl", train)
    write_pickle(root / "PACO-Part/paco/paco_part_val.pkl", val)
    for number, name in enumerate(names):
        write_image(root / "PACO-Part/coco" / name, number)
    return train, val
