"""Read LIP (Gong et al., CVPR 2017): people, with body parts and clothes as instances.

lip/train_images/<id>.jpg
lip/TrainVal_parsing_annotations/train_segmentations/<id>.png     0 is background, 1..19 are parts
"""

from pathlib import Path

import numpy as np

from segic_jax.data.images import read_labels, read_rgb, require_size
from segic_jax.data.pairs import AnnotatedImage
from segic_jax.errors import DataError

DOWNLOAD = "https://sysu-hcp.net/lip/ (single person: images and parsing annotations)"


class LipInstances:
    """Give the images, sorted by name."""

    def __init__(self, root: Path | str):
        """Open lip/ or its parent.

        Raises:
            DataError: there are no images, or the label maps are missing.
        """
        root = Path(root)
        self.root = root / "lip" if (root / "lip").is_dir() else root
        self._labels = self.root / "TrainVal_parsing_annotations/train_segmentations"
        if not self._labels.is_dir():
            raise DataError(f"{self._labels} is missing: get it from {DOWNLOAD}.")
        self._images = sorted(path.name for path in (self.root / "train_images").glob("*.jpg"))
        if not self._images:
            raise DataError(f"{self.root / 'train_images'} holds no images: get them from {DOWNLOAD}.")

    def __len__(self) -> int:
        return len(self._images)

    def load(self, number: int) -> AnnotatedImage:
        """Read an image and a mask for each part. Raises DataError if one of them is missing or damaged."""
        path = self.root / "train_images" / self._images[number]
        label_path = (self._labels / path.name).with_suffix(".png")
        image, labels = read_rgb(path), read_labels(label_path)
        require_size(image, labels, path, label_path)
        parts = np.unique(labels)
        return AnnotatedImage(image, labels == parts[parts > 0, None, None])
