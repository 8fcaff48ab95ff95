"""Read COCO's annotation files: which classes are on which images, and their masks.

A file is read once with the standard library; annotations are kept by image, polygons as arrays.
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from segic_jax.data.masks import as_polygon, decode, union
from segic_jax.errors import DataError, InputWarning

LISTED = 5  # annotations in a warning


class CocoJson:
    """Hold the content of an `instances_*.json`, or of a file of the same form."""

    def __init__(self, path: Path | str, *, skip_invalid: bool = False):
        """Read the file.

        Args:
            skip_invalid: use the good annotations of a file of one's own, with an InputWarning about the
                others; a benchmark's file must be complete.

        Raises:
            DataError: it is missing, is not JSON, or lacks one of the three lists of COCO's format; or an
                annotation is invalid.
        """
        self.path = Path(path)
        try:
            content = json.loads(self.path.read_bytes())
        except FileNotFoundError as error:
            raise DataError(f"{path} is missing: get COCO's annotations.") from error
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is damaged or not JSON: get the file again.") from error
        self.images: dict[int, str] = {}  # image id -> file name
        self.sizes: dict[int, tuple[int, int]] = {}  # image id -> (height, width)
        # image id -> class, segmentation, and whether it is a crowd
        self._annotations: dict[int, list[tuple[int, object, bool]]] = {}
        self._images: dict[int, set[int]] = {}
        first: dict[str, int] = {}  # file name -> the first image id that has it
        skipped: list[str] = []
        try:
            names = {int(category["id"]): str(category["name"]) for category in content["categories"]}
            self.categories = dict(sorted(names.items()))
            same = {}  # image id -> the id of the same image
            for image in content["images"]:
                name = _file_name(image)
                same[image["id"]] = first.setdefault(name, image["id"]) if skip_invalid else image["id"]
                if same[image["id"]] == image["id"]:
                    self.images[image["id"]] = name
                    self.sizes[image["id"]] = int(image["height"]), int(image["width"])
            for number, annotation in enumerate(content["annotations"], 1):
                try:
                    image = same.get(annotation["image_id"], annotation["image_id"])
                    class_id = int(annotation["category_id"])
                    segmentation = self._segmentation(annotation, image, class_id, skip_invalid)
                except (DataError, KeyError, TypeError, ValueError) as error:
                    if not skip_invalid:
                        raise
                    is_missing = isinstance(error, KeyError)
                    what = f" has no {error}" if is_missing else f": {str(error).rstrip('.')}"
                    skipped.append(f"number {number}{what}")
                    continue
                crowd = bool(annotation.get("iscrowd", 0))
                self._annotations.setdefault(image, []).append((class_id, segmentation, crowd))
                self._images.setdefault(class_id, set()).add(image)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{path} is not in COCO's format ({error!r}): it needs images with id, file_name, height and "
                "width, annotations, and categories with id and name."
            ) from error
        if skipped:
            more = "" if len(skipped) <= LISTED else f"; and {len(skipped) - LISTED} more"
            warnings.warn(
                f"{path}: {len(skipped)} of {len(content['annotations'])} annotations are left out: "
                f"{'; '.join(skipped[:LISTED])}{more}.",
                InputWarning,
                stacklevel=2,
            )

    def _segmentation(self, annotation: dict, image: int, class_id: int, skip_invalid: bool) -> Any:
        """Return an annotation's segmentation, its polygons as arrays.

        Raises:
            DataError: its image or class is not listed, without `skip_invalid`.
            KeyError: it has no segmentation.
            ValueError: it cannot be a mask; with `skip_invalid` also one that marks no pixel, or of an image
                or class that is not listed.
        """
        if image not in self.images or class_id not in self.categories:
            of = f"of image {image} and class {class_id}"
            if skip_invalid:
                raise ValueError(f"it is {of}, which are not listed")
            raise DataError(f"{self.path} has an annotation {of}, which it does not list: get it again.")
        segmentation = annotation["segmentation"]
        if not skip_invalid:
            # As Python numbers they would fill gigabytes.
            is_list = isinstance(segmentation, list)
            return [as_polygon(points) for points in segmentation] if is_list else segmentation
        if isinstance(segmentation, list):
            flat = segmentation and not isinstance(segmentation[0], list)
            polygons = [as_polygon(points) for points in ([segmentation] if flat else segmentation)]
            if polygons and not (large := [points for points in polygons if points.size >= 6]):
                raise ValueError("a polygon needs three points")
            segmentation = large if polygons else []
        if not decode(segmentation, *self.sizes[image]).any():
            raise ValueError("it marks no pixel")
        return segmentation

    def image_ids(self, category_id: int) -> Sequence[int]:
        """Return the ids of the images with this class, sorted."""
        return sorted(self._images.get(category_id, ()))

    def classes_of_images(self) -> dict[int, set[int]]:
        """Return the classes of each image with annotations, by image id."""
        return {image: {item[0] for item in items} for image, items in self._annotations.items()}

    def mask(self, image_id: int, category_id: int) -> Bool[np.ndarray, "height width"]:
        """Return the union of all objects of a class, crowds included.

        Raises:
            DataError: a segmentation that makes no mask.
        """
        try:
            return union(self._segmentations(image_id, category_id), *self.sizes[image_id])
        except ValueError as error:
            raise DataError(f"{self.path}, image {image_id}: {error}; get the file again.") from error

    def instances(
        self, image_id: int, category_id: int | None = None
    ) -> Bool[np.ndarray, "objects height width"]:
        """Return a mask for each annotation, in the file's order; of all classes if none is given."""
        size = self.sizes[image_id]
        try:
            masks = [decode(item, *size) for item in self._segmentations(image_id, category_id)]
        except ValueError as error:
            raise DataError(f"{self.path}, image {image_id}: {error}; get the file again.") from error
        return np.stack(masks) if masks else np.zeros((0, *size), bool)

    def crowds(self, image_id: int, category_id: int) -> list[bool]:
        """Say of each of the `instances` of a class whether it is a crowd: several objects in one mask."""
        return [
            crowd for class_id, _, crowd in self._annotations.get(image_id, ()) if class_id == category_id
        ]

    def _segmentations(self, image_id: int, category_id: int | None) -> list:
        items = self._annotations.get(image_id, ())
        return [segmentation for class_id, segmentation, _ in items if category_id in (None, class_id)]


def _file_name(image: dict) -> str:
    """Return COCO's `file_name`; LVIS has only a URL, whose last two parts are folder and file."""
    if "file_name" in image:
        return str(image["file_name"]).replace("\\", "/")  # as Windows writes it
    return "/".join(str(image["coco_url"]).split("/")[-2:])
