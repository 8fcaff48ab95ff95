"""Read and write COCO's JSON: polygons, run lengths and boxes of many images; and lists of results."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from segic_jax.data import masks
from segic_jax.data.annotations.outlines import outlines
from segic_jax.data.annotations.paths import common_folder, relative_name
from segic_jax.data.annotations.shapes import as_points, draw_box, draw_polygon, paste
from segic_jax.data.annotations.types import (
    AnnotatedImage,
    Annotation,
    Format,
    LabelledImage,
    warn_left_out,
)
from segic_jax.data.images import shorten
from segic_jax.errors import DataError
from segic_jax.runtime.atomic_write import atomic_write, make_folder


def matches(content: Any) -> bool:
    """Return whether this is a file of annotations in COCO's format."""
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= set(content):
        return False
    items = content["annotations"]  # of objects: captions and whole images have neither mask nor box
    return isinstance(items, list) and (
        not items or any(isinstance(item, dict) and {"segmentation", "bbox"} & set(item) for item in items)
    )


def is_results(content: Any) -> bool:
    """Return whether this is a list of COCO results, which names neither images nor classes."""
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and {"image_id", "category_id"} <= set(first)


def read(path: Path, content: dict) -> list[AnnotatedImage]:
    """Read the annotations by image.

    An annotation without a segmentation is its box. Those that mark nothing, or belong to an image or a
    category that is not listed, are left out with an InputWarning.

    Raises:
        DataError: the images or categories are damaged, or no annotation can be used.
    """
    try:
        names = {category["id"]: str(category["name"]).strip() for category in content["categories"]}
        listed = {}
        for image in content["images"]:
            name = str(image.get("file_name") or image["coco_url"]).replace("\\", "/")
            listed[image["id"]] = name, int(image["height"]), int(image["width"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path} is not in COCO's format ({shorten(repr(error))}): an image needs id, file_name, height "
            "and width, a category id and name."
        ) from error
    found: dict[str, list[Annotation]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    left_out = []
    for number, item in enumerate(content["annotations"], 1):
        short = f"annotation {item.get('id', number) if isinstance(item, dict) else number}"
        try:
            label = names[item["category_id"]]
            name, height, width = listed[item["image_id"]]
        except (KeyError, TypeError):
            left_out.append(f"{short} belongs to an image or category that is not listed")
            continue
        short += f" ('{label}' on {name})"
        if not (item.get("segmentation") or item.get("bbox")):
            left_out.append(f"{short} has no segmentation and no box")
            continue
        if sizes.setdefault(name, (height, width)) != (height, width):
            raise DataError(f"{path} lists {name} with two sizes: remove one of the two images.")
        draw = partial(_draw, item.get("segmentation"), item.get("bbox"), f"{path}, {short}")
        found.setdefault(name, []).append(Annotation(label, f"{path}, {short}", draw))
    warn_left_out(path, len(content["annotations"]), left_out)
    if not found and content["annotations"]:
        raise DataError(f"{path} has no annotation that can be used: export it again, with segmentations.")
    return [AnnotatedImage(path, name, tuple(items), sizes[name]) for name, items in found.items()]


def _draw(
    segmentation: Any, box: Any, what: str, height: int, width: int
) -> Bool[np.ndarray, "height width"]:
    if isinstance(segmentation, dict):
        try:
            return masks.decode(segmentation, height, width)
        except (ValueError, TypeError) as error:
            raise DataError(f"{what}: {error}; export it again.") from error
    if segmentation:
        if not isinstance(segmentation, list):
            raise DataError(
                f"{what} has a segmentation that is neither polygons nor run lengths: export it again."
            )
        polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
        mask = np.zeros((height, width), bool)
        for polygon in polygons:
            mask |= draw_polygon(as_points(polygon, what), height, width, what)
        return mask
    corners = as_points(box, what).ravel()
    if len(corners) != 4:
        raise DataError(f"{what} has a box that is not x, y, width and height: export it again.")
    x, y, w, h = (float(value) for value in corners)
    return draw_box(x, y, x + w, y + h, height, width, what)


def write(folder: Path, labels: Sequence[str], images: Sequence[LabelledImage]) -> Path:
    """Write annotations.json, and results.json as COCO's evaluation takes it.

    A region with holes has run lengths, every other one a polygon; results have run lengths.
    """
    make_folder(folder)
    listed, annotations, results = [], [], []
    root = common_folder(images)
    for number, image in enumerate(images, 1):
        height, width = image.size
        name = relative_name(image.path, root)
        listed.append({"id": number, "file_name": name, "height": height, "width": width})
        for region in image.regions():
            category = labels.index(region.label) + 1
            for outline in outlines(region.mask):
                rows, columns = outline.mask.shape
                box = [outline.left, outline.top, columns, rows]
                mask = paste(outline.mask, outline.left, outline.top, height, width, name)
                run_lengths = masks.encode(mask)
                polygon = None if outline.points is None else [outline.points.ravel().tolist()]
                score = {} if region.score is None else {"score": round(region.score, 4)}
                common = {"image_id": number, "category_id": category, "bbox": box}
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        **common,
                        "segmentation": run_lengths if polygon is None else polygon,
                        "area": int(outline.mask.sum()),
                        "iscrowd": 0,
                        **score,
                    }
                )
                results.append({**common, "segmentation": run_lengths, "score": score.get("score", 1.0)})
    categories = [{"id": i, "name": label, "supercategory": ""} for i, label in enumerate(labels, 1)]
    content = {"info": {}, "licenses": [], "images": listed}
    content |= {"categories": categories, "annotations": annotations}
    atomic_write(folder / "annotations.json", json.dumps(content, ensure_ascii=False) + "\n")
    atomic_write(folder / "results.json", json.dumps(results) + "\n")
    return folder / "annotations.json"


FORMAT = Format("coco", "COCO", ".json", matches, read, write=write)
