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
    scored: bool  # whether the label maps suffice to score predictions
    notes: tuple[str, ...] = ()  # how defects of its files were handled, for results and checks


class VideoSource:
    """Give the clips of a benchmark, their frames and label maps."""

    def __init__(self, name: str, clips: Iterable[Clip], left_out: Iterable[str] = ()):
        """Take the clips.

        Args:
            left_out: a sentence for each video that the benchmark lists or holds and that is not among them.
        """
        self.name = name
        self.left_out = tuple(left_out)
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

    A label map without a frame, and a required frame that is missing, are left out and noted: the official
    loaders never look for them. Without `required`, predictions are scored on the frames that have a label
    map, as the official tool does, but for the first and the last of these.

    Args:
        required: stems of the frames that a server requires; None for all.

    Raises:
        DataError: a folder is missing or empty, or no label map has a frame.
    """
    frame_paths = tuple(frames / name for name in list_files(frames, ".jpg", "the benchmark's archive"))
    numbers = {path.stem: number for number, path in enumerate(frame_paths)}
    maps, notes = {}, []
    for label_map in list_files(annotations, ".png", "the benchmark's archive"):
        path = annotations / label_map
        if path.stem in numbers:
            maps[numbers[path.stem]] = path
        else:
            notes.append(f"{path} has no frame {frames / path.stem}.jpg: it is left out.")
    if not maps:
        raise DataError(f"{annotations} has no label map of a frame in {frames}: unpack the benchmark again.")
    required_numbers = frozenset(range(len(frame_paths)))
    if required is not None:
        missing = sorted(required - numbers.keys())
        notes += [
            f"{frames / stem}.jpg is missing, and meta.json lists it: it is left out." for stem in missing
        ]
        required_numbers = frozenset(numbers[stem] for stem in required & numbers.keys())
    complete = len(maps) == len(frame_paths)
    scored = complete or (required is None and len(maps) > 2)
    if scored and not complete:
        notes.append(
            f"{annotations} has label maps of {len(maps)} of {len(frame_paths)} frames: these are scored."
        )
    return Clip(name, frame_paths, maps, required_numbers, scored, tuple(notes))


def other_size(labels: Integer[np.ndarray, "_ _"], path: Path, height: int, width: int) -> str:
    """Return the beginning of a sentence about a label map of another size than its frame; "" if it fits."""
    if labels.shape == (height, width):
        return ""
    return f"{path} is {labels.shape[1]} x {labels.shape[0]} pixels, its frame {width} x {height}"
