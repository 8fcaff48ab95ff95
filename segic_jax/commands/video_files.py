"""Videos and folders of frames, read and written one frame at a time."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Integer, UInt8

from segic_jax.commands.record import Seen
from segic_jax.commands.targets import Refused, make_folder
from segic_jax.data.image_files import ENDINGS, open_image, read_image, read_labels
from segic_jax.errors import DataError, InputError
from segic_jax.inference.example import as_mask
from segic_jax.inference.overlay import class_colours, draw_masks
from segic_jax.inference.png import palette_png
from segic_jax.runtime.atomic_write import atomic_write, part_path

Frame = UInt8[np.ndarray, "height width 3"]

# What OpenCV's own FFmpeg writes: MPEG-4 for players, VP8 for browsers. VP9 takes six times as long as VP8.
CODECS = {".mp4": "mp4v", ".webm": "VP80", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "XVID"}
COLOURS = 255  # objects that a palette image can number


@dataclass(frozen=True)
class Clip:
    """What to follow objects in."""

    source: Path
    count: int | None  # of frames, as far as is known
    fps: float
    name: Callable[[int], str]  # of a frame's label image, without ending
    frames: Callable[[], Iterator[Frame]]  # RGB; once
    files: tuple[Path, ...]


def open_clip(path: Path, fps: float, refused: Refused) -> Clip:
    """A video, or a folder of images in the order of their names (2 before 10).

    Args:
        fps: of a folder.
        refused: is told frames that cannot be read, which are then left out.

    Raises:
        DataError: there is no such file, it is no video, or the folder has no image.
    """
    if path.is_dir():
        files = sorted((one for one in path.iterdir() if one.suffix.lower() in ENDINGS), key=_natural)
        if not files:
            raise DataError(f"{path} holds no image ({', '.join(ENDINGS)}).")
        return _folder(path, files, fps, refused)
    if not path.exists():
        raise DataError(f"{path}: there is no such video or folder.")
    video = cv2.VideoCapture(str(path))
    there, _ = video.read()
    if not there:
        raise DataError(f"{path} is no video that can be read: give MP4, WebM, MOV or AVI, or frames.")
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    rate = video.get(cv2.CAP_PROP_FPS)
    video.release()
    return Clip(
        path,
        count if count > 0 else None,
        rate if 0 < rate <= 1000 else 25.0,
        "{:06}".format,
        lambda: _video_frames(path, count, refused),
        (path,),
    )


def _video_frames(path: Path, count: int, refused: Refused) -> Iterator[Frame]:
    video, read = cv2.VideoCapture(str(path)), 0
    try:
        while True:
            there, frame = video.read()
            if not there:
                break
            read += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    finally:
        video.release()
    if read < count - 1:  # some containers count one too many
        refused(
            str(path), DataError(f"{path} is damaged or cut off: {read} of its {count} frames can be read.")
        )


def _folder(path: Path, files: Sequence[Path], fps: float, refused: Refused) -> Clip:
    read: list[str] = []

    def frames() -> Iterator[Frame]:
        for file in files:
            try:
                frame = read_image(file)
            except DataError as error:
                refused(str(file), error)
                continue
            read.append(file.stem)
            yield frame

    return Clip(path, len(files), fps, lambda number: read[number], frames, tuple(files))


def _natural(path: Path) -> list:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.stem)]


def objects_of(mask: Path) -> Integer[np.ndarray, "height width"]:
    """Numbers of the objects on the first frame; an object alone is 1 where the mask does not number it.

    Raises:
        DataError: it cannot be read or is empty, or numbers beyond those of a palette.
    """
    opened = open_image(mask)
    labels = None
    if opened.mode != "P":
        # Where it fails there are several objects, or no image of one channel, which `read_labels` reports.
        with suppress(DataError):
            labels = as_mask(mask).astype(np.uint8)
    if labels is None:
        labels = read_labels(mask)
    if not labels.any():
        raise DataError(f"{mask} is empty: it marks no pixel.")
    if labels.min() < 0 or labels.max() > COLOURS:
        wrong = min(labels.min(), 0) or labels.max()
        raise DataError(f"{mask} numbers an object {wrong}; numbers are 1 to {COLOURS}.")
    return labels


class Videos:
    """What is written: videos of the masks on their frames, and folders of label images.

    A video gets its name when all of it is there, which is a DataError otherwise; a label image at once.
    """

    def __init__(self, outs: Sequence[Path], clip: Clip, numbers: Mapping[int, str]):
        """
        Args:
            numbers: of the objects, with their names.

        Raises:
            InputError: an ending is unknown, an output is the clip itself, or a folder cannot be made.
        """
        self._clip, self._numbers, self._count = clip, numbers, 0
        self._videos: dict[Path, cv2.VideoWriter | None] = {out: None for out in outs if out.suffix}
        self._folders = [out for out in outs if not out.suffix]
        self._tints = class_colours(max(numbers))
        for out in outs:
            if out.suffix and out.suffix.lower() not in CODECS:
                raise InputError(f"{out}: a video ends in {', '.join(CODECS)}; a folder has no ending.")
            if out.exists() and out.samefile(clip.source):
                raise InputError(f"{out} is the clip itself: give another --out.")
            if out.suffix and out.is_dir():
                raise InputError(f"{out} is a folder: give another --out.")
            make_folder(out.parent if out.suffix else out)

    def __enter__(self) -> "Videos":
        return self

    def __exit__(self, kind, *_) -> None:
        written = {out: video for out, video in self._videos.items() if video is not None}
        for video in written.values():
            video.release()
        try:
            for out in written if kind is None else ():  # after an error they are made again from the record
                part = part_path(out, keep_suffix=True)
                if (arrived := _frames_in(part)) < self._count:
                    raise DataError(
                        f"{out} cannot be written to: {arrived} of its {self._count} frames arrived; make "
                        "room on the disk."
                    )
                part.replace(out)
        finally:
            for out in written:
                part_path(out, keep_suffix=True).unlink(missing_ok=True)

    def there(self, count: int) -> bool:
        """Whether there is a file of each video, and as many label images as frames."""
        return all(out.is_file() for out in self._videos) and all(
            len(list(out.glob("*.png"))) >= count for out in self._folders
        )

    def add(self, frame: Frame, seen: Seen) -> None:
        """Write one frame.

        Raises:
            DataError: the disk refuses, or a frame of a video has another size than the first.
        """
        if self._videos:
            drawn = self._drawn(frame, seen)
            for out in self._videos:
                self._write(out, drawn)
        for out in self._folders:
            atomic_write(out / f"{self._clip.name(self._count)}.png", palette_png(seen.labels, self._tints))
        self._count += 1

    def _drawn(self, frame: Frame, seen: Seen) -> Frame:
        shown = [number for number in self._numbers if (seen.labels == number).any()]
        drawn = draw_masks(frame, [seen.labels == n for n in shown], [self._tints[n - 1] for n in shown])
        rows = zip(self._numbers.values(), seen.judged, strict=True)
        if absent := [name for name, one in rows if not one.present]:
            _written(drawn, "absent: " + ", ".join(absent))
        return drawn

    def _write(self, out: Path, drawn: Frame) -> None:
        height, width = drawn.shape[:2]
        video = self._videos[out]
        if video is None:
            fourcc = cv2.VideoWriter.fourcc(*CODECS[out.suffix.lower()])
            with _silent():
                part = str(part_path(out, keep_suffix=True))
                video = cv2.VideoWriter(part, fourcc, self._clip.fps, (width, height))
            if not video.isOpened():
                raise DataError(f"{out} cannot be written: no room, or no codec; try .avi.")
            self._videos[out], self._size = video, (width, height)
        if self._size != (width, height):
            raise DataError(
                f"Frame {self._count + 1} of {self._clip.source} has {width} x {height} pixels, the first "
                f"{self._size[0]} x {self._size[1]}: a video needs one size; give --out a folder."
            )
        if shutil.disk_usage(out.parent).free < drawn.nbytes:  # OpenCV does not say so
            raise DataError(f"{out} cannot be written to: no room is left on the disk.")
        video.write(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))


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


def _frames_in(video: Path) -> int:
    """As many as can be read: OpenCV does not say when the disk refuses."""
    read, capture = 0, cv2.VideoCapture(str(video))
    while capture.grab():
        read += 1
    capture.release()
    return read


def _written(image: Frame, text: str) -> None:
    """White on black in the lower left corner. OpenCV's letters are those of ASCII."""
    text = text.encode("ascii", "replace").decode()
    scale, font = max(0.35, image.shape[0] / 900), cv2.FONT_HERSHEY_SIMPLEX
    thin = max(1, round(1.5 * scale))
    (width, height), below = cv2.getTextSize(text, font, scale, thin)
    margin = max(3, height // 2)
    bottom = image.shape[0] - margin - below
    cv2.rectangle(image, (0, bottom - height - margin), (width + 2 * margin, image.shape[0]), (0, 0, 0), -1)
    cv2.putText(image, text, (margin, bottom), font, scale, (255, 255, 255), thin, cv2.LINE_AA)
