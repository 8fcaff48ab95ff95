"""Read and write "CVAT for images 1.1": one XML file with the shapes of all images."""

import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from segic_jax.data.annotations.outlines import Outline, outlines
from segic_jax.data.annotations.paths import common_folder, relative_name
from segic_jax.data.annotations.shapes import (
    as_points,
    draw_box,
    draw_polygon,
    ellipse_points,
    paste,
    turned_box,
)
from segic_jax.data.annotations.types import AnnotatedImage, Annotation, Format, LabelledImage, warn_left_out
from segic_jax.errors import DataError
from segic_jax.runtime.atomic_write import atomic_write, make_folder

WITHOUT_AREA = ("points", "polyline", "cuboid", "skeleton", "tag")


def matches(content: Any) -> bool:
    """Return whether this is an XML file of CVAT."""
    return isinstance(content, ET.Element) and content.tag == "annotations"


def read(path: Path, content: ET.Element) -> list[AnnotatedImage]:
    """Read the shapes by image.

    Raises:
        DataError: the file is one of a video, or damaged.
    """
    if content.find("track") is not None:
        raise DataError(f"{path} is in CVAT's format for videos: export it as 'CVAT for images 1.1'.")
    images, left_out, count = [], [], 0
    for image in content.iter("image"):
        # A project keeps the images of each subset in a folder.
        name = "/".join(filter(None, (image.get("subset"), image.get("name", "").replace("\\", "/"))))
        annotations = []
        for number, shape in enumerate(image, 1):
            count += 1
            label = shape.get("label", "").strip()
            short = f"{shape.tag} {number} ('{label}') of image {name}"
            if shape.tag in WITHOUT_AREA:
                left_out.append(f"{short} has no area")
            elif shape.tag not in _DRAW:
                left_out.append(f"{short} is of an unknown kind")
            else:
                what = f"{path}, {short}"
                annotations.append(Annotation(label, what, partial(_draw, shape, what)))
        images.append(AnnotatedImage(path, name, tuple(annotations), _size(image, f"{path}, image {name}")))
    warn_left_out(path, count, left_out)
    return images


def _size(image: ET.Element, what: str) -> tuple[int, int]:
    height, width = (image.get(key, "") for key in ("height", "width"))
    if not (height.isdecimal() and width.isdecimal()):
        raise DataError(f"{what} has no width and height: export it again from CVAT.")
    return int(height), int(width)


def _draw(shape: ET.Element, what: str, height: int, width: int) -> Bool[np.ndarray, "height width"]:
    try:
        return _DRAW[shape.tag](shape.attrib, what, height, width)
    except (KeyError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{what} is damaged ({error}): export it again from CVAT.") from error


def _polygon(values: dict[str, str], what: str, height: int, width: int) -> np.ndarray:
    pairs = [pair.split(",") for pair in values["points"].split(";") if pair.strip()]
    return draw_polygon(as_points(pairs, what), height, width, what)


def _box(values: dict[str, str], what: str, height: int, width: int) -> np.ndarray:
    x0, y0, x1, y1 = (float(values[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
    if rotation := float(values.get("rotation", 0)):
        corners = turned_box(x0, y0, x1, y1, rotation, ((x0 + x1) / 2, (y0 + y1) / 2))
        return draw_polygon(corners, height, width, what)
    return draw_box(x0, y0, x1, y1, height, width, what)


def _ellipse(values: dict[str, str], what: str, height: int, width: int) -> np.ndarray:
    x, y, radius_x, radius_y = (float(values[key]) for key in ("cx", "cy", "rx", "ry"))
    points = ellipse_points(x, y, radius_x, radius_y, float(values.get("rotation", 0)))
    return draw_polygon(points, height, width, what)


def _mask(values: dict[str, str], what: str, height: int, width: int) -> np.ndarray:
    """Decode runs along the rows of the mask's box, the first of them outside."""
    left, top, columns, rows = (int(float(values[key])) for key in ("left", "top", "width", "height"))
    counts = np.array([int(run) for run in values["rle"].split(",")], np.int64)
    if (counts < 0).any() or counts.sum() != columns * rows:
        raise DataError(
            f"{what} has run lengths of {counts.sum()} pixels for a box of {columns} x {rows}: export it "
            "again from CVAT."
        )
    patch = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(rows, columns)
    return paste(patch, left, top, height, width, what)


_DRAW: dict[str, Callable[[dict[str, str], str, int, int], np.ndarray]] = {
    "polygon": _polygon,
    "box": _box,
    "ellipse": _ellipse,
    "mask": _mask,
}


def write(folder: Path, labels: Sequence[str], images: Sequence[LabelledImage]) -> Path:
    """Write annotations.xml; a region with holes is a mask, every other one a polygon."""
    make_folder(folder)
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = "1.1"
    task = ET.SubElement(ET.SubElement(root, "meta"), "task")
    for key, value in (("size", str(len(images))), ("mode", "annotation")):
        ET.SubElement(task, key).text = value
    listed = ET.SubElement(task, "labels")
    for label in labels:
        element = ET.SubElement(listed, "label")
        ET.SubElement(element, "name").text = label
        ET.SubElement(element, "attributes")
    common = common_folder(images)
    for number, image in enumerate(images):
        name, (height, width) = relative_name(image.path, common), image.size
        values = {"id": str(number), "name": name, "width": str(width), "height": str(height)}
        element = ET.SubElement(root, "image", values)
        for region in image.regions():
            for outline in outlines(region.mask):
                _add_shape(element, region.label, outline)
    ET.indent(root)
    atomic_write(folder / "annotations.xml", ET.tostring(root, "utf-8", xml_declaration=True))
    return folder / "annotations.xml"


def _add_shape(image: ET.Element, label: str, outline: Outline) -> None:
    common = {"label": label, "source": "auto", "occluded": "0"}
    if outline.points is not None:
        points = ";".join(f"{x:.2f},{y:.2f}" for x, y in outline.points)
        ET.SubElement(image, "polygon", common | {"points": points, "z_order": "0"})
        return
    rows, columns = outline.mask.shape
    flat = outline.mask.ravel()
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    runs = ", ".join(map(str, np.diff(edges, prepend=0, append=flat.size).tolist()))
    box = {"left": outline.left, "top": outline.top, "width": columns, "height": rows}
    values = common | {"rle": runs} | {key: str(value) for key, value in box.items()}
    ET.SubElement(image, "mask", values | {"z_order": "0"})


FORMAT = Format("cvat", "CVAT for images", ".xml", matches, read, write=write)
