"""Define what the video benchmarks deliver: clips of frames, with label maps of some or all of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from segic_jax.data.images import read_labels, read_rgb
from segic_jax.data.layout import list_files
from segic_jax.errors import DataError


@dataclass(frozen=True)
class Clip:
    """Hold the files of one video."""

    name: str
    frames: tuple[Path, ...]  # in order
    annotations: Mapping[int, Path]  # label maps by frame number from 0; 0 is background
    required: frozenset[int]  # frames that a benchmark's server requires; all if it does not say
    scored: bool  # whether all frames have label maps, so that predictions can be scored


class VideoSource:
    """Give the clips of a benchmark, their frames and label maps."""

    def __init__(self, name: str, clips: Iterable[Clip]):
        self.name = name
        self._clips = list(clips)

    def videos(self) -> list[Clip]:
        """Return all clips, sorted by name."""
        return self._clips

    def frame(self, clip: Clip, number: int) -> UInt8[np.ndarray, "height width 3"]:
        """Read a frame as RGB. Raises DataError if the file is missing or damaged."""
        return read_rgb(clip.frames[number])

    def annotation(self, clip: Clip, number: int) -> Integer[np.ndarray, "height width"]:
        """Read the object ids of a frame. Raises DataError if the file is missing or damaged."""
        return read_labels(clip.annotations[number])

    def palette(self, clip: Clip) -> list[int] | None:
        """Return the palette of the first label map, RGB of each id, flat; None if it has none."""
        return Image.open(clip.annotations[min(clip.annotations)]).getpalette()


def make_clip(name: str, frames: Path, annotations: Path, required: frozenset[str] | None = None) -> Clip:
    """Make a clip of a folder of .jpg frames and a folder of .png label maps with the same stems.

    Args:
        required: stems of the frames that a server requires; None for all.

    Raises:
        DataError: a folder is missing or empty, or a label map has no frame.
    """
    frame_paths = tuple(frames / name for name in list_files(frames, ".jpg", "the benchmark's archive"))
    numbers = {path.stem: number for number, path in enumerate(frame_paths)}
    maps = {}
    for label_map in list_files(annotations, ".png", "the benchmark's archive"):
        path = annotations / label_map
        if path.stem not in numbers:
            raise DataError(f"{path} has no frame {frames / path.stem}.jpg: unpack the benchmark again.")
        maps[numbers[path.stem]] = path
    required_numbers = frozenset(range(len(frame_paths)))
    if required is not None:
        unknown = sorted(required - numbers.keys())
        if unknown:
            raise DataError(f"{frames / unknown[0]}.jpg is missing: meta.json lists it; unpack it again.")
        required_numbers = frozenset(numbers[stem] for stem in required)
    return Clip(name, frame_paths, maps, required_numbers, len(maps) == len(frame_paths))
