"""Write masks as black and white images: a folder for each class, a file for each image."""

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from segic_jax.data.annotations.types import Format, LabelledImage
from segic_jax.errors import DataError
from segic_jax.runtime.atomic_write import atomic_write, make_folder


def write(folder: Path, labels: Sequence[str], images: Sequence[LabelledImage]) -> Path:
    """Write CLASS/NAME.png; an image without the class has a black mask.

    Raises:
        DataError: two classes would share a folder.
    """
    folders = {label: re.sub(r'[\\/:*?"<>|\x00-\x1f]', "_", label).strip(". ") or "_" for label in labels}
    if len({name.lower() for name in folders.values()}) < len(labels):
        raise DataError(f"Several classes would share one folder of {folder}: give them other names.")
    for name in folders.values():
        make_folder(folder / name)
    for image in images:
        masks = {region.label: region.mask for region in image.regions()}
        for label in labels:
            mask = masks.get(label, np.zeros(image.size, bool))
            png = cv2.imencode(".png", 255 * mask.view(np.uint8))[1].tobytes()
            atomic_write(folder / folders[label] / f"{image.stem}.png", png)
    return folder


FORMAT = Format("masks", "masks", write=write)
