"""Write masks as COCO's annotations, with the classes' scores and presence."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from segic_jax.inference.image_logits import Box


class AnnotatedMask(NamedTuple):
    """Hold what an annotation says of a mask, or of one object of it."""

    concept: int  # the class's place, from 0
    segmentation: dict[str, Any]  # compressed run lengths
    box: Box
    area: int
    score: float


def coco_annotation(mask: AnnotatedMask, name: str, presence: float, image_id: int, number: int) -> dict:
    """Return the annotation of a mask; the category is 1 + the class's place.

    Args:
        name: of the class.
        number: id of the annotation.
    """
    x0, y0, x1, y1 = mask.box
    return {
        "id": number,
        "image_id": image_id,
        "category_id": mask.concept + 1,
        "category_name": name,
        "segmentation": mask.segmentation,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": mask.area,
        "iscrowd": 0,
        "score": round(mask.score, 4),
        "presence": round(presence, 4),
    }


def coco_document(
    file_name: str,
    size: tuple[int, int],
    presence: Mapping[str, float],
    status: Mapping[str, str],
    annotations: Sequence[dict],
) -> dict:
    """Return COCO's images, categories and annotations of one image of a size (height, width).

    Args:
        presence: of each class, in order: the probability that the image shows it.
        status: of each class, as `Result.status`.
    """
    image = {
        "id": 1,
        "file_name": file_name,
        "height": size[0],
        "width": size[1],
        "presence": {name: round(float(value), 4) for name, value in presence.items()},
        "status": dict(status),
    }
    categories = [{"id": i, "name": category} for i, category in enumerate(presence, 1)]
    return {"images": [image], "categories": categories, "annotations": list(annotations)}


def merge_coco_files(files: Sequence[dict]) -> dict:
    """Merge the `Result.coco_file` of several targets with the same classes; ids are renumbered."""
    images, annotations = [], []
    for image_id, file in enumerate(files, 1):
        images.append(file["images"][0] | {"id": image_id})
        for annotation in file["annotations"]:
            annotations.append(annotation | {"id": len(annotations) + 1, "image_id": image_id})
    return {"images": images, "categories": files[0]["categories"], "annotations": annotations}
