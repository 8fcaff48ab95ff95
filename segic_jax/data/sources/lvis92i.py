"""Read LVIS-92i (Matcher, Liu et al., ICLR 2024): 920 classes of LVIS in ten folds, drawn as Matcher does.

<root>/lvis_val.pkl                     {class: {image: {"annotations": [{"segmentation": ...}, ...]}}}
<root>/coco/{train2017,val2017}/*.jpg   LVIS's validation images come from both
<root>/lvis_v1_val.json                 for class names and official SegIC's protocols; or in ../lvis/
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.coco_json import CocoJson
from segic_jax.data.episodes import ClassId, Episode, LabelledImage, Manifest, View
from segic_jax.data.images import read_rgb
from segic_jax.data.masks import as_polygon, union
from segic_jax.data.numpy_pickle import read_pickle
from segic_jax.data.sampler import GPUS, choose, draw_others, semcoco_episodes
from segic_jax.errors import DataError

FOLDS, EPISODES = 10, 2300
CLASSES = 920  # with more than one validation image
DOWNLOAD = "lvis.zip of github.com/aim-uofa/Matcher (datasets/README.md)"

Annotations = dict[int, dict[str, list]]  # class -> image -> segmentations


class Lvis92iSource:
    """Give the episodes and images; class ids are LVIS's, masks the union of a class's objects."""

    name = "lvis92i"

    def __init__(self, root: Path | str):
        """Open LVIS/ or its parent.

        Raises:
            DataError: lvis_val.pkl or coco/ is missing or damaged.
        """
        root = Path(root)
        self.root = root / "LVIS" if (root / "LVIS").is_dir() else root
        if not (self.root / "coco").is_dir():
            raise DataError(f"{self.root / 'coco'} is missing: put COCO's train2017 and val2017 there.")
        self._annotations: Annotations | None = self._read()
        # The order of the pickle is part of the draw.
        self.image_names = {
            class_id: list(image_names) for class_id, image_names in self._annotations.items()
        }
        self._names: dict[int, str] = {}
        self._segic: dict[str, list[Manifest]] = {}  # of all folds, by protocol

    def __getstate__(self) -> dict:
        # A worker reads the annotations again, if it needs them.
        return self.__dict__ | {"_annotations": None, "_segic": {}}

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        """Return the 2300 episodes of a fold.

        Raises:
            DataError: unknown protocol or fold, or too few classes or images.
        """
        if protocol not in BENCHMARK.protocols:
            raise DataError(f"{self.name} has no protocol {protocol!r}: {', '.join(BENCHMARK.protocols)}.")
        if fold not in range(FOLDS) or shots < 1:
            raise DataError(f"{self.name} has the folds 0 to {FOLDS - 1} and takes 1 shot or more.")
        if protocol.startswith("segic"):
            if shots != 1:
                raise DataError(f"{self.name} takes 1 shot with the protocol {protocol}.")
            if protocol not in self._segic:
                self._segic[protocol] = self._segic_manifests(protocol)
            return self._segic[protocol][fold]
        classes = self._classes(fold, shots)
        return Manifest(
            self.name, protocol, fold, shots, classes, tuple(self._matcher_episodes(classes, shots))
        )

    def class_name(self, class_id: ClassId) -> str:
        """Return LVIS's name with its underscores, as official SegIC gives it to the text encoder."""
        if not self._names:
            self._names = self._json().categories
        if class_id not in self._names:
            raise DataError(f"{self.name} has no class {class_id!r}.")
        return self._names[int(class_id)]

    def views(self) -> Iterator[View]:
        """Yield every class of every image, image by image."""
        classes: dict[str, list[int]] = {}
        for class_id, image_names in self.image_names.items():
            for image_name in image_names:
                classes.setdefault(image_name, []).append(class_id)
        for image_name in sorted(classes):
            for class_id in classes[image_name]:
                yield View(image_name, class_id)

    def paths(self, view: View) -> tuple[Path, ...]:
        """Return the path of the image."""
        return (self.root / "coco" / view.image_name,)

    def load(self, view: View) -> LabelledImage:
        """Read the image and the union of the masks of all objects of the class."""
        if self._annotations is None:
            self._annotations = self._read()
        by_image = self._annotations.get(view.class_id) if isinstance(view.class_id, int) else None
        segmentations = (by_image or {}).get(view.image_name)
        if segmentations is None:
            raise DataError(
                f"{self.root / 'lvis_val.pkl'} has no class {view.class_id!r} in {view.image_name}: "
                f"get it again ({DOWNLOAD})."
            )
        image = read_rgb(*self.paths(view))
        try:
            return LabelledImage(image, union(segmentations, *image.shape[:2]))
        except ValueError as error:
            raise DataError(
                f"{self.root / 'lvis_val.pkl'}, class {view.class_id} in {view.image_name}: {error}; "
                "get it again."
            ) from error

    def _classes(self, fold: int, shots: int) -> tuple[int, ...]:
        """Deal the classes with more images than shots to the folds; the remainder is left out."""
        enough = [class_id for class_id, image_names in self.image_names.items() if len(image_names) > shots]
        classes = enough[fold::FOLDS][: len(enough) // FOLDS]
        if not classes:
            raise DataError(
                f"{self.root / 'lvis_val.pkl'} has {len(enough)} classes of more than {shots} images: "
                f"{FOLDS} folds need at least as many."
            )
        return tuple(classes)

    def _matcher_episodes(self, classes: tuple[int, ...], shots: int) -> Iterator[Episode]:
        """Draw as Matcher (data/lvis.py:35-41, 110-149) and INSID3 (datasets/lvis.py:35-103) do with seed 0.

        The classes are taken in turn; references may repeat. No image is read.
        """
        rng = np.random.RandomState(0)
        for number in range(EPISODES):
            class_id = classes[number % len(classes)]
            image_names = self.image_names[class_id]
            target = choose(rng, image_names)
            yield Episode(class_id, target, draw_others(rng, image_names, target, shots))

    def _segic_manifests(self, protocol: str) -> list[Manifest]:
        """Draw all folds at once: the file takes long to read and much memory to keep."""
        coco = self._json()
        self._names = coco.categories
        classes = sorted(class_id for class_id in coco.categories if len(coco.image_ids(class_id)) > 1)
        manifests = []
        for fold in range(FOLDS):
            episodes = semcoco_episodes(coco, protocol, fold=fold)
            manifests.append(
                Manifest(self.name, protocol, fold, 1, tuple(classes[fold::FOLDS]), tuple(episodes))
            )
        return manifests

    def json_path(self) -> Path | None:
        """Return the path of lvis_v1_val.json, or None."""
        places = (folder / "lvis_v1_val.json" for folder in (self.root, self.root.parent / "lvis"))
        return next((path for path in places if path.is_file()), None)

    def _json(self) -> CocoJson:
        path = self.json_path()
        if path is None:
            raise DataError(
                f"{self.root / 'lvis_v1_val.json'} is missing: the class names and the protocol segic need "
                "it (https://www.lvisdataset.org/dataset)."
            )
        return CocoJson(path)

    def _read(self) -> Annotations:
        path = self.root / "lvis_val.pkl"
        if not path.is_file():
            raise DataError(f"{path} is missing: it is part of {DOWNLOAD}.")
        content = read_pickle(path)
        try:
            for images in content.values():
                for name, entry in images.items():  # in place: as Python numbers they would fill gigabytes
                    images[name] = [_packed(item["segmentation"]) for item in entry["annotations"]]
            return {int(class_id): images for class_id, images in content.items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} is not laid out as LVIS-92i's ({error!r}): get {DOWNLOAD}.") from error


def _packed(segmentation: Any) -> Any:
    """Turn polygons into arrays."""
    return list(map(as_polygon, segmentation)) if isinstance(segmentation, list) else segmentation


def check(root: Path) -> list[CheckLine]:
    """Count the classes, and the images of the pickle on disk."""
    try:
        source = Lvis92iSource(root)
    except DataError as error:
        return [CheckLine("LVIS-92i", "missing", problem=str(error))]
    classes = sum(len(image_names) > 1 for image_names in source.image_names.values())
    image_names = {image_name for image_names in source.image_names.values() for image_name in image_names}
    on_disk = sum((source.root / "coco" / image_name).is_file() for image_name in image_names)
    try:
        names, damage = len(source._json().categories) if source.json_path() else 0, ""
    except DataError as error:
        names, damage = 0, str(error)
    other = f"not the published lists: get {DOWNLOAD}."
    gone = f"some are missing from {source.root / 'coco'}: unpack COCO's train2017 and val2017 there."
    return [
        CheckLine("classes of more than 1 image", classes, CLASSES, "" if classes == CLASSES else other),
        CheckLine("images", on_disk, len(image_names), "" if on_disk == len(image_names) else gone),
        CheckLine(
            "class names and protocol segic, of lvis_v1_val.json (may be missing)", names, None, damage
        ),
    ]


BENCHMARK = BenchmarkSpec(
    name="lvis92i",
    title="LVIS-92i (Matcher): 920 classes of LVIS in ten folds",
    kind="episodes",
    protocols=("matcher", "insid3", "segic", "segic-leak", *GPUS),
    layout=(
        "LVIS/lvis_val.pkl\nLVIS/coco/{train2017,val2017}/*.jpg\n"
        "LVIS/lvis_v1_val.json   for class names and the segic protocols"
    ),
    download=DOWNLOAD,
    domain="lvis",
    open=Lvis92iSource,
    check=check,
    folds=FOLDS,
)
