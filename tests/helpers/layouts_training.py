"""Write tiny training splits of every source of `segic_jax.data.training_sources`, in official layouts."""

import json
from pathlib import Path

import cv2
import numpy as np
from layouts_coco import label_map, noise, write_fss1000
from layouts_semantic import colours, write_ade20k
from pycocotools import mask as coco_masks

from segic_jax.config import SourceConfig
from segic_jax.data.sources import coco20i, fss1000

HEIGHT, WIDTH = 60, 80
DOG, KITE = 18, 38  # COCO's ids of the classes 16 and 33, in the folds 0 and 1
SQUARES = [[4, 4, 34, 4, 34, 34, 4, 34], [40, 30, 76, 30, 76, 56, 40, 56]]
OFFICIAL = ("coco_semantic", "ade20k_semantic", "coco_instances", "lvis_instances")
FURTHER = ("objects365_instances", "paco_instances", "lip_instances", "fss1000", "folder")
ROOTS = {
    "coco_semantic": "COCO2014",
    "ade20k_semantic": "ade20k",
    "coco_instances": "coco",
    "lvis_instances": "lvis",
    "objects365_instances": "objects365",
    "paco_instances": "paco",
    "lip_instances": "lip",
    "fss1000": "FSS-1000",
    "folder": "mine",
}


def source_configs(root: Path, names=OFFICIAL) -> tuple[SourceConfig, ...]:
    """Return the sources as a recipe names them."""
    return tuple(SourceConfig(name, str(root / ROOTS[name])) for name in names)


def write_training(root: Path, monkeypatch) -> Path:
    """Write the four official sources below `root`, and limit COCO-20i's lists to two images a class."""
    write_coco20i_train(root / "COCO2014", monkeypatch)
    write_ade20k(root)
    write_coco_train(root / "coco")
    write_lvis_train(root / "lvis")
    return root


def write_further(root: Path) -> Path:
    """Write the other sources."""
    write_objects365(root / "objects365")
    write_paco(root / "paco")
    write_lip(root / "lip")
    write_fss1000(root / "FSS-1000", fss1000.class_names("trn"))
    write_fss1000(root / "mine", ["ant", "bee_fly"])
    return root


def write_coco20i_train(root: Path, monkeypatch) -> None:
    """Write images with stripes of the classes that the shortened lists name."""
    short_lists = [image_names[:2] for image_names in coco20i.class_images("trn")]
    monkeypatch.setattr(coco20i, "class_images", lambda split: short_lists)
    classes: dict[str, list[int]] = {}
    for class_id, image_names in enumerate(short_lists):
        for image_name in image_names:
            classes.setdefault(image_name, []).append(class_id)
    for folder in (root / "train2014", root / "annotations/train2014"):
        folder.mkdir(parents=True)
    for seed, (image_name, class_ids) in enumerate(classes.items()):
        cv2.imwrite(str(root / image_name), noise(seed))
        labels = label_map([class_id + 1 for class_id in class_ids])
        cv2.imwrite(str((root / "annotations" / image_name).with_suffix(".png")), labels)


def write_noise(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.zeros((HEIGHT, WIDTH), int)
    labels[4:34, 4:34], labels[30:56, 40:76] = 1, 2
    cv2.imwrite(str(path), colours(labels, seed))


def run_lengths(polygon, text: bool):
    """Return run lengths as a list of numbers, or as COCO's compressed text."""
    encoded = coco_masks.frPyObjects([polygon], HEIGHT, WIDTH)[0]
    if text:
        return {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode()}
    flat = coco_masks.decode(encoded).ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *ends.tolist(), flat.size]).tolist()}


