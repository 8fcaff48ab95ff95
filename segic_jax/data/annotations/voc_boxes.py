"""Read PASCAL VOC's XML, a file for each image, as LabelImg, Roboflow and labelme write it.

An object has a box, and with some tools a polygon, which counts. The XML of the LabelMe web tool, which CVAT
exports as well, has the same structure.
"""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from segic_jax.data.annotations.shapes import Points, as_points, draw_box, draw_polygon
from segic_jax.data.annotations.types import AnnotatedImage, Annotation, warn_left_out

SIDES = ("xmin", "ymin", "xmax", "ymax")


def matches(content: Any) -> bool:
    """Return whether this is an XML file of PASCAL VOC."""
    tagged = isinstance(content, ET.Element) and content.tag == "annotation"
    return tagged and any(content.find(tag) is not None for tag in ("filename", "size", "object"))


def read(path: Path, content: ET.Element) -> list[AnnotatedImage]:
    """Read the polygons of the image, and the boxes of objects without one.

    Raises:
        DataError: a polygon or a box is damaged.
    """
    name = (content.findtext("filename") or path.stem).strip().replace("\\", "/")
    annotations, left_out = [], []
    objects = content.findall("object")
    for number, item in enumerate(objects, 1):
        label = (item.findtext("name") or "").strip()
        short = f"object {number} ('{label}')"
        what, box, polygons = f"{path}, {short}", item.find("bndbox"), item.findall("polygon")
        if item.findtext("deleted") == "1":
            continue
        if polygons:
            points = [as_points(_flat(polygon), what) for polygon in polygons]
            annotations.append(Annotation(label, what, partial(_draw_polygons, points, what)))
            continue
        if box is None:
            left_out.append(f"{short} has neither box nor polygon")
            continue
        corners = as_points([box.findtext(side) for side in SIDES], what)
        annotations.append(Annotation(label, what, partial(_draw, corners, what)))
    warn_left_out(path, len(objects), left_out)
    sides = (("size/height", "imagesize/nrows"), ("size/width", "imagesize/ncols"))
    height, width = (int(content.findtext(a) or content.findtext(b) or 0) for a, b in sides)
    # Some tools write a size of 0.
    return [AnnotatedImage(path, name, tuple(annotations), (height, width) if height and width else None)]


def _flat(polygon: ET.Element) -> list[str | None]:
    """Return x, y, x, y, ... of <pt><x/><y/></pt> or of <x1/><y1/><x2/><y2/>."""
    if points := polygon.findall("pt"):
        return [point.findtext(axis) for point in points for axis in "xy"]
    count = sum(child.tag.startswith("x") for child in polygon)
    return [polygon.findtext(f"{axis}{number}") for number in range(1, count + 1) for axis in "xy"]


def _draw_polygons(
    polygons: Sequence[Points], what: str, height: int, width: int
) -> Bool[np.ndarray, "height width"]:
    mask = np.zeros((height, width), bool)
    for points in polygons:
        mask |= draw_polygon(points, height, width, what)
    return mask


def _draw(corners: np.ndarray, what: str, height: int, width: int) -> Bool[np.ndarray, "height width"]:
    (x0, y0), (x1, y1) = corners.tolist()
    return draw_box(x0, y0, x1, y1, height, width, what)
