"""Read COCO 2017 as semantic segmentation: the mask of a class is the union of its objects.

coco/{train2017,val2017}/<12 digits>.jpg
coco/annotations/instances_{train,val}2017.json

Objects overlap, so a pixel may belong to several classes: each class is scored with its own mask, as the
official SemCOCO makes them (utils/fss.py, crowds included). Pixels without an object are background and
count; nothing is ignored. The official `--eval_semseg` for COCO needs instances_train2017_fss.json, which is
not distributed, and `valid_cids`, which SemCOCO does not return, so the official code cannot run it.
"""

from pathlib import Path

import numpy as np

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.coco_json import CocoJson
from segic_jax.data.images import read_rgb, require_size
from segic_jax.data.layout import find_folder
from segic_jax.data.semantic import SemanticImage, Split
from segic_jax.errors import DataError

DOWNLOAD = "https://cocodataset.org/#download (2017 images, 2017 train/val annotations)"


class CocoSemanticSource:
    """Give the 80 classes in the order of their ids; a split's annotations are read when it is used."""

    name = "coco_semantic"

    def __init__(self, root: Path | str):
        """Open coco/. Raises DataError without annotations/instances_val2017.json."""
        self.root = find_folder(Path(root), "coco", "annotations")
        self._annotations: dict[Split, CocoJson] = {}
        self._image_ids: dict[Split, dict[str, int]] = {}  # file name -> image id
        self._present: dict[Split, dict[int, set[int]]] = {}  # image id -> category ids
        categories = self._read("val").categories
        self._ids = tuple(categories)
        self.classes = tuple(categories.values())

    def image_names(self, split: Split) -> list[str]:
        """Return the file names of all images of the split, also of those without an object."""
        self._read(split)
        return sorted(self._image_ids[split])

    def present(self, split: Split, image_name: str) -> tuple[int, ...]:
        """Return the classes with an annotation."""
        self._read(split)
        categories = self._present[split].get(self._image_ids[split][image_name], ())
        return tuple(number for number, category in enumerate(self._ids) if category in categories)

    def load(self, split: Split, image_name: str) -> SemanticImage:
        """Read the image and a mask for each of its classes."""
        annotations, path = self._read(split), self.root / f"{split}2017" / image_name
        image, classes = read_rgb(path), self.present(split, image_name)
        masks = [
            annotations.mask(self._image_ids[split][image_name], self._ids[number]) for number in classes
        ]
        for mask in masks:
            require_size(image, mask, path, annotations.path)
        nothing = np.zeros(image.shape[:2], bool)
        return SemanticImage(image, classes, np.stack(masks) if masks else nothing[None][:0], ignored=nothing)

    def _read(self, split: Split) -> CocoJson:
        if split not in self._annotations:
            annotations = CocoJson(self.root / f"annotations/instances_{split}2017.json")
            if split != "val" and tuple(annotations.categories) != self._ids:
                raise DataError(
                    f"{annotations.path} has other classes than instances_val2017.json: get both again."
                )
            self._image_ids[split] = {name: number for number, name in annotations.images.items()}
            self._present[split] = annotations.classes_of_images()
            self._annotations[split] = annotations
        return self._annotations[split]


def check(root: Path) -> list[CheckLine]:
    """Count the images in the annotations and on disk."""
    source = CocoSemanticSource(root)
    lines = [CheckLine("classes", len(source.classes), 80)]
    for split, needed in (("val", 5000), ("train", 118287)):
        try:
            names = set(source.image_names(split))
        except DataError as error:
            lines.append(CheckLine(f"images in instances_{split}2017.json", 0, needed, str(error)))
            continue
        lines.append(CheckLine(f"images in instances_{split}2017.json", len(names), needed))
        paths = {path.name for path in (source.root / f"{split}2017").glob("*.jpg")}
        missing = sorted(names - paths)
        problem = f"{source.root / f'{split}2017' / missing[0]} is missing: get it." if missing else ""
        lines.append(CheckLine(f"of them in {split}2017/", len(names & paths), len(names), problem))
    return lines


BENCHMARK = BenchmarkSpec(
    name="coco_semantic",
    title="COCO 2017 (Lin et al., ECCV 2014): 80 classes, semantic segmentation from instances",
    kind="semseg",
    protocols=("semseg",),
    layout="coco/{train2017,val2017}/*.jpg\ncoco/annotations/instances_{train,val}2017.json",
    download=DOWNLOAD,
    domain="coco",
    open=CocoSemanticSource,
    check=check,
)
