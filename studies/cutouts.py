"""Cut objects out of labelled images or take emoji, and paste them on backgrounds with known masks."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from segic_jax.data.emoji.backgrounds import background
from segic_jax.data.emoji.scenes import scene
from segic_jax.data.emoji.source import EmojiSource
from segic_jax.data.emoji.sprites import sprite
from segic_jax.data.episodes import LabelledImage, View
from segic_jax.data.images import read_image
from segic_jax.data.sources.folder import FolderSource
from segic_jax.errors import DataError

Cutout = UInt8[np.ndarray, "_ _ 4"]  # premultiplied RGBA


class Kind(NamedTuple):
    """Hold a class: a reference, and cut-outs of other objects of it."""

    name: str
    reference: LabelledImage
    cutouts: Sequence[Cutout]


class Material(Protocol):
    """Give classes and backgrounds."""

    kinds: Sequence[Kind]

    def background(self, rng: np.random.Generator, side: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return a background, its longer side of `side` pixels."""
        ...


class EmojiMaterial:
    """Take classes of the novel split; the reference is a scene of the benchmark."""

    def __init__(self, count: int):
        source = EmojiSource("novel")
        self.kinds = []
        for item in source.bank.classes[:: max(1, len(source.bank.classes) // count)][:count]:
            drawn = scene([item], "single", 0)
            cutouts = [sprite(item.name, artist)[0] for artist in item.artists]
            self.kinds.append(Kind(item.name, LabelledImage(drawn.image, drawn.labels == 1), cutouts))

    def background(self, rng: np.random.Generator, side: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return a drawn background."""
        return np.clip(background(rng, side), 0, 255).astype(np.uint8)


class FolderMaterial:
    """Take the classes of a folder of images with masks; the first image of each class is its reference."""

    def __init__(self, root: Path, backgrounds: Path):
        source = FolderSource(root)
        self._backgrounds = sorted(backgrounds.glob("*.jpg"))
        if not self._backgrounds:
            raise DataError(f"{backgrounds} has no JPEG image: give a folder of large photographs.")
        self.kinds = []
        for name, (first, *others) in source.image_names.items():
            cutouts = [_cut_out(source.load(View(image, name))) for image in others]
            self.kinds.append(Kind(name, source.load(View(first, name)), cutouts))

    def background(self, rng: np.random.Generator, side: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return a photograph, resized."""
        image = _photograph(self._backgrounds[int(rng.integers(len(self._backgrounds)))])
        scale = side / max(image.shape[:2])
        size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


@cache
def _photograph(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    return read_image(path)


def _cut_out(view: LabelledImage) -> Cutout:
    x, y, w, h = cv2.boundingRect(view.mask.view(np.uint8))
    mask = view.mask[y : y + h, x : x + w, None]
    return np.concatenate([view.image[y : y + h, x : x + w] * mask, 255 * mask.astype(np.uint8)], axis=-1)


def resized(rng: np.random.Generator, cutout: Cutout, longest: float) -> Cutout:
    """Return a cut-out at another size, mirrored half of the time."""
    scale = longest / max(cutout.shape[:2])
    size = (max(2, round(cutout.shape[1] * scale)), max(2, round(cutout.shape[0] * scale)))
    small = cv2.resize(cutout, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return small[:, ::-1] if rng.random() < 0.5 else small


def paste(
    image: UInt8[np.ndarray, "height width 3"],
    labels: UInt8[np.ndarray, "height width"],
    cutout: Cutout,
    place: tuple[int, int],
    label: int,
) -> None:
    """Paste a cut-out with its corner at (top, left), inside the image, and label its opaque pixels."""
    (top, left), (height, width) = place, cutout.shape[:2]
    window = np.s_[top : top + height, left : left + width]
    alpha: Float[np.ndarray, "rows columns 1"] = cutout[..., 3:].astype(np.float32) / 255
    image[window] = np.rint(image[window] * (1 - alpha) + cutout[..., :3]).astype(np.uint8)
    labels[window][cutout[..., 3] > 127] = label
