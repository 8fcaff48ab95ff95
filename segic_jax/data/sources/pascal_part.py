"""Read PASCAL-Part as Matcher (Liu et al., ICLR 2024) prepared it: parts of objects, cropped to each object.

<root>/VOCdevkit/VOC2010/
    all_obj_part_to_image.json     {fold: {"object": {object: {"part": {part: {split: [id]}}}}}}
    Annotations_Part_json_merged_part_classes/<id>.json     objects, their boxes, masks of their parts
    JPEGImages/<id>.jpg

A class is "object+part", as the official loaders name it; an image is its id; an instance is the number of
the object among those of its name in the image.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.episodes import ClassId, Episode, LabelledImage, Manifest, View
from segic_jax.data.images import read_rgb
from segic_jax.data.masks import crop_to_box
from segic_jax.data.sampler import choose
from segic_jax.errors import DataError

FOLDS = ("animals", "indoor", "person", "vehicles")
MOST_EPISODES = 2500
PATIENCE = 100_000  # draws without a usable object before giving up
SPOKEN = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}
DOWNLOAD = "pascal.zip of github.com/aim-uofa/Matcher (datasets/README.md), VOC2010 from host.robots.ox.ac.uk"


class PartObject(NamedTuple):
    """Hold one object of an image."""

    name: str
    box: tuple[int, int, int, int]  # left, top, right, bottom; the last two are outside
    parts: dict[str, list]  # name -> run lengths


class PascalPartSource:
    """Give crops of one object with the union of the masks of one of its parts."""

    name = "pascal_part"

    def __init__(self, root: Path | str):
        """Open Pascal-Part/, its parent, its VOCdevkit/ or VOCdevkit/VOC2010/.

        Raises:
            DataError: the index or a folder is missing or damaged.
        """
        self.root = _find(Path(root))
        path = self.root / "all_obj_part_to_image.json"
        for folder in ("JPEGImages", "Annotations_Part_json_merged_part_classes"):
            if not (self.root / folder).is_dir():
                raise DataError(f"{self.root / folder} is missing: it is part of {DOWNLOAD}.")
        index = _read_json(path)
        self.image_names: dict[str, list[str]] = {}  # of the validation split, by class
        self.fold_classes: list[tuple[str, ...]] = []
        self.fold_lengths: list[int] = []
        try:
            for fold in FOLDS:
                parts = {
                    f"{name}+{part}": splits
                    for name, entry in index[fold]["object"].items()
                    for part, splits in entry["part"].items()
                }
                classes = [name for name, splits in parts.items() if splits["train"] and splits["val"]]
                # Left out by the official loaders (INSID3 datasets/pascal_part.py:36).
                self.fold_classes.append(tuple(name for name in classes if name != "aeroplane+TAIL"))
                self.fold_lengths.append(
                    min(sum(len(splits["val"]) for splits in parts.values()), MOST_EPISODES)
                )
                self.image_names |= {
                    name: list(map(str, parts[name]["val"])) for name in self.fold_classes[-1]
                }
        except (AttributeError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} is not laid out as PASCAL-Part's ({error!r}): get {DOWNLOAD}."
            ) from error

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        """Return as many episodes as the fold's validation lists have entries, at most 2500.

        Raises:
            DataError: no such protocol or fold, a class with too few images, or a file is missing.
        """
        if protocol not in BENCHMARK.protocols:
            raise DataError(f"{self.name} has no protocol {protocol!r}: {', '.join(BENCHMARK.protocols)}.")
        if fold not in range(len(FOLDS)) or shots < 1:
            raise DataError(f"{self.name} has the folds 0 to {len(FOLDS) - 1} and takes 1 shot or more.")
        classes = self.fold_classes[fold]
        if not classes:
            raise DataError(f"{self.root / 'all_obj_part_to_image.json'} has no class of fold {FOLDS[fold]}.")
        notes: dict[str, None] = {}  # in the order of the draw
        episodes = tuple(self._episodes(fold, shots, notes))
        return Manifest(self.name, protocol, fold, shots, classes, episodes, tuple(notes))

    def class_name(self, class_id: ClassId) -> str:
        """Return the name of a part for a text prompt, such as "head of a cat"."""
        if class_id not in self.image_names:
            raise DataError(
                f"{self.name} has no class {class_id!r}: they are named as {next(iter(self.image_names))!r}."
            )
        name, _, part = str(class_id).partition("+")
        article = "an" if name[0] in "aeiou" else "a"
        return f"{part.lower().replace('_', ' ')} of {article} {SPOKEN.get(name, name)}"

    def views(self) -> Iterator[View]:
        """Yield the parts of every object of the validation images, object by object."""
        classes: dict[str, list[str]] = {}
        for class_id, image_names in self.image_names.items():
            for image_name in image_names:
                classes.setdefault(image_name, []).append(class_id)
        for image_name in sorted(classes):
            numbers: dict[str, int] = {}
            for part_object in self._objects(image_name):
                number = numbers[part_object.name] = numbers.get(part_object.name, -1) + 1
                for class_id in dict.fromkeys(classes[image_name]):
                    name, _, part = class_id.partition("+")
                    if name == part_object.name and _has(part_object, part) and _is_inside(part_object, part):
                        yield View(image_name, class_id, number)

    def paths(self, view: View) -> tuple[Path, ...]:
        """Return the paths of the image and its annotations."""
        return self.root / "JPEGImages" / f"{view.image_name}.jpg", self._annotation(view.image_name)

    def load(self, view: View) -> LabelledImage:
        """Read the image cropped to the object's box, and the mask of the part in it."""
        name, _, part = str(view.class_id).partition("+")
        image_path, path = self.paths(view)
        objects = [part_object for part_object in self._objects(view.image_name) if part_object.name == name]
        number = view.instance
        if number is None or number not in range(len(objects)):
            raise DataError(f"{path} has no {name!r} of number {number!r}.")
        part_object = objects[number]
        if not _has(part_object, part):
            raise DataError(f"{path}: {name!r} {number} has no part {part!r}.")
        image = read_rgb(image_path)
        left, top, right, bottom = part_object.box
        rows, columns = slice(top, bottom), slice(left, right)
        what = f"{path}, {part!r} of {name!r} {number}"
        try:
            crop, mask, note = crop_to_box(image, part_object.parts[part], rows, columns, what)
        except ValueError as error:
            raise DataError(f"{what}, box {part_object.box}: {error}; get it again.") from error
        return LabelledImage(crop, mask, note=note)

    def _episodes(self, fold: int, shots: int, notes: dict[str, None]) -> Iterator[Episode]:
        """Draw as INSID3 (datasets/pascal_part.py:71-141) and Matcher (data/pascal_part.py) do with seed 0.

        The classes are taken in turn. A draw is an image, then one of its objects of the class's name; an
        object without the part is drawn again, as is an image without such an object, where only INSID3's
        code goes on. The draw depends on the annotations only, not on the images.

        Args:
            notes: gets a sentence as key for each such image.
        """
        rng = np.random.RandomState(0)
        usable: dict[tuple[str, str], list[bool]] = {}  # for each object: whether it has the part

        def draw(class_id: str, taken: Sequence[str]) -> tuple[str, int]:
            name, _, part = class_id.partition("+")
            for _ in range(PATIENCE):
                image_name = choose(rng, self.image_names[class_id])
                if image_name in taken:
                    continue
                if (image_name, class_id) not in usable:
                    objects = [
                        part_object for part_object in self._objects(image_name) if part_object.name == name
                    ]
                    usable[image_name, class_id] = [_has(part_object, part) for part_object in objects]
                having = usable[image_name, class_id]
                if not having:
                    path = self._annotation(image_name)
                    notes[f"{path} has no object {name!r}, for whose {part!r} it is listed: drawn again."] = (
                        None
                    )
                elif having[instance := choose(rng, range(len(having)))]:
                    return image_name, instance
            raise DataError(
                f"{self.root / 'all_obj_part_to_image.json'}: the class {class_id} has too few images for "
                f"{shots} shot(s): {len(set(self.image_names[class_id]))} of which {len(taken)} are taken."
            )

        classes = self.fold_classes[fold]
        for number in range(self.fold_lengths[fold]):
            class_id = classes[number % len(classes)]
            drawn: list[tuple[str, int]] = []
            for _ in range(1 + shots):
                drawn.append(draw(class_id, [image_name for image_name, _ in drawn]))
            (target, *references), instances = zip(*drawn, strict=True)
            yield Episode(class_id, target, tuple(references), instances)

    def _annotation(self, image_name: str) -> Path:
        return self.root / "Annotations_Part_json_merged_part_classes" / f"{image_name}.json"

    def _objects(self, image_name: str) -> list[PartObject]:
        path = self._annotation(image_name)
        content = _read_json(path)
        try:
            return [_object(entry) for entry in content["object"]]
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{path} is not laid out as PASCAL-Part's ({error!r}): get it again.") from error


