"""Read training images with instances from the COCO-like files that the official `InstCOCO` reads.

coco/train2017/*.jpg               coco/annotations/instances_train2017.json
lvis/{train2017,val2017}/*.jpg     lvis/lvis_v1_train.json    folder and file at the end of coco_url
paco/...                           paco/annotations/paco_lvis_v1_train.json    file_name below paco/
objects365/train/...               objects365/objects365_train.json    boxes as masks

Every annotation is an instance, also crowds and PACO's parts of objects.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segic_jax.data.coco_arrays import CocoArrays
from segic_jax.data.images import read_rgb, require_size
from segic_jax.data.pairs import AnnotatedImage
from segic_jax.errors import DataError


@dataclass(frozen=True)
class InstanceLayout:
    """Name the files of a data set below its own folder."""

    folder: str  # its own folder, which may be left out of the root
    annotations: str
    image_folder: str  # what file names are relative to
    download: str
    boxes: bool = False


COCO = InstanceLayout(
    "coco",
    "annotations/instances_train2017.json",
    "train2017",
    "https://cocodataset.org/#download (2017 train images and train/val annotations)",
)
LVIS = InstanceLayout(
    "lvis",
    "lvis_v1_train.json",
    ".",
    "https://www.lvisdataset.org/dataset (its images are COCO's train2017 and val2017)",
)
PACO = InstanceLayout(
    "paco",
    "annotations/paco_lvis_v1_train.json",
    ".",
    "https://github.com/facebookresearch/paco (its images are COCO's train2017 and val2017)",
)
OBJECTS365 = InstanceLayout(
    "objects365", "objects365_train.json", "train", "https://www.objects365.org", boxes=True
)


class CocoInstances:
    """Give the images with at least one object, by ascending id."""

    def __init__(self, root: Path | str, layout: InstanceLayout, without: Collection[str] = ()):
        """Open a data set; `without` names classes whose objects are left out.

        Raises:
            DataError: the annotations are missing or damaged, or lack a class of `without`.
        """
        root = Path(root)
        inner = root / layout.folder
        self.root = inner if (inner / layout.annotations).is_file() else root
        path = self.root / layout.annotations
        if not path.is_file():
            raise DataError(f"{path} is missing: get it from {layout.download}.")
        self._layout = layout
        self._annotations = CocoArrays(path, boxes=layout.boxes)
        names = {name: number for number, name in self._annotations.categories.items()}
        if unknown := sorted(set(without) - set(names)):
            raise DataError(
                f"{path} has no class {unknown[0]!r}, which is to be left out: get the file again."
            )
        self._without = frozenset(names[name] for name in without)
        self._numbers = self._annotations.images_with_objects(self._without)
        if not len(self._numbers):
            raise DataError(f"{path} has no annotation: get it from {layout.download}.")

    def __len__(self) -> int:
        return len(self._numbers)

    def load(self, number: int) -> AnnotatedImage:
        """Read an image and a mask for each annotation. Raises DataError if one of them is damaged."""
        place = int(self._numbers[number])
        path = self.root / self._layout.image_folder / self._annotations.file_name(place)
        image, masks = read_rgb(path), self._annotations.masks(place, self._without)
        require_size(image, np.empty(masks.shape[1:], bool), path, self._annotations.path)
        return AnnotatedImage(image, masks)
