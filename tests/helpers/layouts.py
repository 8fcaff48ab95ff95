"""Write a tiny tree of every benchmark, in its official layout."""

import cv2
import numpy as np
import tiny
from layouts_coco import write_coco, write_coco20i, write_fss1000
from layouts_domains import (
    write_isaid,
    write_isic,
    write_lung,
    write_permis,
    write_perseg,
    write_suim,
)
from layouts_parts import write_lvis92i, write_paco_part, write_pascal_part
from layouts_semantic import write_ade20k, write_ade847, write_coco_semantic, write_pc459
from layouts_video import write_davis17, write_ytvos18

from segic_jax.data.episodes import packaged_manifest
from segic_jax.data.sources.fss1000 import class_names


def write_folder(root):
    for name in ("ant", "bee"):
        for i in (1, 2, 3):
            image, mask = tiny.random_image(i, 40 + i, 50)
            (root / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / name / f"{i}.jpg"), image)
            cv2.imwrite(str(root / name / f"{i}.png"), mask.astype(np.uint8) * 255)


def write_some_coco20i(root):
    folds = [packaged_manifest("coco20i", "matcher", fold, 1) for fold in range(4)]
    episodes = [episode for manifest in folds if manifest for episode in manifest.episodes[::500]]
    write_coco20i(root / "COCO2014", episodes)


WRITE = {
    "emoji": lambda root: None,
    "folder": write_folder,
    "fss1000": lambda root: write_fss1000(root, class_names("test")),
    "coco20i": write_some_coco20i,
    "coco": lambda root: write_coco(root / "coco"),
    "lvis92i": write_lvis92i,
    "pascal_part": write_pascal_part,
    "paco_part": write_paco_part,
    "isic": lambda root: write_isic(root / "ISIC"),
    "lung": lambda root: write_lung(root / "LungSegmentation"),
    "isaid": lambda root: write_isaid(root / "iSAID"),
    "suim": lambda root: write_suim(root / "SUIM"),
    "permis": lambda root: write_permis(root / "PerMIRS"),
    "perseg": lambda root: write_perseg(root / "data"),
    "ade20k": write_ade20k,
    "ade847": write_ade847,
    "pc459": write_pc459,
    "coco_semantic": write_coco_semantic,
    "davis17": lambda root: write_davis17(root / "DAVIS"),
    "ytvos18": lambda root: write_ytvos18(root / "ytbvos18"),
    "ytvos18_holdout": lambda root: write_ytvos18(root / "ytbvos18"),
}