def _object(entry: dict[str, Any]) -> PartObject:
    left, top, right, bottom = map(int, entry["bndbox"].values())  # in the file's order
    parts: dict[str, list] = {}
    for part in entry.get("parts") or ():  # a boat or a table has none
        for mask in part["mask"]:
            parts.setdefault(part["name"], []).append(
                {"size": [*map(int, mask["size"])], "counts": mask["counts"]}
            )
    return PartObject(entry["name"], (left, top, right, bottom), parts)


def _has(part_object: PartObject, part: str) -> bool:
    """Return whether an object has the part, with a mask of any size, even one that covers no pixel."""
    masks = part_object.parts.get(part)
    return bool(masks) and bool(np.prod(masks[0]["size"]))


def _is_inside(part_object: PartObject, part: str) -> bool:
    """Return whether the box holds something of the image, whose size is that of the masks."""
    left, top, right, bottom = part_object.box
    height, width = part_object.parts[part][0]["size"]
    return bool(range(height)[top:bottom] and range(width)[left:right])


def _find(root: Path) -> Path:
    inner = ("Pascal-Part/VOCdevkit/VOC2010", "VOCdevkit/VOC2010", "VOC2010", "")
    places = [root / name for name in inner if (root / name).is_dir()] or [root]
    for place in places:
        if (place / "all_obj_part_to_image.json").is_file():
            return place
    raise DataError(f"{places[0] / 'all_obj_part_to_image.json'} is missing: it is part of {DOWNLOAD}.")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: it is part of {DOWNLOAD}.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is cut off or not JSON: get {DOWNLOAD}.") from error


