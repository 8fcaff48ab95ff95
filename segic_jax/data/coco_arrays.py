"""The objects of large COCO-like annotation files (COCO, LVIS, PACO, Objects365), read by many processes.

The JSON is read once and written as arrays to the cache; these are mapped into memory, so that all processes
of a machine share one copy, and what is pickled is a path.
"""

import json
from collections.abc import Collection, Iterable
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from segic_jax.data.disk_cache import cached, file_version
from segic_jax.data.masks import as_polygon, decode
from segic_jax.errors import DataError

FORMAT = 1  # of the arrays
CATEGORIES = "categories.json"
POLYGONS, COUNTS, TEXT, BOX = range(4)  # kinds of masks


class Annotations:
    """Images are numbered by rising id; of each the objects come in the file's order."""

    def __init__(self, path: Path, *, boxes: bool = False):
        """Read the file, or what an earlier call made of it.

        Args:
            boxes: take each object's box as its mask.

        Raises:
            DataError: the file is missing, damaged, or not in COCO's format.
        """
        self.path = path
        version = [FORMAT, boxes, *file_version(path)]
        self._folder = cached("annotations", version, lambda folder: _write(folder, path, boxes))
        stored = json.loads((self._folder / CATEGORIES).read_text("utf-8"))
        self.categories: dict[int, str] = dict(map(tuple, stored))

    def __getstate__(self) -> dict:
        return {name: self.__dict__[name] for name in ("path", "_folder", "categories")}

    def images_with_objects(self, without: Collection[int] = ()) -> Int[np.ndarray, " images"]:
        """Numbers of those with an object of a category that is not in `without`."""
        wanted = np.append(0, np.cumsum(~np.isin(self._arrays["category"], list(without))))
        ends = wanted[self._arrays["first"]]
        return np.flatnonzero(ends[1:] > ends[:-1]).astype(np.int32)

    def file_name(self, image: int) -> str:
        """As the JSON has it; LVIS, which has none, names folder and file at the end of an address."""
        return bytes(self._arrays["name"][image]).decode("utf-8")

    def masks(self, image: int, without: Collection[int] = ()) -> Bool[np.ndarray, "objects height width"]:
        """One mask for each object whose category is not in `without`; they may overlap.

        Raises:
            DataError: a segmentation that makes no mask.
        """
        arrays = self._arrays
        height, width = arrays["size"][image].tolist()
        wanted = [
            number
            for number in range(*arrays["first"][image : image + 2].tolist())
            if int(arrays["category"][number]) not in without
        ]
        masks = np.zeros((len(wanted), height, width), bool)
        try:
            for number, mask in zip(wanted, masks, strict=True):
                mask[:] = decode(self._segmentation(number, height, width), height, width)
        except ValueError as error:
            name = self.file_name(image)
            raise DataError(f"{self.path}, {name}: {error}; get the file again.") from error
        return masks

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        names = ("name", "size", "first", "category", "kind", "part", "start", "content")
        return {name: np.load(self._folder / f"{name}.npy", mmap_mode="r") for name in names}

    def _segmentation(self, number: int, height: int, width: int) -> Any:
        arrays = self._arrays
        first, last = arrays["part"][number : number + 2].tolist()
        starts = arrays["start"][first : last + 1].tolist()
        parts = [arrays["content"][a:b].tobytes() for a, b in pairwise(starts)]
        kind = int(arrays["kind"][number])
        if kind in (COUNTS, TEXT):
            counts = parts[0] if kind == TEXT else np.frombuffer(parts[0], np.int64).tolist()
            return {"size": [height, width], "counts": counts}
        numbers = [np.frombuffer(part) for part in parts]
        return numbers if kind == POLYGONS else [_corners(*numbers[0])]


class _Object(NamedTuple):
    """One annotation, with its numbers packed."""

    image: int
    category: int
    kind: int
    parts: list[bytes]
    size: list[int] | None  # of run lengths


