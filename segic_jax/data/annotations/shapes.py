"""Draw the shapes of labelling tools: polygons, boxes, ellipses, run lengths.

Tools do not agree on which pixels a polygon has. `CORNERS` are coordinates between pixels, as COCO's library
fills them. `LABELME` and `INDICES` are coordinates of pixels, whose outline belongs to the object: as
labelme draws them with Pillow, and as YOLO's tools draw them with OpenCV.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float64
from PIL import Image, ImageDraw

from segic_jax.data import masks
from segic_jax.errors import DataError, InputWarning

CORNERS, LABELME, INDICES = "corners", "labelme", "indices"
OUTSIDE = 1.0  # pixels that a shape may reach beyond the image without a word
CROSSING = 0.05  # share of a polygon that may be inside or outside where it crosses itself
ELLIPSE = 72  # points

Points = Float[np.ndarray, "_ 2"]
Mask = Bool[np.ndarray, "height width"]


def as_points(values: Any, what: str) -> Points:
    """Return [[x, y], ...] or a flat list as an array of points; there may be none.

    Raises:
        DataError: the values are no points.
    """
    try:
        points = np.asarray(values, np.float64)
        points = points.reshape(-1, 2) if points.ndim == 1 else points
    except (ValueError, TypeError, OverflowError):
        points = np.zeros((1, 3))
    if points.size == 0:
        return np.zeros((0, 2))
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise DataError(f"{what} has points that are not pairs of numbers: draw it again.")
    return points


def draw_polygon(points: Points, height: int, width: int, what: str, rule: str = CORNERS) -> Mask:
    """Return the pixels of a polygon, which is empty with fewer than three different points.

    Raises:
        DataError: it lies outside of the image, has relative coordinates, or crosses itself so that what is
            inside is not clear.
    """
    if len(np.unique(points, axis=0)) < 3:
        return np.zeros((height, width), bool)
    require_pixels(points, height, width, what)
    points = clip_polygon(points, height, width, what)
    if len(points) < 3:
        return np.zeros((height, width), bool)
    mask = fill_polygon(points, height, width, rule)
    _require_simple(points, mask, what)
    return mask


def fill_polygon(points: Points, height: int, width: int, rule: str = CORNERS) -> Mask:
    """Fill a polygon that lies on the image."""
    if rule == LABELME:
        image = Image.new("L", (width, height))
        ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in points], fill=1, outline=1)
        return np.asarray(image).astype(bool)
    if rule == INDICES:
        mask = np.zeros((height, width), np.uint8)
        # A pixel's number may have been rounded down a little when it was divided by the size.
        cv2.fillPoly(mask, [np.floor(points + 0.05).astype(np.int32)], 1)
        return mask.astype(bool)
    return masks.decode([points.ravel()], height, width)


def draw_box(x0: float, y0: float, x1: float, y1: float, height: int, width: int, what: str) -> Mask:
    """Return the pixels that a box touches; x1 and y1 are its right and lower edge.

    Raises:
        DataError: it lies outside of the image, or has relative coordinates.
    """
    corners = as_points([[x0, y0], [x1, y1]], what)
    mask = np.zeros((height, width), bool)
    if x1 <= x0 or y1 <= y0:
        return mask
    require_pixels(corners, height, width, what)
    _require_on_image(corners, height, width, what)
    left, top = (max(0, int(np.floor(value + 1e-6))) for value in (x0, y0))
    mask[top : int(np.ceil(y1 - 1e-6)), left : int(np.ceil(x1 - 1e-6))] = True
    return mask


def turned_box(x0: float, y0: float, x1: float, y1: float, degrees: float, pivot: Sequence[float]) -> Points:
    """Return the corners of a box that is turned clockwise around a pivot."""
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)
    return _turn(corners, degrees, pivot)


def ellipse_points(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0) -> Points:
    """Return an ellipse around (x, y) as a polygon; it is turned clockwise."""
    angle = np.linspace(0, 2 * np.pi, ELLIPSE, endpoint=False)
    # Of the same area as the ellipse, not inside it.
    grow = np.sqrt(2 * np.pi / (ELLIPSE * np.sin(2 * np.pi / ELLIPSE)))
    points = np.stack([x + grow * radius_x * np.cos(angle), y + grow * radius_y * np.sin(angle)], -1)
    return _turn(points, degrees, (x, y))


def paste(
    patch: Bool[np.ndarray, "rows columns"], left: int, top: int, height: int, width: int, what: str
) -> Mask:
    """Return an image's mask with a patch at (left, top); what lies beyond the image is cut off.

    Raises:
        DataError: the patch lies outside of the image.
    """
    mask = np.zeros((height, width), bool)
    rows, columns = patch.shape
    corners = np.array([[left, top], [left + columns, top + rows]], np.float64)
    _require_on_image(corners, height, width, what)
    y0, x0 = max(0, top), max(0, left)
    mask[y0 : top + rows, x0 : left + columns] = patch[y0 - top :, x0 - left :][: height - y0, : width - x0]
    return mask


def require_pixels(points: Points, height: int, width: int, what: str) -> None:
    """Raise DataError for coordinates relative to the image's size in a format that has pixels."""
    if points.min() >= 0 and points.max() <= 1 and (points != np.rint(points)).any():
        raise DataError(
            f"{what} has coordinates of 0 to 1, which are no pixels: multiply x by the image's width, "
            f"{width}, and y by its height, {height}."
        )