def check(root: Path) -> list[CheckLine]:
    """Count the classes, and the images and annotations of the validation lists on disk."""
    try:
        source = PascalPartSource(root)
    except DataError as error:
        return [CheckLine("PASCAL-Part", "missing", problem=str(error))]
    image_names = sorted(
        {image_name for image_names in source.image_names.values() for image_name in image_names}
    )
    count = len(image_names)
    images = sum((source.root / "JPEGImages" / f"{image_name}.jpg").is_file() for image_name in image_names)
    annotations = sum(source._annotation(image_name).is_file() for image_name in image_names)
    gone = f"some are missing: unpack {DOWNLOAD}."
    return [
        *(
            CheckLine(f"classes of fold {number} ({name})", len(classes))
            for number, (name, classes) in enumerate(zip(FOLDS, source.fold_classes, strict=True))
        ),
        CheckLine("validation images", images, count, "" if images == count else gone),
        CheckLine("their annotations", annotations, count, "" if annotations == count else gone),
    ]


BENCHMARK = BenchmarkSpec(
    name="pascal_part",
    title="PASCAL-Part (Matcher): parts of objects in four folds, cropped to the object",
    kind="episodes",
    protocols=("matcher", "insid3"),
    layout=(
        "Pascal-Part/VOCdevkit/VOC2010/{JPEGImages,Annotations_Part_json_merged_part_classes}/\n"
        "Pascal-Part/VOCdevkit/VOC2010/all_obj_part_to_image.json"
    ),
    download=DOWNLOAD,
    domain="pascal",
    open=PascalPartSource,
    check=check,
    folds=len(FOLDS),
)
