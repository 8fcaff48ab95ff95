"""Decode COCO segmentations to masks and encode masks, with pycocotools.

A segmentation is a list of polygons [x, y, x, y, ...] in pixels, or run lengths down the columns: {"size":
[height, width], "counts": a list of numbers, or COCO's compressed form of them as str or bytes}.
"""

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Shaped, UInt8

_COUNTS = re.compile(rb"[0-o]*[0-O]")  # the last digit of a number has no continuation bit


def fit_to_image(
    mask: Shaped[np.ndarray, "mask_height mask_width"],
    image: UInt8[np.ndarray, "height width 3"],
    mask_path: Path | str,
    image_path: Path | str,
) -> tuple[Shaped[np.ndarray, "height width"], str]:
    """Resize a mask or label map of another size than its image, nearest pixel, as the field's readers do.

    Returns:
        The mask at the image's size, and a sentence about the resize, or "" if there was nothing to do.
    """
    if mask.shape == image.shape[:2]:
        return mask, ""
    height, width = image.shape[:2]
    note = (
        f"{mask_path} is {mask.shape[1]} x {mask.shape[0]} pixels, {image_path} {width} x {height}: the mask "
        "is resized to the image, nearest pixel."
    )
    return resize_nearest(mask, height, width), note


def resize_nearest(
    mask: Shaped[np.ndarray, "height width"], rows: int, columns: int
) -> Shaped[np.ndarray, "rows columns"]:
    """Resize as torch's `interpolate(mode="nearest")`: index floor(i * in / out), in float32."""
    row, column = (
        np.minimum(
            np.floor(np.arange(size, dtype=np.float32) * (np.float32(side) / np.float32(size))), side - 1
        ).astype(np.intp)
        for side, size in zip(mask.shape, (rows, columns), strict=True)
    )
    return mask[row[:, None], column]


def decode(segmentation: Any, height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """Decode polygons, as their union, or run lengths, as the official loaders rasterise them.

    An empty list gives an empty mask. An array is taken as the mask itself.

    Raises:
        ValueError: the segmentation is of another kind or size, or its numbers are invalid.
    """
    if isinstance(segmentation, np.ndarray) and segmentation.ndim == 2:
        _require_size(segmentation.shape, height, width)
        return segmentation != 0
    if isinstance(segmentation, dict):
        return _run_lengths(segmentation, height, width)
    if not isinstance(segmentation, list):
        raise ValueError(f"a segmentation is polygons or run lengths, not {type(segmentation).__name__}")
    if not segmentation:
        return np.zeros((height, width), bool)
    return _polygons([as_polygon(points) for points in segmentation], height, width)


def encode(mask: Bool[np.ndarray, "height width"]) -> dict:
    """Return the mask as COCO's compressed run lengths: {"size": [height, width], "counts": str}."""
    from pycocotools import mask as coco

    height, width = mask.shape
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    # Down the columns of the box, each with an empty pixel below, so that runs end in their column.
    flat = np.zeros(1 + w * (h + 1), bool)
    flat[1:].reshape(w, h + 1)[:, :h] = mask[y : y + h, x : x + w].T
    column, row = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]), h + 1)
    edges, times = np.unique((x + column) * height + y + row, return_counts=True)
    edges = edges[times == 1]  # a run that ends where the next column's begins is one run
    counts = np.diff(edges, prepend=0, append=height * width).tolist()
    if len(counts) > 1 and not counts[-1]:
        counts.pop()
    rle = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": str(rle["counts"], "ascii")}