def coco_train_json() -> dict:
    """Return the images 9 (a dog, a kite), 3 (a crowd of kites), 5 (a dog of two polygons), 7 (no object)."""
    # COCO's ids have gaps. All classes are listed, so that a fold of COCO-20i can be left out.
    gaps = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    ids = [number for number in range(1, 91) if number not in gaps]
    objects = [
        (9, DOG, [SQUARES[0]], 0),
        (3, KITE, run_lengths(SQUARES[0], text=False), 1),
        (9, KITE, [SQUARES[1]], 0),
        (5, DOG, SQUARES, 0),
    ]
    return {
        "images": [
            {"id": i, "file_name": f"{i:012}.jpg", "height": HEIGHT, "width": WIDTH} for i in (9, 3, 5, 7)
        ],
        "annotations": [
            {"id": i, "image_id": image, "category_id": c, "segmentation": segmentation, "iscrowd": crowd}
            for i, (image, c, segmentation, crowd) in enumerate(objects, 1)
        ],
        "categories": [
            {"id": number, "name": name} for number, name in zip(ids, coco20i.class_names(), strict=True)
        ],
    }


def write_coco_train(root: Path) -> None:
    (root / "annotations").mkdir(parents=True)
    (root / "annotations/instances_train2017.json").write_text(json.dumps(coco_train_json()))
    for number in (9, 3, 5, 7):
        write_noise(root / f"train2017/{number:012}.jpg", number)


def write_lvis_train(root: Path) -> None:
    """Write two images, one of them from COCO's validation split; the first has three objects."""
    folders = {11: "train2017", 22: "val2017"}
    content = {
        "images": [
            {
                "id": i,
                "coco_url": f"http://images.cocodataset.org/{folder}/{i:012}.jpg",
                "height": HEIGHT,
                "width": WIDTH,
            }
            for i, folder in folders.items()
        ],
        "annotations": [
            {"id": i, "image_id": image, "category_id": 1, "segmentation": [polygon]}
            for i, (image, polygon) in enumerate([(11, SQUARES[0]), (22, SQUARES[1]), (11, SQUARES[1])])
        ]
        + [{"id": 9, "image_id": 11, "category_id": 2, "segmentation": SQUARES}],
        "categories": [{"id": 1, "name": "aerosol_can"}, {"id": 2, "name": "air_conditioner"}],
    }
    root.mkdir(parents=True)
    (root / "lvis_v1_train.json").write_text(json.dumps(content))
    for number, folder in folders.items():
        write_noise(root / folder / f"{number:012}.jpg", number)


def write_objects365(root: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "images/v1/patch0/a.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 4, "bbox": [10.0, 5.0, 30.0, 40.0], "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 4, "bbox": [50, 20, 20, 30], "iscrowd": 0},
        ],
        "categories": [{"id": 4, "name": "Car"}],
    }
    write_noise(root / "train/images/v1/patch0/a.jpg", 1)
    (root / "objects365_train.json").write_text(json.dumps(content))


def write_paco(root: Path) -> None:
    content = {
        "images": [{"id": 6, "file_name": "val2017/000000000006.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": [
            {"id": i, "image_id": 6, "category_id": 7 + i, "segmentation": run_lengths(polygon, text=True)}
            for i, polygon in enumerate(SQUARES)
        ],
        "categories": [{"id": 7, "name": "mug"}, {"id": 8, "name": "mug:handle"}],
    }
    write_noise(root / "val2017/000000000006.jpg", 6)
    (root / "annotations").mkdir()
    (root / "annotations/paco_lvis_v1_train.json").write_text(json.dumps(content))


def write_lip(root: Path) -> None:
    labels = root / "TrainVal_parsing_annotations/train_segmentations"
    labels.mkdir(parents=True)
    for name, values in {"77_1": [0, 2, 13], "77_2": [2, 5, 0, 9], "8_3": [0]}.items():
        stripes = np.repeat(np.repeat(np.uint8(values), WIDTH // len(values))[None], HEIGHT, 0)
        cv2.imwrite(str(labels / f"{name}.png"), stripes)
        path = root / f"train_images/{name}.jpg"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), colours(stripes.astype(int), 3))
