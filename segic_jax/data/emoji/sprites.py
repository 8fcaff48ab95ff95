"""Read the packaged sprites: object classes, each drawn by several artists, with alpha."""

import functools
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import UInt8

ARCHIVE = Path(__file__).parent / "sprites.zip"
Split = Literal["base", "validation", "novel"]
# Artists of one family redraw each other's images; a reference comes from another family if possible.
FAMILY = {
    "noto": "google",
    "noto-v1": "google-v1",
    "fluent-emoji": "microsoft",
    "fluent-emoji-flat": "microsoft",
    "fluent-3d": "microsoft",
}


@dataclass(frozen=True)
class SpriteClass:
    """Name a class: its folder, its label for prompts, and its artists."""

    name: str
    label: str
    artists: tuple[str, ...]

    def other_family(self, artist: str) -> list[str]:
        """Return the artists whose drawing differs from that of `artist`; at least one."""
        others = [a for a in self.artists if FAMILY.get(a, a) != FAMILY.get(artist, artist)]
        return others or [a for a in self.artists if a != artist] or [artist]


@dataclass(frozen=True)
class SpriteBank:
    """Hold all classes of one split; their images are read on first use."""

    split: Split
    classes: list[SpriteClass] = field(default_factory=list)

    @classmethod
    def load(cls, split: Split) -> "SpriteBank":
        """Return the classes of a split, in a fixed order."""
        with zipfile.ZipFile(ARCHIVE) as archive:
            index = json.loads(archive.read("classes.json"))
        return cls(
            split,
            [
                SpriteClass(entry["name"], entry["label"], tuple(entry["artists"]))
                for entry in index
                if entry["split"] == split
            ],
        )


@functools.cache
def sprite(
    name: str, artist: str
) -> tuple[UInt8[np.ndarray, "height width 4"], UInt8[np.ndarray, "half_height half_width 4"]]:
    """Return a sprite, premultiplied RGBA with a longer side of 96 pixels, and one of half the size."""
    rgba = cv2.cvtColor(_decoded(f"{name}/{artist}.webp"), cv2.COLOR_BGRA2RGBA)
    alpha = rgba[..., 3:].astype(np.float32) / 255
    rgba[..., :3] = np.rint(rgba[..., :3] * alpha)
    height, width = rgba.shape[:2]
    reduced = cv2.resize(rgba, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
    return rgba, reduced


@functools.cache
def photographs() -> list[UInt8[np.ndarray, "_ _ 3"]]:
    """Return the background photographs, RGB [height, width, 3]."""
    names = sorted(name for name in _archive().namelist() if name.startswith("photos/"))
    return [cv2.cvtColor(_decoded(name), cv2.COLOR_BGR2RGB) for name in names]


def _decoded(name: str) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(_archive().read(name), np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None, name  # the archive belongs to the package
    if name.endswith(".webp") and image.shape[2] == 3:
        image = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    return image


@functools.cache
def _archive() -> zipfile.ZipFile:
    return zipfile.ZipFile(ARCHIVE)
