"""Read the JSON of the VGG Image Annotator (VIA), versions 1 and 2: a project, or its annotations."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from segic_jax.data.annotations.shapes import as_points, draw_box, draw_polygon, ellipse_points
from segic_jax.data.annotations.types import AnnotatedImage, Annotation, Format, list_names, warn_left_out
from segic_jax.errors import DataError

WITHOUT_AREA = ("point", "polyline", "line")
NAMES = ("label", "class", "category", "name", "type", "object")  # attributes that hold the label, if several


def matches(content: Any) -> bool:
    """Return whether this is a project or an export of VIA."""
    if not isinstance(content, dict):
        return False
    if "_via_img_metadata" in content:
        return True
    return bool(content) and all(
        isinstance(entry, dict) and {"filename", "regions"} <= set(entry) for entry in content.values()
    )


def read(path: Path, content: dict) -> list[AnnotatedImage]:
    """Read the regions by image.

    Raises:
        DataError: a region is damaged, or it is not clear which attribute is the label.
    """
    entries = content.get("_via_img_metadata", content)
    regions = []  # (entry, number, shape, attributes)
    for entry in entries.values():
        found = entry.get("regions") or []
        found = list(found.values()) if isinstance(found, dict) else found  # version 1
        for number, region in enumerate(found, 1):
            what = f"{path}, region {number} of {entry.get('filename')}"
            if not isinstance(region, dict) or not isinstance(region.get("shape_attributes"), dict):
                raise DataError(f"{what} has no shape: export it again from VIA.")
            regions.append((entry, number, region["shape_attributes"], region.get("region_attributes") or {}))
    key = _label_attribute(path, [attributes for *_, attributes in regions])
    images: dict[int, list[Annotation]] = {}
    left_out = []
    for entry, number, shape, attributes in regions:
        labels = _labels(attributes.get(key)) if key else ["object"]
        kind, short = shape.get("name"), f"region {number} of {entry.get('filename')}"
        if kind in WITHOUT_AREA or not labels:
            left_out.append(f"{short} has no {'area' if labels else key}")
            continue
        what = f"{path}, {short} ('{', '.join(labels)}')"
        draw = partial(_draw, shape, what)
        images.setdefault(id(entry), []).extend(Annotation(label, what, draw) for label in labels)
    warn_left_out(path, len(regions), left_out)
    return [
        AnnotatedImage(
            path,
            str(entry["filename"]).replace("\\", "/"),
            tuple(images.get(id(entry), ())),
            bytes=size if isinstance(size := entry.get("size"), int) and size > 0 else None,
        )
        for entry in entries.values()
    ]


def _label_attribute(path: Path, regions: list[dict]) -> str:
    """Return the attribute that holds the label; "" where no region has any."""
    used = list(dict.fromkeys(key for region in regions for key, value in region.items() if _labels(value)))
    if len(used) > 1:
        named = [key for key in used if key.lower() in NAMES]
        if len(named) != 1:
            raise DataError(
                f"{path} has regions with several attributes ({list_names(used)}), of which one must be the "
                f"label: call it 'label' in VIA, and no other one {list_names(NAMES[1:])}."
            )
        return named[0]
    return used[0] if used else ""


def _labels(value: Any) -> list[str]:
    """Return the labels of an attribute: a text or choice, or what is ticked of several."""
    if isinstance(value, dict):
        return [str(name).strip() for name, ticked in value.items() if ticked is True]
    return [str(value).strip()] if isinstance(value, str | int) and str(value).strip() else []


def _draw(shape: dict, what: str, height: int, width: int) -> Bool[np.ndarray, "height width"]:
    kind = shape.get("name")
    try:
        if kind == "polygon":
            points = [shape["all_points_x"], shape["all_points_y"]]
            return draw_polygon(as_points(list(zip(*points, strict=True)), what), height, width, what)
        if kind == "rect":
            x, y, w, h = (float(shape[key]) for key in ("x", "y", "width", "height"))
            return draw_box(x, y, x + w, y + h, height, width, what)
        if kind in ("circle", "ellipse"):
            radii = ("r", "r") if kind == "circle" else ("rx", "ry")
            x, y, radius_x, radius_y = (float(shape[key]) for key in ("cx", "cy", *radii))
            turn = float(np.rad2deg(float(shape.get("theta", 0))))
            return draw_polygon(ellipse_points(x, y, radius_x, radius_y, turn), height, width, what)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{what} is damaged ({error}): export it again from VIA.") from error
    raise DataError(f"{what} is a {kind}, which is not known: draw it as a polygon.")


FORMAT = Format("via", "VIA", ".json", matches, read)
