"""Films and folders of frames, read and written one frame at a time."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Integer, UInt8, UInt16

from segic_jax.commands.targets import Refused, make_folder, say
from segic_jax.config import InputError
from segic_jax.data.episodes import DataError
from segic_jax.data.files import ENDINGS, open_picture, read_labels, read_picture, whole_write
from segic_jax.drawing import colours, overlays
from segic_jax.example import as_mask

Frame = UInt8[np.ndarray, "height width 3"]

# What OpenCV's own FFmpeg writes: MPEG-4 for players, VP8 for browsers. VP9 takes six times as long as VP8.
CODECS = {".mp4": "mp4v", ".webm": "VP80", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "XVID"}
COLOURS = 255  # objects that a palette picture can number


@dataclass(frozen=True)
class Clip:
    """What to follow objects in."""

    source: Path
    count: int | None  # of frames, as far as is known
    fps: float
    name: Callable[[int], str]  # of a frame's label picture, without ending
    frames: Callable[[], Iterator[Frame]]  # RGB


def open_clip(path: Path, fps: float, refused: Refused) -> Clip:
    """A film, or a folder of pictures in the order of their names (2 before 10).

    Args:
        fps: of a folder.
        refused: is told frames that cannot be read, which are then left out.

    Raises:
        DataError: there is no such file, it is no film, or the folder has no picture.
    """
    if path.is_dir():
        files = sorted((one for one in path.iterdir() if one.suffix.lower() in ENDINGS), key=_natural)
        if not files:
            raise DataError(f"{path} holds no picture ({', '.join(ENDINGS)}).")
        return _folder(path, files, fps, refused)
    if not path.exists():
        raise DataError(f"{path}: there is no such film or folder.")
    film = cv2.VideoCapture(str(path))
    there, _ = film.read()
    if not there:
        raise DataError(f"{path} is no film that can be read: give MP4, WebM, MOV or AVI, or frames.")
    count = int(film.get(cv2.CAP_PROP_FRAME_COUNT))
    rate = film.get(cv2.CAP_PROP_FPS)
    film.release()
    return Clip(
        path,
        count if count > 0 else None,
        rate if 0 < rate <= 1000 else 25.0,
        "{:06}".format,
        lambda: _film_frames(path, count, refused),
    )


def _film_frames(path: Path, count: int, refused: Refused) -> Iterator[Frame]:
    film, read = cv2.VideoCapture(str(path)), 0
    try:
        while True:
            there, frame = film.read()
            if not there:
                break
            read += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    finally:
        film.release()
    if read < count - 1:  # some containers count one too many
        refused(
            str(path), DataError(f"{path} is damaged or cut off: {read} of its {count} frames can be read.")
        )


def _folder(path: Path, files: Sequence[Path], fps: float, refused: Refused) -> Clip:
    read: list[str] = []

    def frames() -> Iterator[Frame]:
        for file in files:
            try:
                frame = read_picture(file)
            except DataError as error:
                refused(str(file), error)
                continue
            read.append(file.stem)
            yield frame

    return Clip(path, len(files), fps, lambda number: read[number], frames)


def _natural(path: Path) -> list:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.stem)]


def objects_of(mask: Path) -> Integer[np.ndarray, "height width"]:
    """Numbers of the objects on the first frame; an object alone is 1 where the mask does not number it.

    Raises:
        DataError: it cannot be read or is empty, or numbers beyond those of a palette.
    """
    opened = open_picture(mask)
    numbered = opened.mode == "P"
    if not numbered:
        try:
            labels = as_mask(mask).astype(np.uint8)
        except DataError:
            numbered = True  # several, or no picture of one channel, which is said below
    if numbered:
        labels = read_labels(mask)
    if not labels.any():
        raise DataError(f"{mask} is empty: it marks no pixel.")
    if labels.max() > COLOURS:
        raise DataError(f"{mask} numbers an object {labels.max()}; the most is {COLOURS}.")
    return labels


class Films:
    """What is written: films of the masks on their frames, and folders of label pictures.

    A film gets its name when it is closed, also after Ctrl-C; a label picture at once.
    """

    def __init__(self, outs: Sequence[Path], clip: Clip):
        """Raises InputError where an ending is unknown or an output is the clip itself."""
        self._clip, self._count = clip, 0
        self._films = {out: None for out in outs if out.suffix}
        self._folders = [out for out in outs if not out.suffix]
        self._tints = colours(COLOURS)
        for out in outs:
            if out.suffix and out.suffix.lower() not in CODECS:
                raise InputError(f"{out}: a film ends in {', '.join(CODECS)}; a folder has no ending.")
            if out.exists() and out.samefile(clip.source):
                raise InputError(f"{out} is the clip itself: give another --out.")
            if out.suffix and out.is_dir():
                raise InputError(f"{out} is a folder: give another --out.")
            make_folder(out.parent if out.suffix else out)

    def __enter__(self) -> "Films":
        return self

    def __exit__(self, kind, *_) -> None:
        for out, film in self._films.items():
            if film is not None:
                film.release()
                _part(out).replace(out)
        if self._count:
            of = f" of {self._clip.count}" if kind and self._clip.count else ""
            places = ", ".join(str(out) for out in (*self._films, *self._folders))
            say(f"{self._count}{of} frames: {places}", file=sys.stderr if kind else None)

    def add(self, frame: Frame, labels: UInt16[np.ndarray, "height width"]) -> None:
        """Write one frame.

        Raises:
            DataError: the disk refuses, or a frame of a film has another size than the first.
        """
        if self._films:
            numbers = [number for number in np.unique(labels).tolist() if number]
            drawn = overlays(frame, [labels == n for n in numbers], [self._tints[n - 1] for n in numbers])
            for out in self._films:
                self._write(out, drawn)
        for out in self._folders:
            png = _palette_png(labels, self._tints)
            whole_write(out / f"{self._clip.name(self._count)}.png", png)
        self._count += 1

    def _write(self, out: Path, drawn: Frame) -> None:
        height, width = drawn.shape[:2]
        film = self._films[out]
        if film is None:
            fourcc = cv2.VideoWriter.fourcc(*CODECS[out.suffix.lower()])
            with _silent():
                film = cv2.VideoWriter(str(_part(out)), fourcc, self._clip.fps, (width, height))
            if not film.isOpened():
                raise DataError(f"{out} cannot be written: no room, or no codec; try .avi.")
            self._films[out], self._size = film, (width, height)
        if self._size != (width, height):
            raise DataError(
                f"Frame {self._count + 1} of {self._clip.source} has {width} x {height} pixels, the first "
                f"{self._size[0]} x {self._size[1]}: a film needs one size; give --out a folder."
            )
        if shutil.disk_usage(out.parent).free < drawn.nbytes:  # OpenCV does not say so
            raise DataError(f"{out} cannot be written to: no room is left on the disk.")
        film.write(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))


@contextmanager
def _silent() -> Iterator[None]:
    """OpenCV writes about tags to the file descriptor itself."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _part(out: Path) -> Path:
    return out.with_name(f"{out.stem}.part{out.suffix}")


def _palette_png(labels: np.ndarray, tints: Sequence[tuple[int, int, int]]) -> bytes:
    import io

    from PIL import Image

    picture = Image.fromarray(labels.astype(np.uint8), "P")
    picture.putpalette([0, 0, 0, *(value for colour in tints for value in colour)])
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