def _write(folder: Path, path: Path, boxes: bool) -> None:
    content = _read(path, boxes)
    try:
        images = {int(one["id"]): one for one in content["images"]}
        order = sorted(images)
        sizes = np.array([(images[i]["height"], images[i]["width"]) for i in order], np.int32).reshape(-1, 2)
        names = np.array([_file_name(images[i]).encode() for i in order], bytes)
        categories = sorted((int(one["id"]), str(one["name"])) for one in content["categories"])
        objects: list[_Object] = content["annotations"]
        if not all(isinstance(one, _Object) for one in objects):
            raise KeyError("image_id, category_id and " + ("bbox" if boxes else "segmentation"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is not in COCO's format ({error!r}): it needs images, annotations and categories."
        ) from error
    if not objects:
        raise DataError(f"{path} has no annotation: get the file again.")
    place = {image: number for number, image in enumerate(order)}
    known = {number for number, _ in categories}
    for one in objects:
        if one.image not in place or one.category not in known:
            raise DataError(
                f"{path} has an annotation of image {one.image} and class {one.category}, which it does not "
                "list: get the file again."
            )
        if one.size is not None and list(one.size) != sizes[place[one.image]].tolist():
            raise DataError(f"{path}, image {one.image}: a mask has another size; get the file again.")
    objects.sort(key=lambda one: place[one.image])
    of = np.array([place[one.image] for one in objects], np.int64)
    parts = (part for one in objects for part in one.parts)
    arrays = {
        "name": names,
        "size": sizes,
        "first": np.searchsorted(of, np.arange(len(order) + 1)),
        "category": np.array([one.category for one in objects], np.int32),
        "kind": np.array([one.kind for one in objects], np.int8),
        "part": _ends(len(one.parts) for one in objects),
        "start": _ends(len(part) for one in objects for part in one.parts),
        "content": np.frombuffer(
            b"".join(chain(parts, [b" "])), np.uint8
        ),  # not empty, or it were not mapped
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / CATEGORIES).write_text(json.dumps(categories), "utf-8")


def _read(path: Path, boxes: bool) -> dict:
    """The JSON, each annotation packed as soon as it is read: as numbers of Python LVIS's fill 10 GB."""

    def pack(one: dict) -> Any:
        if "image_id" in one and "category_id" in one and ("bbox" if boxes else "segmentation") in one:
            kind, parts, size = _packed_box(one["bbox"]) if boxes else _packed(one["segmentation"])
            return _Object(int(one["image_id"]), int(one["category_id"]), kind, parts, size)
        return one

    try:
        content = json.loads(path.read_bytes(), object_hook=pack)
    except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise DataError(f"{path} is damaged or no JSON ({error}): get the file again.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not in COCO's format: it needs images, annotations and categories.")
    return content


def _packed(segmentation: Any) -> tuple[int, list[bytes], list[int] | None]:
    if isinstance(segmentation, list):
        return POLYGONS, [as_polygon(points).tobytes() for points in segmentation], None
    counts = segmentation["counts"]
    if isinstance(counts, str):
        return TEXT, [counts.encode("ascii")], segmentation["size"]
    return COUNTS, [np.array(counts, np.int64).tobytes()], segmentation["size"]


def _packed_box(box: Any) -> tuple[int, list[bytes], None]:
    numbers = as_polygon(box)
    if len(numbers) != 4:
        raise ValueError("a box has four numbers")
    return BOX, [numbers.tobytes()], None


def _corners(x: float, y: float, width: float, height: float) -> np.ndarray:
    return np.array([x, y, x + width, y, x + width, y + height, x, y + height])


def _ends(lengths: Iterable[int]) -> Int[np.ndarray, " ends"]:
    return np.append(0, np.cumsum(np.fromiter(lengths, np.int64)))


def _file_name(image: dict) -> str:
    if "file_name" in image:
        return str(image["file_name"])
    return "/".join(str(image["coco_url"]).split("/")[-2:])
