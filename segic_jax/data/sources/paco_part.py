"""Read PACO-Part as Matcher (Liu et al., ICLR 2024) prepared it: parts of objects, cropped to each object.

<root>/paco/paco_part_train.pkl        only the order of its 448 classes is used
<root>/paco/paco_part_val.pkl          {"cid2img": {class: [{image id: path}]}, "img2anno": {image id: [...]}}
<root>/coco/{train2017,val2017}/*.jpg

An annotation has category_id, obj_ann_id, obj_bbox [x, y, width, height] and segmentation. Class ids are the
file's category ids; an instance is an obj_ann_id.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.episodes import ClassId, Episode, LabelledImage, Manifest, View
from segic_jax.data.images import image_size, read_rgb
from segic_jax.data.masks import as_polygon, crop_to_box
from segic_jax.data.numpy_pickle import read_pickle
from segic_jax.data.sampler import choose
from segic_jax.errors import DataError

FOLDS, EPISODES = 4, 2500
CLASSES, DRAWN = 448, 303  # of the training list; and those of all folds for 1 shot
PATIENCE = 10_000  # episodes with an empty crop in a row before giving up
DOWNLOAD = "paco.zip of github.com/aim-uofa/Matcher (datasets/README.md)"


class PartObject(NamedTuple):
    """Hold one object of an image with one kind of its parts."""

    rows: slice
    columns: slice
    segmentations: list


Annotations = dict[str, dict[int, dict[int, PartObject]]]  # image -> class -> instance


class PacoPartSource:
    """Give crops of one object with the union of the masks of one kind of its parts."""

    name = "paco_part"

    def __init__(self, root: Path | str):
        """Open PACO-Part/ or its parent.

        Raises:
            DataError: a pickle or coco/ is missing or damaged.
        """
        root = Path(root)
        self.root = root / "PACO-Part" if (root / "PACO-Part").is_dir() else root
        self._train, self._val = (self.root / "paco" / f"paco_part_{split}.pkl" for split in ("train", "val"))
        for path in (self._train, self._val, self.root / "coco"):
            if not path.exists():
                raise DataError(
                    f"{path} is missing: get {DOWNLOAD}, and COCO's train2017 and val2017 for coco/."
                )
        # The order of both pickles is part of the draw.
        content = read_pickle(self._train)
        try:
            self.train_classes = tuple(map(int, content["cid2img"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{self._train} is not laid out as PACO-Part's ({error!r}): get {DOWNLOAD}."
            ) from error
        del content
        self.image_names: dict[int, list[str]] = {}  # of the validation split, by class, each once
        self._annotations: Annotations | None = self._read()

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_annotations": None}  # a worker reads its own, if it needs them

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        """Return the 2500 episodes of a fold.

        Raises:
            DataError: unknown protocol or fold, too few classes, or an image is missing.
        """
        if protocol not in BENCHMARK.protocols:
            raise DataError(f"{self.name} has no protocol {protocol!r}: {', '.join(BENCHMARK.protocols)}.")
        if fold not in range(FOLDS) or shots < 1:
            raise DataError(f"{self.name} has the folds 0 to {FOLDS - 1} and takes 1 shot or more.")
        classes = self.fold_classes(fold, shots)
        if not classes:
            raise DataError(f"{self._val} has no class of fold {fold} with more than {shots} images.")
        notes: dict[str, None] = {}  # in the order of the draw
        episodes = tuple(self._episodes(classes, shots, notes))
        return Manifest(self.name, protocol, fold, shots, classes, episodes, tuple(notes))

    def fold_classes(self, fold: int, shots: int) -> tuple[int, ...]:
        """Deal the classes of the training list to the folds; return those with more images than shots."""
        dealt = self.train_classes[fold::FOLDS][: len(self.train_classes) // FOLDS]
        return tuple(class_id for class_id in dealt if len(self.image_names.get(class_id, ())) > shots)

    def class_name(self, class_id: ClassId) -> str:
        """Raise DataError: the files number the classes and do not name them."""
        raise DataError(f"{self._val} names no classes: run {self.name} without class names.")

    def views(self) -> Iterator[View]:
        """Yield every kind of part of every object with a non-empty box, object by object."""
        classes: dict[str, list[int]] = {}
        for class_id, image_names in self.image_names.items():
            for image_name in image_names:
                classes.setdefault(image_name, []).append(class_id)
        for image_name in sorted(classes):
            kinds: dict[int, list[int]] = {}
            try:
                size = image_size(self.root / "coco" / image_name)[::-1]
            except DataError:
                size = None  # `load` reports it
            for class_id in classes[image_name]:
                for instance, part_object in self._objects(image_name, class_id).items():
                    if size is None or not _is_empty(part_object, size):
                        kinds.setdefault(instance, []).append(class_id)
            for instance, class_ids in kinds.items():
                for class_id in class_ids:
                    yield View(image_name, class_id, instance)

    def paths(self, view: View) -> tuple[Path, ...]:
        """Return the path of the image."""
        return (self.root / "coco" / view.image_name,)

    def load(self, view: View) -> LabelledImage:
        """Read the image cropped to the object's box, and the mask of the parts in it."""
        part_object = self._objects(view.image_name, view.class_id).get(view.instance)
        if part_object is None:
            raise DataError(
                f"{self._val} has no object {view.instance!r} with the part {view.class_id!r} "
                f"in {view.image_name}."
            )
        image = read_rgb(*self.paths(view))
        what = f"{self._val}, object {view.instance} of class {view.class_id} in {view.image_name}"
        try:
            crop, mask, note = crop_to_box(
                image, part_object.segmentations, part_object.rows, part_object.columns, what
            )
        except ValueError as error:
            raise DataError(f"{what}: {error}; get it again.") from error
        return LabelledImage(crop, mask, note=note)

    def _episodes(self, classes: Sequence[int], shots: int, notes: dict[str, None]) -> Iterator[Episode]:
        """Draw the episodes of the official loaders with seed 0.

        Source: INSID3 datasets/paco_part.py:34-53, 119-185, Matcher data/paco_part.py.

        An episode is a class, an image and one of its objects, and references, which may repeat. If a crop is
        empty, the episode is drawn again. That depends on the boxes and on the image's size, so the header of
        each drawn image is read.

        Args:
            notes: gets a sentence as key for each object with an empty crop.
        """
        rng = np.random.RandomState(0)
        sizes: dict[str, tuple[int, int]] = {}

        def is_empty(class_id: int, image_name: str, instance: int) -> bool:
            if image_name not in sizes:
                sizes[image_name] = image_size(self.root / "coco" / image_name)[::-1]
            empty = _is_empty(self._objects(image_name, class_id)[instance], sizes[image_name])
            if empty:
                what = f"{self._val}, object {instance} of class {class_id} in {image_name}"
                notes[f"{what}: its box holds nothing of the image: drawn again, as in INSID3's code."] = None
            return empty

        def episode() -> tuple[int, list[tuple[str, int]]]:
            class_id = choose(rng, classes)
            drawn: list[tuple[str, int]] = []
            while len(drawn) < 1 + shots:
                image_name = choose(rng, self.image_names[class_id])
                if not drawn or image_name != drawn[0][0]:
                    drawn.append((image_name, choose(rng, self._instances(image_name, class_id))))
            return class_id, drawn

        for _ in range(EPISODES):
            for _ in range(PATIENCE):
                class_id, drawn = episode()
                if not any(is_empty(class_id, *pair) for pair in drawn):
                    break
            else:
                raise DataError(f"{self._val}: the boxes hold nothing of the images in {self.root / 'coco'}.")
            (target, *references), instances = zip(*drawn, strict=True)
            yield Episode(class_id, target, tuple(references), instances)

    def _instances(self, image_name: str, class_id: int) -> list[int]:
        instances = list(self._objects(image_name, class_id))
        if not instances:
            raise DataError(
                f"{self._val} lists {image_name} for class {class_id} but has no such part in it."
            )
        return instances

    def _objects(self, image_name: str, class_id: ClassId) -> dict[int, PartObject]:
        if self._annotations is None:
            self._annotations = self._read()
        by_class = self._annotations.get(image_name, {})
        return by_class.get(class_id, {}) if isinstance(class_id, int) else {}

    def _read(self) -> Annotations:
        """Read the validation pickle and fill `image_names`."""
        content = read_pickle(self._val)
        try:
            ids: dict[str, Any] = {}  # image -> image id
            for class_id, entries in content["cid2img"].items():
                names = []
                for entry in entries:
                    (image_id, path), *_ = entry.items()
                    names.append(name := "/".join(path.split("/")[-2:]))
                    if ids.setdefault(name, image_id) != image_id:
                        raise ValueError(f"two ids for {name}")
                self.image_names[int(class_id)] = list(dict.fromkeys(names))
            # Taken out of the pickle image by image: two copies in memory would be gigabytes.
            return {name: _by_class(content["img2anno"].pop(image_id, [])) for name, image_id in ids.items()}
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"{self._val} is not laid out as PACO-Part's ({error!r}): get {DOWNLOAD}."
            ) from error


