"""Read and write the JSON of the VGG Image Annotator (VIA): a project of version 1 or 2, or its regions."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from segic_jax.data.annotations.outlines import outlines
from segic_jax.data.annotations.paths import common_folder, relative_name
from segic_jax.data.annotations.shapes import as_points, draw_box, draw_polygon, ellipse_points
from segic_jax.data.annotations.types import (
    AnnotatedImage,
    Annotation,
    Format,
    LabelledImage,
    list_names,
    warn_left_out,
)
from segic_jax.errors import DataError
from segic_jax.runtime.atomic_write import atomic_write, make_folder

VERSION = "2.0.10"  # of the format that is written
UNKNOWN = "unknown"  # the value of VIA's own attributes that nobody has chosen
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
    values: dict[str, set[str]] = {}
    for region in regions:
        for key, value in region.items():
            values.setdefault(key, set()).update(_labels(value))
    used = [key for key, labels in values.items() if labels - {UNKNOWN}]
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


def write(folder: Path, labels: Sequence[str], images: Sequence[LabelledImage]) -> Path:
    """Write via.json, a project in which each region has a label and a score.

    A hole is connected to the outline by a cut of no width. The images are looked for at the project's
    default path, which is relative to the page of VIA: as if it were in `folder`.
    """
    make_folder(folder)
    root = common_folder(images)
    entries = {}
    for image in images:
        size = image.path.stat().st_size if image.path.is_file() else -1
        name = relative_name(image.path, root)
        entries[f"{name}{size}"] = {
            "filename": name,
            "size": size,
            "regions": [
                _written(outline.points, region.label, region.score)
                for region in image.regions()
                for outline in outlines(region.mask, cut_holes=True)
                if outline.points is not None
            ],
            "file_attributes": {},
        }
    label = {
        "type": "dropdown",
        "description": "",
        "options": dict.fromkeys(labels, ""),
        "default_options": {},
    }
    score = {"type": "text", "description": "mean probability", "default_value": ""}
    content = {
        "_via_settings": {
            "ui": {},
            "core": {"filepath": {}, "default_filepath": f"{relative_name(root, folder)}/"},
            "project": {"name": "segic_jax"},
        },
        "_via_img_metadata": entries,
        "_via_attributes": {"region": {"label": label, "score": score}, "file": {}},
        "_via_data_format_version": VERSION,
        "_via_image_id_list": list(entries),
    }
    atomic_write(folder / "via.json", json.dumps(content, ensure_ascii=False) + "\n")
    return folder / "via.json"


def _written(points: Float[np.ndarray, "_ 2"], label: str, score: float | None) -> dict:
    x, y = points.T.tolist()
    attributes = {"label": label} | ({} if score is None else {"score": f"{score:.4f}"})
    shape = {"name": "polygon", "all_points_x": x, "all_points_y": y}
    return {"shape_attributes": shape, "region_attributes": attributes}


FORMAT = Format("via", "VIA", ".json", matches, read, write=write)
