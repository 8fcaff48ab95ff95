"""Read the folder that `tools/photo_sources.py` makes: cut-outs with alpha, and backgrounds.

    cutouts.txt      a line for each cut-out: file, class, kind (animal, tool, ...), separated by tabs
    cutouts/         PNG or WebP images with alpha
    backgrounds/     JPEG photographs
    photographs.txt  a line for each background whose object has a mask: file, class, kind
    masks/           its mask, a PNG image named like the photograph

Images are decoded on first use and kept; a library itself holds only names, so that it pickles small.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from segic_jax.errors import DataError

INDEX, PHOTOGRAPHS = "cutouts.txt", "photographs.txt"
LONGEST = 400  # pixels of a cut-out's longer side that are kept
LEVELS = 4  # of a cut-out: its own size, a half, a quarter, an eighth
OPAQUE = 127  # a pixel with more alpha belongs to the object
BACKGROUNDS_KEPT = 256  # decoded, in each process


@dataclass(frozen=True)
class CutoutClass:
    """Name a class: its label, its kind, and the files of its cut-outs."""

    name: str
    kind: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Photograph:
    """Name a background, and the class and mask of its object if they are known."""

    file: Path
    name: str = ""
    mask: Path | None = None


@dataclass(frozen=True)
class PhotoLibrary:
    """Hold the names of all cut-outs and backgrounds of a folder."""

    classes: tuple[CutoutClass, ...]
    backgrounds: tuple[Photograph, ...]

    @classmethod
    def open(cls, root: str | Path) -> "PhotoLibrary":
        """Read the index of a folder.

        Raises:
            DataError: an index is missing or damaged, a file that it names is missing, an annotated class has
                no cut-out, or the folder has no background.
        """
        root = Path(root)
        classes = read_index(root / INDEX, root / "cutouts")
        files = sorted((root / "backgrounds").glob("*.jpg"))
        if not files:
            raise DataError(
                f"{root / 'backgrounds'} has no JPEG photograph: make the folder with tools/photo_sources.py."
            )
        names: dict[Path, str] = {}
        if (root / PHOTOGRAPHS).exists():
            for item in read_index(root / PHOTOGRAPHS, root / "backgrounds"):
                names |= dict.fromkeys(item.files, item.name)
        unknown = set(names.values()) - {item.name for item in classes}
        if unknown:
            raise DataError(f"{root / PHOTOGRAPHS}: {', '.join(sorted(unknown))} has no cut-out in {INDEX}.")
        masks = {file: root / "masks" / f"{file.stem}.png" for file in names}
        for mask in masks.values():
            if not mask.is_file():
                raise DataError(f"{mask} is missing: make the folder with tools/photo_sources.py.")
        return cls(classes, tuple(Photograph(file, names.get(file, ""), masks.get(file)) for file in files))


def read_index(path: Path, folder: Path) -> tuple[CutoutClass, ...]:
    """Return the classes of an index, sorted by name; the files are in `folder`.

    Raises:
        DataError: the index is missing or empty, a line does not have three fields, a class has two kinds, or
            a file is missing.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read: {error}. Make the folder with tools/photo_sources.py."
        ) from error
    files: dict[str, list[Path]] = {}
    kinds: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split("\t")
        if len(fields) != 3:
            raise DataError(f"{path}, line {number}: give a file, a class and a kind, separated by tabs.")
        file, name, kind = fields
        if kinds.setdefault(name, kind) != kind:
            raise DataError(f"{path}, line {number}: {name} has the kinds {kinds[name]} and {kind}.")
        if not (folder / file).is_file():
            raise DataError(f"{path}, line {number}: {folder / file} is missing: make the folder again.")
        files.setdefault(name, []).append(folder / file)
    if not files:
        raise DataError(f"{path} names no cut-out: make the folder with tools/photo_sources.py.")
    return tuple(CutoutClass(name, kinds[name], tuple(files[name])) for name in sorted(files))


@functools.cache
def cutout(path: Path) -> Sequence[UInt8[np.ndarray, "_ _ 4"]]:
    """Return a cut-out at LEVELS sizes, the largest first: premultiplied RGBA, trimmed to the object.

    Raises:
        DataError: the file cannot be read, has no alpha, or shows nothing.
    """
    rgba = _decode(path, cv2.IMREAD_UNCHANGED)
    if rgba.ndim != 3 or rgba.shape[2] != 4 or rgba.dtype != np.uint8:
        raise DataError(f"{path} has no alpha channel of eight bits: a cut-out needs one.")
    rows, columns = (np.flatnonzero((rgba[..., 3] > OPAQUE).any(axis)) for axis in (1, 0))
    if not len(rows):
        raise DataError(f"{path} is transparent: remove it from {INDEX}.")
    rgba = cv2.cvtColor(rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], cv2.COLOR_BGRA2RGBA)
    alpha = rgba[..., 3:].astype(np.float32) / 255
    rgba[..., :3] = np.rint(rgba[..., :3] * alpha)
    level = _shrink(rgba, min(1.0, LONGEST / max(rgba.shape)))
    levels = [level]
    while len(levels) < LEVELS:
        level = _shrink(level, 0.5)
        levels.append(level)
    return tuple(levels)


@functools.lru_cache(BACKGROUNDS_KEPT)
def background_photo(path: Path) -> UInt8[np.ndarray, "_ _ 3"]:
    """Return a background, RGB. Raises DataError if it cannot be read."""
    return cv2.cvtColor(_decode(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


@functools.cache
def background_mask(path: Path) -> UInt8[np.ndarray, "_ _"]:
    """Return a mask, 0 or 255. Raises DataError if it cannot be read or is empty."""
    mask = _decode(path, cv2.IMREAD_GRAYSCALE)
    if mask.max() <= OPAQUE:
        raise DataError(f"{path} is empty: make the folder again.")
    return mask


@functools.cache
def object_box(path: Path) -> tuple[int, int, int, int]:
    """Return the top, left, bottom and right of a mask. Raises as `background_mask` does."""
    mask = background_mask(path) > OPAQUE
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _decode(path: Path, flags: int) -> np.ndarray:
    try:
        data = np.fromfile(path, np.uint8)
        image = cv2.imdecode(data, flags) if len(data) else None
    except (OSError, cv2.error) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    if image is None:
        raise DataError(f"{path} cannot be read as an image: make the folder again.")
    return image


def _shrink(image: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1:
        return image
    height, width = image.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
