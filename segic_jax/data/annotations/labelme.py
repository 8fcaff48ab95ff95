"""Read and write labelme's JSON: a file for each image, with polygons, rectangles, circles and masks."""

import base64
import io
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from segic_jax.data.annotations.outlines import Outline, outlines
from segic_jax.data.annotations.shapes import LABELME, as_points, draw_polygon, ellipse_points, paste
from segic_jax.data.annotations.types import (
    AnnotatedImage,
    Annotation,
    Format,
    LabelledImage,
    warn_left_out,
)
from segic_jax.errors import DataError
from segic_jax.runtime.atomic_write import atomic_write, make_folder

VERSION = "5.5.0"  # whose fields are written; older and newer ones read them as well
WITHOUT_AREA = ("point", "points", "line", "linestrip")
# How many points a shape has; X-AnyLabeling, which writes labelme's JSON, gives all corners of a rectangle.
POINTS = {"rectangle": (2, 4), "circle": (2,), "mask": (2,), "oriented_rectangle": (4,), "rotation": (4,)}


def matches(content: Any) -> bool:
    """Return whether this is labelme's JSON."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list) and "imagePath" in content


def read(path: Path, content: dict) -> list[AnnotatedImage]:
    """Read the shapes of the image.

    Raises:
        DataError: the file, or a shape in it, is damaged.
    """
    annotations, left_out = [], []
    for number, shape in enumerate(content["shapes"], 1):
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
            raise DataError(f"{path}, shape {number} has no label: give it one in labelme.")
        label = shape["label"].strip()
        what = f"{path}, shape {number} ('{label}')"
        kind = shape.get("shape_type") or "polygon"
        if kind in WITHOUT_AREA:
            left_out.append(f"shape {number} ('{label}') is a {kind}, which has no area")
            continue
        points = as_points(shape.get("points"), what)
        if kind not in POINTS and kind != "polygon":
            raise DataError(f"{what} is a {kind}, which is not known: draw it as a polygon.")
        if kind in POINTS and len(points) not in POINTS[kind]:
            raise DataError(
                f"{what} has {len(points)} points, but a {kind} has {POINTS[kind][0]}: draw it again."
            )
        draw = partial(_draw_mask, shape.get("mask")) if kind == "mask" else partial(_draw, kind)
        annotations.append(Annotation(label, what, partial(draw, points, what)))
    warn_left_out(path, len(content["shapes"]), left_out)
    size = content.get("imageHeight"), content.get("imageWidth")
    return [
        AnnotatedImage(
            path,
            str(content["imagePath"]).replace("\\", "/"),
            tuple(annotations),
            (int(size[0]), int(size[1])) if all(isinstance(side, int) for side in size) else None,
            _decode_base64(content["imageData"], f"{path}: its imageData")
            if content.get("imageData")
            else None,
        )
    ]


def _draw(kind: str, points: np.ndarray, what: str, height: int, width: int) -> np.ndarray:
    """Fill a shape as labelme does: pixels of its outline belong to it."""
    if kind == "circle":
        (x, y), edge = points
        radius = float(np.hypot(*(edge - points[0])))
        points = ellipse_points(x, y, radius, radius) if radius else points[:1]
    elif kind == "rectangle":
        (x0, y0), (x1, y1) = points.min(0), points.max(0)
        points = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    return draw_polygon(points, height, width, what, LABELME)


def _draw_mask(
    png: Any, points: np.ndarray, what: str, height: int, width: int
) -> Bool[np.ndarray, "height width"]:
    """Place the mask, a small PNG, at the first of its two corners."""
    try:
        image = Image.open(io.BytesIO(_decode_base64(png, what)))
        patch = np.asarray(image).astype(bool)
    except (OSError, ValueError, SyntaxError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{what} has a mask that is no PNG: draw it again.") from error
    if patch.ndim != 2:
        raise DataError(f"{what} has a mask of several channels: draw it again.")
    left, top = (int(value) for value in np.rint(points[0]))
    return paste(patch, left, top, height, width, what)


def _decode_base64(text: Any, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, TypeError) as error:
        raise DataError(f"{what} cannot be decoded: save the file again in labelme.") from error


def write(folder: Path, labels: Sequence[str], images: Sequence[LabelledImage]) -> Path:
    """Write a file for each image; a region with holes is a mask, every other one a polygon."""
    make_folder(folder)
    for image in images:
        shapes = [
            _shape(region.label, region.score, outline)
            for region in image.regions()
            for outline in outlines(region.mask, LABELME)
        ]
        content = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": os.path.relpath(image.path, folder).replace(os.sep, "/"),
            "imageData": None,
            "imageHeight": image.size[0],
            "imageWidth": image.size[1],
        }
        atomic_write(folder / f"{image.stem}.json", json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    return folder


def _shape(label: str, score: float | None, outline: Outline) -> dict:
    shape: dict[str, Any] = {"label": label, "group_id": None, "description": "", "flags": {}, "mask": None}
    if outline.points is not None:
        shape |= {"shape_type": "polygon", "points": outline.points.tolist()}
    else:
        height, width = outline.mask.shape
        corners = [[outline.left, outline.top], [outline.left + width - 1, outline.top + height - 1]]
        png = io.BytesIO()
        Image.fromarray(outline.mask.view(np.uint8)).save(png, "PNG")
        encoded = base64.b64encode(png.getvalue()).decode("ascii")
        shape |= {"shape_type": "mask", "points": [list(map(float, corner)) for corner in corners]}
        shape |= {"mask": encoded}
    return shape if score is None else shape | {"score": round(score, 4)}


FORMAT = Format("labelme", "labelme", ".json", matches, read, write=write)