def union(segmentations: list, height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """Return the union of several segmentations. Raises ValueError as `decode` does."""
    mask = np.zeros((height, width), bool)
    for segmentation in segmentations:
        mask |= decode(segmentation, height, width)
    return mask


def stated_size(segmentations: list, height: int, width: int) -> tuple[int, int]:
    """Return the (height, width) that run lengths and arrays state; polygons have that of the image.

    Raises:
        ValueError: they state several sizes.
    """
    sizes = {_size_of(segmentation, height, width) for segmentation in segmentations}
    if len(sizes) > 1:
        raise ValueError(f"masks of several sizes, {sorted(sizes)}")
    return sizes.pop() if sizes else (height, width)


def _size_of(segmentation: Any, height: int, width: int) -> tuple[int, int]:
    if isinstance(segmentation, np.ndarray):
        return segmentation.shape[0], segmentation.shape[-1]
    size = segmentation.get("size") if isinstance(segmentation, dict) else None
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return size[0], size[1]
    return height, width  # also of run lengths without a size, which cannot be decoded


def crop_to_box(
    image: UInt8[np.ndarray, "height width 3"],
    segmentations: list,
    rows: slice,
    columns: slice,
    what: str,
) -> tuple[UInt8[np.ndarray, "rows columns 3"], Bool[np.ndarray, "rows columns"], str]:
    """Return the image in a box, the union of masks in it, and how a defect was handled, as Matcher does.

    A box is clipped to the image. Masks that state another size than the image are cropped by the same
    numbers, and the crop is resized to that of the image, nearest pixel.

    Args:
        what: the masks, to begin a sentence with.

    Raises:
        ValueError: a segmentation is invalid, or the box holds nothing of the image or the masks.
    """
    height, width = image.shape[:2]
    size = stated_size(segmentations, height, width)
    crop, mask = image[rows, columns], union(segmentations, *size)[rows, columns]
    if not crop.size or not mask.size:
        raise ValueError("the box holds nothing of the image")
    note = ""
    if size != (height, width):
        note = (
            f"{what}: the mask is {size[1]} x {size[0]} pixels, the image {width} x {height}: what the box "
            "holds of the mask is resized to the image's, nearest pixel."
        )
        mask = resize_nearest(mask, *crop.shape[:2])
    elif not mask.any():
        note = (
            f"{what}: no pixel of the mask is in the box: the mask is empty, as the field's readers take it."
        )
    return np.ascontiguousarray(crop), mask, note


def as_polygon(points: Any) -> Float64[np.ndarray, " numbers"]:
    """Return a flat list of numbers as an array; raise ValueError for anything else."""
    if not isinstance(points, np.ndarray) and not (
        isinstance(points, list) and set(map(type, points)) <= {int, float, np.float64, np.float32}
    ):
        raise ValueError("a polygon is a flat list of numbers")
    try:
        points = np.asarray(points, np.float64)
    except (OverflowError, TypeError) as error:
        raise ValueError("a polygon of numbers beyond all images") from error
    if points.ndim != 1 or not np.isfinite(points).all():
        raise ValueError("a polygon is a flat list of finite numbers")
    return points


def _polygons(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    from pycocotools import mask as coco

    # The library follows each edge pixel by pixel: distant points would need unlimited memory.
    reach = 2 * max(height, width)
    # The library takes a first polygon of four numbers for a box, which has another form.
    too_few = polygons[0].size < 6 or any(points.size < 4 for points in polygons)
    if too_few or any(np.abs(points).max() > reach for points in polygons):
        raise ValueError("a polygon of too few points, or far outside its image")
    try:
        return coco.decode(
            coco.merge(coco.frPyObjects([points.tolist() for points in polygons], height, width))
        ).astype(bool)
    except Exception as error:  # the library raises nearly anything, also a bare Exception
        raise ValueError(f"polygons that are not a mask ({error})") from error


def _run_lengths(segmentation: dict, height: int, width: int) -> np.ndarray:
    from pycocotools import mask as coco

    counts = segmentation.get("counts")
    _require_size(segmentation.get("size"), height, width)
    try:
        if isinstance(counts, (list, np.ndarray)):
            numbers: Any = {"size": [height, width], "counts": counts}
            counts = coco.frPyObjects(numbers, height, width)["counts"]
        counts = counts.encode("ascii") if isinstance(counts, str) else bytes(counts)
        if not _COUNTS.fullmatch(counts):
            raise ValueError("characters that are not run lengths")
        mask = coco.decode({"size": [height, width], "counts": counts}).astype(bool)
    except Exception as error:
        raise ValueError(f"run lengths that are not a mask ({error})") from error
    # The library refuses too many pixels, but leaves missing ones uninitialised. Too few are detected by
    # decoding into one pixel less.
    try:
        coco.decode({"size": [1, height * width - 1], "counts": counts})
    except ValueError:
        return mask
    raise ValueError("run lengths that end before the image does")


def _require_size(size: Any, height: int, width: int) -> None:
    if not isinstance(size, (list, tuple)) or tuple(size) != (height, width) or not height * width:
        raise ValueError(f"the mask's size is {size}, the image's [{height}, {width}]")
