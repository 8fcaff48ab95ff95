"""Read COCO-20i (Nguyen and Todorovic, ICCV 2019) in Matcher's layout: 80 classes in four folds.

<root>/{train2014,val2014}/COCO_<split>_XXXXXXXXXXXX.jpg
<root>/annotations/{train2014,val2014}/<same name>.png    value = class + 1, 0 is background

The published lists, which are part of this package, fix the images of each class; fold f tests the classes
f, f + 4, ...
"""

import gzip
import json
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.episodes import ClassId, LabelledImage, Manifest, View, packaged_manifest
from segic_jax.data.images import read_labels, read_rgb
from segic_jax.data.masks import fit_to_image
from segic_jax.data.sampler import GPUS, coco20i_episodes
from segic_jax.errors import DataError

FOLDS, CLASSES = 4, 80
# What utils/coco80.txt of SegIC calls the classes that COCO has renamed since.
SEGIC_NAMES = {
    "motorcycle": "motorbike",
    "airplane": "aeroplane",
    "couch": "sofa",
    "potted plant": "pottedplant",
    "dining table": "diningtable",
    "tv": "tvmonitor",
}
DOWNLOAD = (
    "https://cocodataset.org/#download (2014 images); masks: Google Drive 1PNw4U3T2MhzAEBWGGgceXvYU3cZ7mJL1 "
    "(val) and 1cwup51kcr4m7v9jO14ArpxKMA4O3-Uge (train)"
)


class Coco20iSource:
    """Give the episodes and images of val2014, or the images of train2014; class ids are 0 to 79."""

    name = "coco20i"

    def __init__(self, root: Path | str, *, split: Literal["trn", "val"] = "val"):
        """Open COCO2014/ or its parent.

        Raises:
            DataError: the split's folder of images or of label maps is missing.
        """
        root = Path(root)
        self.root = root / "COCO2014" if (root / "COCO2014").is_dir() else root
        self._split: Literal["trn", "val"] = split
        folder_name = "train2014" if split == "trn" else "val2014"
        for folder in (self.root / folder_name, self.root / "annotations" / folder_name):
            if not folder.is_dir():
                raise DataError(f"{folder} is missing: get it from {DOWNLOAD}.")

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        """Return the 1000 episodes of a fold; Matcher's for 1 and 5 shots are part of the package.

        Raises:
            DataError: unknown protocol or fold, or no shots.
        """
        if (
            protocol not in BENCHMARK.protocols
            or fold not in range(FOLDS)
            or shots < 1
            or (protocol in GPUS and shots > 1)
        ):
            raise DataError(
                f"{self.name} supports the protocols {', '.join(BENCHMARK.protocols)} "
                f"with folds 0 to {FOLDS - 1} and at least 1 shot, {' and '.join(GPUS)} with 1."
            )
        return packaged_manifest(self.name, protocol, fold, shots) or draw(protocol, fold, shots)

    def class_name(self, class_id: ClassId) -> str:
        """Return the name that official SegIC gives to the text tower, in training as well."""
        if class_id not in range(CLASSES):
            raise DataError(f"{self.name} has the classes 0 to {CLASSES - 1}, not {class_id!r}.")
        name = class_names()[int(class_id)]
        return SEGIC_NAMES.get(name, name)

    def views(self) -> Iterator[View]:
        """Yield every class of every listed image, image by image."""
        classes: dict[str, list[int]] = {}
        for class_id, image_names in enumerate(class_images(self._split)):
            for image_name in image_names:
                classes.setdefault(image_name, []).append(class_id)
        for image_name in sorted(classes):
            for class_id in classes[image_name]:
                yield View(image_name, class_id)

    def paths(self, view: View) -> tuple[Path, ...]:
        """Return the paths of the image and its label map."""
        return self.root / view.image_name, (self.root / "annotations" / view.image_name).with_suffix(".png")

    def load(self, view: View) -> LabelledImage:
        """Read the image and the mask of the class."""
        self.class_name(view.class_id)
        image_path, label_path = self.paths(view)
        image, labels = read_rgb(image_path), read_labels(label_path)
        labels, note = fit_to_image(labels, image, label_path, image_path)
        return LabelledImage(image, labels == int(view.class_id) + 1, note=note)


@cache
def class_names() -> tuple[str, ...]:
    """Return the 80 classes in COCO's order."""
    file = resources.files("segic_jax.data").joinpath("splits/coco_classes.txt")
    return tuple(file.read_text("utf-8").splitlines())


@cache
def class_images(split: Literal["trn", "val"]) -> list[list[str]]:
    """Return the images of each class in the published order, as val2014/COCO_val2014_000000000042.jpg."""
    file = resources.files("segic_jax.data").joinpath(f"splits/coco20i_{split}.json.gz")
    folders = {"t": "train2014", "v": "val2014"}
    return [
        [f"{folders[name[0]]}/COCO_{folders[name[0]]}_{int(name[1:]):012}.jpg" for name in image_names]
        for image_names in json.loads(gzip.decompress(file.read_bytes()))
    ]


def fold_classes(fold: int) -> tuple[int, ...]:
    """Return the 20 classes that a fold tests."""
    return tuple(range(fold, CLASSES, FOLDS))


def draw(protocol: str, fold: int, shots: int) -> Manifest:
    """Draw the published episodes again."""
    classes, image_names = fold_classes(fold), class_images("val")
    images = {c: image_names[c] for c in classes}
    episodes = coco20i_episodes(images, protocol, shots, loader=fold)  # official SegIC has a loader for each
    return Manifest("coco20i", protocol, fold, shots, classes, tuple(episodes))


def check(root: Path) -> list[CheckLine]:
    """Check the images and label maps of the lists."""
    try:
        source = Coco20iSource(root)
    except DataError as error:
        return [CheckLine("COCO-20i", "missing", problem=str(error))]
    image_names = {view.image_name for view in source.views()}
    maps = {str(Path(image_name).with_suffix(".png")) for image_name in image_names}
    lines = []
    for what, folder, names in (
        ("images", source.root, image_names),
        ("label maps", source.root / "annotations", maps),
    ):
        gone = sorted(name for name in names if not (folder / name).is_file())
        problem = f"{folder / gone[0]} is missing: get it from {DOWNLOAD}." if gone else ""
        lines.append(CheckLine(f"{what} of the lists", len(names) - len(gone), len(names), problem))
    return lines


BENCHMARK = BenchmarkSpec(
    name="coco20i",
    title="COCO-20i: 80 classes of COCO 2014 in four folds of 1000 episodes",
    kind="episodes",
    protocols=("matcher", "insid3", "segic", *GPUS),
    layout="COCO2014/val2014/*.jpg\nCOCO2014/annotations/val2014/*.png   value = class + 1",
    download=DOWNLOAD,
    domain="coco",
    open=Coco20iSource,
    check=check,
    folds=FOLDS,
)