def _by_class(annotations: list[dict[str, Any]]) -> dict[int, dict[int, PartObject]]:
    """Return objects by class and instance, in the order of the file; the first box counts."""
    by_class: dict[int, dict[int, PartObject]] = {}
    for annotation in annotations:
        instances = by_class.setdefault(int(annotation["category_id"]), {})
        instance = int(annotation["obj_ann_id"])
        if instance not in instances:
            x, y, width, height = annotation["obj_bbox"]
            rows, columns = slice(int(y), int(y + height)), slice(int(x), int(x + width))
            instances[instance] = PartObject(rows, columns, [])
        segmentation = annotation["segmentation"]
        packed = list(map(as_polygon, segmentation)) if isinstance(segmentation, list) else segmentation
        instances[instance].segmentations.append(packed)
    return by_class


def _is_empty(part_object: PartObject, size: tuple[int, int]) -> bool:
    """Return whether the box holds nothing of an image of this height and width."""
    return any(
        not range(side)[window]
        for window, side in zip((part_object.rows, part_object.columns), size, strict=True)
    )


def check(root: Path) -> list[CheckLine]:
    """Count the classes, and the images of the validation lists on disk."""
    try:
        source = PacoPartSource(root)
    except DataError as error:
        return [CheckLine("PACO-Part", "missing", problem=str(error))]
    image_names = {image_name for image_names in source.image_names.values() for image_name in image_names}
    on_disk = sum((source.root / "coco" / image_name).is_file() for image_name in image_names)
    drawn = sum(len(source.fold_classes(fold, 1)) for fold in range(FOLDS))
    other = f"not the published lists: get {DOWNLOAD}."
    gone = f"some are missing from {source.root / 'coco'}: unpack COCO's train2017 and val2017 there."
    return [
        CheckLine(
            "classes of the training list",
            len(source.train_classes),
            CLASSES,
            "" if len(source.train_classes) == CLASSES else other,
        ),
        CheckLine("classes drawn for 1 shot", drawn, DRAWN, "" if drawn == DRAWN else other),
        CheckLine(
            "validation images", on_disk, len(image_names), "" if on_disk == len(image_names) else gone
        ),
    ]


BENCHMARK = BenchmarkSpec(
    name="paco_part",
    title="PACO-Part (Matcher): 303 kinds of parts in four folds, cropped to the object",
    kind="episodes",
    protocols=("matcher", "insid3"),
    layout="PACO-Part/paco/paco_part_{train,val}.pkl\nPACO-Part/coco/{train2017,val2017}/*.jpg",
    download=DOWNLOAD,
    domain="paco",
    open=PacoPartSource,
    check=check,
    folds=FOLDS,
)
