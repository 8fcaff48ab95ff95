"""Read and write Label Studio's JSON: tasks with polygons, rectangles, ellipses and brush strokes."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from segic_jax.data.annotations import brush
from segic_jax.data.annotations.label_studio_interface import Control
from segic_jax.data.annotations.outlines import outlines
from segic_jax.data.annotations.paths import common_folder, local_name, relative_name
from segic_jax.data.annotations.shapes import (
    as_points,
    draw_box,
    draw_polygon,
    ellipse_points,
    paste,
    turned_box,
)
from segic_jax.data.annotations.types import (
    AnnotatedImage,
    Annotation,
    Format,
    LabelledImage,
    Region,
    warn_left_out,
)
from segic_jax.data.images import ENDINGS, shorten
from segic_jax.errors import DataError
from segic_jax.runtime.atomic_write import atomic_write, make_folder

SHAPES = ("polygon", "rectangle", "ellipse", "brush")
LOCAL_FILES = "/data/local-files/?d="  # the address of a file below LOCAL_FILES_DOCUMENT_ROOT


def matches(content: Any) -> bool:
    """Return whether these are tasks of Label Studio."""
    tasks = content if isinstance(content, list) else [content]
    return bool(tasks) and isinstance(tasks[0], dict) and (_is_task(tasks[0]) or "annotation_id" in tasks[0])


def _is_task(task: dict) -> bool:
    return isinstance(task.get("data"), dict) and bool(
        {"annotations", "predictions", "completions"} & set(task)
    )


def read(path: Path, content: Any) -> list[AnnotatedImage]:
    """Read the regions of each task: of its annotation, or of its prediction where no task has annotations.

    Raises:
        DataError: the file is of another kind or damaged, or a task has annotations of several people.
    """
    tasks = content if isinstance(content, list) else [content]
    if not all(isinstance(task, dict) and _is_task(task) for task in tasks):
        raise DataError(f"{path} has not all that Label Studio knows of its tasks: export them as 'JSON'.")
    results = [_annotation(task, f"{path}, {_name(task)}") for task in tasks]
    if not any(results):
        results = [(task.get("predictions") or [{}])[0].get("result") or [] for task in tasks]
    images, left_out = [], []
    for task, result in zip(tasks, results, strict=True):
        if result:
            images.append(_read_task(path, task, result, left_out))
    warn_left_out(path, sum(map(len, results)), left_out)
    return images


def _name(task: dict) -> str:
    return f"task {task.get('id', task['data'])}"


def _annotation(task: dict, what: str) -> list:
    """Return the results of a task's only annotation, or of the one that is the ground truth."""
    found = task.get("annotations") or task.get("completions") or []
    found = [item for item in found if not item.get("was_cancelled")]
    found = [item for item in found if item.get("ground_truth")] or found
    if len(found) > 1:
        raise DataError(
            f"{what} has {len(found)} annotations: mark one as ground truth in Label Studio, or delete the "
            "others."
        )
    return (found[0].get("result") or []) if found else []


def _read_task(path: Path, task: dict, result: list, left_out: list[str]) -> AnnotatedImage:
    texts = {key: value for key, value in task["data"].items() if isinstance(value, str)}
    images = [value for value in texts.values() if local_name(value).lower().endswith(ENDINGS)]
    if not images:
        raise DataError(
            f"{path}, {_name(task)} has no image ({shorten(task['data'])}): its data must name a file."
        )
    name, sizes, annotations = local_name(images[0]), set(), []
    for number, item in enumerate(result, 1):
        short = f"region {number} of {_name(task)}"
        kind, value = str(item.get("type", "")), item.get("value") or {}
        shape = next((shape for shape in SHAPES if kind.startswith(shape)), None)
        if kind == "labels":  # a shape with a label of its own is two results with one id
            shape = "rectangle" if "width" in value else "polygon" if "points" in value else "brush"
        labels = value.get(kind) or value.get("labels") or []
        if shape is None or not labels:
            if kind not in ("choices", "textarea", "rating", *SHAPES):
                left_out.append(f"{short} is a {kind or 'result'} without an area or a label")
            continue
        what = f"{path}, {short} ('{', '.join(map(str, labels))}')"
        if item.get("image_rotation"):
            raise DataError(f"{what} was drawn on a turned image: turn the file itself, and draw it again.")
        try:
            sizes.add((int(item["original_height"]), int(item["original_width"])))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{what} has no original_width and original_height: export it again.") from error
        draw = partial(_draw, shape, value, what)
        annotations += [Annotation(str(label).strip(), what, draw) for label in labels]
    if len(sizes) > 1:
        raise DataError(f"{path}, {_name(task)} has regions of images of several sizes: export it again.")
    return AnnotatedImage(path, name, tuple(annotations), next(iter(sizes), None))


