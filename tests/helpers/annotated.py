"""Make masks and images for the tests of labelling tools."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from segic_jax.data import masks
from segic_jax.data.annotations.types import LabelledImage, Region
from segic_jax.inference.example import Example

LABELS = ["cat", "hot dog"]
Masks = dict[tuple[str, str], np.ndarray]  # by image and label


def save_image(path: Path, height: int, width: int, seed: int = 0) -> Path:
    """Write an image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def blobs(height: int, width: int, seed: int) -> np.ndarray:
    """Return a label map of 0, 1 and 2 with several regions, and a ring, which has a large hole."""
    random = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(random, (0, 0), 7)
    labels = np.zeros((height, width), np.uint8)
    labels[smooth > np.quantile(smooth, 0.8)] = 1
    labels[smooth < np.quantile(smooth, 0.2)] = 2
    labels[-44:, -44:] = 0
    cv2.circle(labels, (width - 23, height - 23), 18, 1, 5)
    return labels


def photographs(folder: Path, count: int = 3) -> tuple[list[LabelledImage], Masks]:
    """Write images, one of them in a folder below, and return what is marked on them."""
    images, truth = [], {}
    for number in range(count):
        path = save_image(
            folder / ("below" if number == 1 else "") / f"photo{number}.jpg", 90 + number, 120, number
        )
        labels = blobs(90 + number, 120, number)
        regions = [Region(label, labels == i, 1 - i / 10) for i, label in enumerate(LABELS, 1)]
        images.append(LabelledImage(path.stem, path, labels.shape, regions.copy, labels.copy))
        truth |= {(path.stem, region.label): region.mask for region in regions}
    return images, truth


def example_masks(examples: list[Example]) -> Masks:
    """Return the masks of examples by the name of the image and the label."""
    found = {}
    for example in examples:
        assert example.rle is not None
        mask = masks.decode(example.rle, *example.rle["size"])
        found[Path(str(example.image)).stem, str(example.name)] = mask
    return found


def least_iou(found: Mapping, truth: Masks) -> float:
    """Return the smallest IoU of two sets of masks with the same keys."""
    assert set(found) == set(truth)
    return min((found[key] & mask).sum() / (found[key] | mask).sum() for key, mask in truth.items())
