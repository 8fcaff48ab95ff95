"""Write files of labelling tools for tests, and read them."""

import json
import re
import warnings
from pathlib import Path

import pytest
from annotated import example_masks

from segic_jax.errors import DataError, InputWarning
from segic_jax.inference.annotations import read_examples

SQUARE = [[10, 20], [50, 20], [50, 60], [10, 60]]  # on an image of 120 x 90


def areas(path: Path, **options) -> dict[str, int]:
    """Return the number of pixels of each label."""
    return {
        label: int(mask.sum()) for (_, label), mask in example_masks(read_examples(path, **options)).items()
    }


def refusal(path: Path, **options) -> str:
    """Return the sentence that refuses the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        with pytest.raises(DataError) as error:
            read_examples(path, **options)
    assert re.fullmatch(r"[^\n]+[.?]", str(error.value))
    return str(error.value)


def labelme(path: Path, *shapes: dict, **fields) -> Path:
    """Write a file of labelme beside the image `path`."""
    content = {"version": "5.5.0", "flags": {}, "imagePath": "photo.jpg", "imageData": None}
    content |= {"imageHeight": 90, "imageWidth": 120, "shapes": list(shapes)}
    path.with_suffix(".json").write_text(json.dumps(content | fields))
    return path.with_suffix(".json")


def shape(label: str = "cat", kind: str = "polygon", points=SQUARE, **fields) -> dict:
    """Return a shape of labelme."""
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}} | fields


def cvat(path: Path, shapes: str, size='width="120" height="90"') -> Path:
    """Write a file of CVAT beside the image `path`."""
    text = f'<?xml version="1.0"?><annotations><version>1.1</version><image id="0" name="photo.jpg" {size}>'
    path.with_suffix(".xml").write_text(f"{text}{shapes}</image></annotations>")
    return path.with_suffix(".xml")
