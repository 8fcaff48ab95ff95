"""Read large annotation files in COCO's format (COCO, LVIS, PACO, Objects365) from many processes.

The JSON is read once and written as arrays to the cache. The arrays are mapped into memory, so that all
processes of a machine share one copy, and only their path is pickled.
"""

import json
from collections.abc import Collection, Iterable
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from segic_jax.data.disk_cache import cached_folder, file_version
from segic_jax.data.masks import as_polygon, decode
from segic_jax.errors import DataError

FORMAT = 1  # of the arrays
CATEGORIES = "categories.json"
POLYGONS, COUNTS, TEXT, BOX = range(4)  # kinds of masks


class CocoArrays:
    """Give the masks of each image; images are numbered by ascending id, objects are in the file's order."""

    def __init__(self, path: Path, *, boxes: bool = False):
        """Read the file, or the arrays that an earlier call made of it.

        Args:
            boxes: take each object's box as its mask.

        Raises:
            DataError: the file is missing, damaged, or not in COCO's format.
        """
        self.path = path
        version = [FORMAT, boxes, *file_version(path)]
        self._folder = cached_folder("annotations", version, lambda folder: _write(folder, path, boxes))
        stored = json.loads((self._folder / CATEGORIES).read_text("utf-8"))
        self.categories: dict[int, str] = dict(map(tuple, stored))

    def __getstate__(self) -> dict:
        return {name: self.__dict__[name] for name in ("path", "_folder", "categories")}

    def images_with_objects(self, without: Collection[int] = ()) -> Int[np.ndarray, " images"]:
        """Return the numbers of the images with an object of a category that is not in `without`."""
        counts = np.append(0, np.cumsum(~np.isin(self._arrays["category"], list(without))))
        ends = counts[self._arrays["first"]]
        return np.flatnonzero(ends[1:] > ends[:-1]).astype(np.int32)

    def file_name(self, image: int) -> str:
        """Return an image's file name; for LVIS, which has none, folder and file at the end of its URL."""
        return bytes(self._arrays["name"][image]).decode("utf-8")

    def masks(self, image: int, without: Collection[int] = ()) -> Bool[np.ndarray, "objects height width"]:
        """Return a mask for each object whose category is not in `without`; masks may overlap.

        Raises:
            DataError: a segmentation that makes no mask.
        """
        arrays = self._arrays
        height, width = arrays["size"][image].tolist()
        numbers = [
            number
            for number in range(*arrays["first"][image : image + 2].tolist())
            if int(arrays["category"][number]) not in without
        ]
        masks = np.zeros((len(numbers), height, width), bool)
        try:
            for number, mask in zip(numbers, masks, strict=True):
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
        polygons = [np.frombuffer(part) for part in parts]
        return polygons if kind == POLYGONS else [_corners(*polygons[0])]


class _Object(NamedTuple):
    """Hold an annotation with its numbers packed."""

    image: int
    category: int
    kind: int
    parts: list[bytes]
    size: list[int] | None  # of run lengths


def _write(folder: Path, path: Path, boxes: bool) -> None:
    content = _read(path, boxes)
    try:
        images = {int(image["id"]): image for image in content["images"]}
        order = sorted(images)
        sizes = np.array([(images[i]["height"], images[i]["width"]) for i in order], np.int32).reshape(-1, 2)
        names = np.array([_file_name(images[i]).encode() for i in order], bytes)
        categories = sorted((int(item["id"]), str(item["name"])) for item in content["categories"])
        objects: list[_Object] = content["annotations"]
        if not all(isinstance(item, _Object) for item in objects):
            raise KeyError("image_id, category_id and " + ("bbox" if boxes else "segmentation"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is not in COCO's format ({error!r}): it needs images, annotations and categories."
        ) from error
    if not objects:
        raise DataError(f"{path} has no annotation: get the file again.")
    place = {image: number for number, image in enumerate(order)}
    category_ids = {number for number, _ in categories}
    for item in objects:
        if item.image not in place or item.category not in category_ids:
            raise DataError(
                f"{path} has an annotation of image {item.image} and class {item.category}, which it does "
                "not list: get the file again."
            )
        if item.size is not None and list(item.size) != sizes[place[item.image]].tolist():
            raise DataError(f"{path}, image {item.image}: a mask has another size; get the file again.")
    objects.sort(key=lambda item: place[item.image])
    places = np.array([place[item.image] for item in objects], np.int64)
    parts = (part for item in objects for part in item.parts)
    arrays = {
        "name": names,
        "size": sizes,
        "first": np.searchsorted(places, np.arange(len(order) + 1)),
        "category": np.array([item.category for item in objects], np.int32),
        "kind": np.array([item.kind for item in objects], np.int8),
        "part": _ends(len(item.parts) for item in objects),
        "start": _ends(len(part) for item in objects for part in item.parts),
        "content": np.frombuffer(
            b"".join(chain(parts, [b" "])), np.uint8
        ),  # an empty array could not be mapped
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / CATEGORIES).write_text(json.dumps(categories), "utf-8")


def _read(path: Path, boxes: bool) -> dict:
    """Read the JSON and pack each annotation at once: as Python numbers those of LVIS fill 10 GB."""

    def pack(item: dict) -> Any:
        if "image_id" in item and "category_id" in item and ("bbox" if boxes else "segmentation") in item:
            kind, parts, size = _packed_box(item["bbox"]) if boxes else _packed(item["segmentation"])
            return _Object(int(item["image_id"]), int(item["category_id"]), kind, parts, size)
        return item

    try:
        content = json.loads(path.read_bytes(), object_hook=pack)
    except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise DataError(f"{path} is damaged or not JSON ({error}): get the file again.") from error
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
