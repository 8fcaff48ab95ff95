"""Make files to send to the service."""

import io
import json

import numpy as np
import tiny
from PIL import Image


def png(array: np.ndarray, format: str = "PNG") -> bytes:
    """Return the file of an image or a mask."""
    content = io.BytesIO()
    Image.fromarray(array).save(content, format)
    return content.getvalue()


class Files:
    """Hold files of a reference and of targets, as httpx takes them."""

    def __init__(self):
        image, mask = tiny.random_image(0, 50, 70)
        self.image, self.mask = png(image), png(mask.astype(np.uint8) * 255)
        self.targets = [png(tiny.random_image(seed, 40 + seed, 60)[0]) for seed in (1, 2, 3)]
        height, width = mask.shape
        rows, columns = np.nonzero(mask)
        box = [[int(columns.min()), int(rows.min())], [int(columns.max()), int(rows.max())]]
        self.labelme = json.dumps(
            {
                "version": "5.5.0",
                "flags": {},
                "shapes": [
                    {
                        "label": "disk",
                        "points": box,
                        "shape_type": "rectangle",
                        "group_id": None,
                        "flags": {},
                    }
                ],
                "imagePath": "photo.png",
                "imageData": None,
                "imageHeight": height,
                "imageWidth": width,
            }
        ).encode()

    def reference(self, name: str = "photo.png") -> list:
        """Return the files of a context."""
        return [("images", (name, self.image)), ("masks", ("mask.png", self.mask))]

    def images(self, count: int = 1) -> list:
        """Return files to segment."""
        return [("images", (f"target{i}.png", self.targets[i])) for i in range(count)]