def clip_polygon(points: Points, height: int, width: int, what: str) -> Points:
    """Cut off what lies beyond the image, with an InputWarning if that is more than a rounding.

    Raises:
        DataError: nothing is left.
    """
    _require_on_image(points, height, width, what)
    for axis, limit, keep_below in ((0, 0, False), (0, width, True), (1, 0, False), (1, height, True)):
        inside = points[:, axis] <= limit if keep_below else points[:, axis] >= limit
        if inside.all():
            continue
        clipped = []
        for i in range(len(points)):
            start, end = points[i - 1], points[i]
            if inside[i - 1] != inside[i]:
                share = (limit - start[axis]) / (end[axis] - start[axis])
                crossing = start + share * (end - start)
                crossing[axis] = limit
                clipped.append(crossing)
            if inside[i]:
                clipped.append(end)
        points = np.array(clipped, np.float64).reshape(-1, 2)
        if not len(points):
            break
    return points


def _require_on_image(points: Float64[np.ndarray, "_ 2"], height: int, width: int, what: str) -> None:
    """Raise DataError for a shape outside of the image; warn about one that reaches beyond it."""
    low, high = points.min(0), points.max(0)
    if (high <= 0).any() or low[0] >= width or low[1] >= height:
        raise DataError(
            f"{what} lies outside of its image of {width} x {height} pixels (x {low[0]:g} to {high[0]:g}, "
            f"y {low[1]:g} to {high[1]:g}): is it the right image, at its original size?"
        )
    beyond = max(-low.min(), high[0] - width, high[1] - height)
    if beyond > OUTSIDE:
        warnings.warn(
            f"{what} reaches {beyond:.0f} pixels beyond its image of {width} x {height}, where it is cut "
            "off: is it the right image, at its original size?",
            InputWarning,
            stacklevel=2,
        )


def _require_simple(points: Points, mask: Mask, what: str) -> None:
    """Raise DataError if a polygon crosses itself so that its area is not what its outline encloses.

    The signed area of an outline and the filled one agree but for where parts cancel or are enclosed twice.
    """
    x, y = points.T
    enclosed = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    perimeter = np.hypot(*(points - np.roll(points, -1, 0)).T).sum()
    filled = mask.sum()
    if abs(filled - enclosed) > CROSSING * max(filled, enclosed) + perimeter:
        raise DataError(
            f"{what} crosses itself, so that it is not clear what lies inside ({filled} or "
            f"{enclosed:.0f} pixels): correct the order of its points."
        )


def _turn(points: Points, degrees: float, pivot: Sequence[float]) -> Points:
    if not degrees:
        return points
    sin, cos = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    return (points - pivot) @ np.array([[cos, sin], [-sin, cos]]) + pivot
