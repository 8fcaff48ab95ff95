"""Read PASCAL VOC's XML, a file of boxes for each image, as LabelImg, Roboflow and labelme write it."""

import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from segic_jax.data.annotations.shapes import as_points, draw_box
from segic_jax.data.annotations.types import AnnotatedImage, Annotation, warn_left_out

SIDES = ("xmin", "ymin", "xmax", "ymax")


def matches(content: Any) -> bool:
    """Return whether this is an XML file of PASCAL VOC."""
    tagged = isinstance(content, ET.Element) and content.tag == "annotation"
    return tagged and any(content.find(tag) is not None for tag in ("filename", "size", "object"))


def read(path: Path, content: ET.Element) -> list[AnnotatedImage]:
    """Read the boxes of the image.

    Raises:
        DataError: a box is damaged.
    """
    name = (content.findtext("filename") or path.stem).strip().replace("\\", "/")
    annotations, left_out = [], []
    objects = content.findall("object")
    for number, item in enumerate(objects, 1):
        label = (item.findtext("name") or "").strip()
        short = f"object {number} ('{label}')"
        box = item.find("bndbox")
        if box is None:
            left_out.append(f"{short} has no box")
            continue
        what = f"{path}, {short}"
        corners = as_points([box.findtext(side) for side in SIDES], what)
        annotations.append(Annotation(label, what, partial(_draw, corners, what)))
    warn_left_out(path, len(objects), left_out)
    height, width = (int(content.findtext(f"size/{side}") or 0) for side in ("height", "width"))
    # Some tools write a size of 0.
    return [AnnotatedImage(path, name, tuple(annotations), (height, width) if height and width else None)]


def _draw(corners: np.ndarray, what: str, height: int, width: int) -> Bool[np.ndarray, "height width"]:
    (x0, y0), (x1, y1) = corners.tolist()
    return draw_box(x0, y0, x1, y1, height, width, what)