def _draw(shape: str, value: dict, what: str, height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """Draw a region, whose coordinates are per cent of the image's size."""
    scale = np.array([width, height]) / 100
    try:
        if shape == "brush":
            return brush.decode(value["rle"], height, width)
        if shape == "polygon":
            return draw_polygon(as_points(value["points"], what) * scale, height, width, what)
        x, y = float(value["x"]) * scale[0], float(value["y"]) * scale[1]
        turn = float(value.get("rotation") or 0)
        if shape == "ellipse":
            radii = float(value["radiusX"]) * scale[0], float(value["radiusY"]) * scale[1]
            return draw_polygon(ellipse_points(x, y, *radii, turn), height, width, what)
        x1, y1 = x + float(value["width"]) * scale[0], y + float(value["height"]) * scale[1]
        if turn:
            return draw_polygon(turned_box(x, y, x1, y1, turn, (x, y)), height, width, what)
        return draw_box(x, y, x1, y1, height, width, what)
    except (KeyError, ValueError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{what} is damaged ({shorten(error)}): export it again from Label Studio."
        ) from error


def write(folder: Path, labels: Sequence[str], images: Sequence[LabelledImage]) -> Path:
    """Write tasks.json, with a prediction for each image, and the labelling interface for a new project.

    A region with holes is a brush stroke, every other one a polygon.
    """
    make_folder(folder)
    root, tasks = common_folder(images), []
    for image in images:
        regions = image.regions()
        result = [
            item
            for region in regions
            for item in region_items(region, image.size, _own_controls(region.label))
        ]
        prediction: dict[str, Any] = {"model_version": "segic_jax", "result": result}
        if scores := [region.score for region in regions if region.score is not None]:
            prediction["score"] = round(float(np.mean(scores)), 4)
        data = {"image": LOCAL_FILES + relative_name(image.path, root)}
        tasks.append({"data": data, "predictions": [prediction]})
    atomic_write(folder / "tasks.json", json.dumps(tasks, ensure_ascii=False) + "\n")
    atomic_write(folder / "labeling_interface.xml", _interface(labels))
    return folder / "tasks.json"


def region_items(
    region: Region, size: tuple[int, int], controls: Mapping[str, Control]
) -> Iterator[dict[str, Any]]:
    """Yield a region of Label Studio for each connected part of a mask.

    Args:
        size: height and width of the image.
        controls: by kind; a part becomes a polygon if it has no holes, else a brush stroke. Without a brush,
            holes are connected to the outline by a cut; without both, the part becomes its box.
    """
    height, width = size
    for number, outline in enumerate(outlines(region.mask, cut_holes="brush" not in controls), 1):
        value: dict[str, Any]
        if outline.points is not None and "polygon" in controls:
            kind, points = "polygon", (outline.points / (width, height) * 100).tolist()
            value = {"points": points, "closed": True}
        elif "brush" in controls:
            mask = paste(outline.mask, outline.left, outline.top, height, width, region.label)
            kind, value = "brush", {"format": "rle", "rle": brush.encode(mask)}
        elif "rectangle" in controls:
            rows, columns = outline.mask.shape
            kind, box = "rectangle", (outline.left, outline.top, columns, rows)
            sides = (100 * part / (width, height)[i % 2] for i, part in enumerate(box))
            value = dict(zip(("x", "y", "width", "height"), sides, strict=True)) | {"rotation": 0}
        else:
            continue  # a speck, which is no polygon
        control = controls[kind]
        item = {
            "id": f"{control.label}-{number}",
            "type": f"{kind}labels",
            "value": value | {f"{kind}labels": [control.label]},
            "from_name": control.name,
            "to_name": control.to_name,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
        }
        yield item if region.score is None else item | {"score": round(region.score, 4)}


def _own_controls(label: str) -> dict[str, Control]:
    """Return the controls of `_interface`."""
    return {kind: Control(kind, "image", label) for kind in ("polygon", "brush")}


def _interface(labels: Sequence[str]) -> bytes:
    view = ET.Element("View")
    ET.SubElement(view, "Image", {"name": "image", "value": "$image", "zoom": "true"})
    for tag, name in (("PolygonLabels", "polygon"), ("BrushLabels", "brush")):
        group = ET.SubElement(view, tag, {"name": name, "toName": "image"})
        for label in labels:
            ET.SubElement(group, "Label", {"value": label})
    ET.indent(view)
    return ET.tostring(view, "utf-8") + b"\n"


FORMAT = Format("label-studio", "Label Studio", ".json", matches, read, write=write)
