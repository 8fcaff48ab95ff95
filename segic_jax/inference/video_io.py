"""Read a video or a folder of frames, and write videos and label images, one frame at a time."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Integer, UInt8

from segic_jax.data.image_folder import list_images
from segic_jax.data.images import open_image, palette_png, read_image
from segic_jax.data.mask_pixels import is_array_file
from segic_jax.data.mask_reader import read_objects
from segic_jax.errors import DataError, InputError
from segic_jax.inference.overlay import class_colours, draw_masks
from segic_jax.inference.video_log import FrameRecord
from segic_jax.runtime.atomic_write import atomic_write, make_folder, part_path

Frame = UInt8[np.ndarray, "height width 3"]  # RGB
OnError = Callable[[str, DataError], None]

# What OpenCV's own FFmpeg writes: MPEG-4 for players, VP8 for browsers. VP9 takes six times as long as VP8.
CODECS = {".mp4": "mp4v", ".webm": "VP80", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "XVID"}
MAX_OBJECTS = 255  # that a palette image can number
DEFAULT_FPS = 25.0  # of a video that does not say its own
MAX_FPS = 60.0  # of a written video whose frames come at varying times
# Names of codecs by what a file calls them.
CODEC_NAMES = {"av01": "AV1", "hev1": "HEVC", "hvc1": "HEVC", "hevc": "HEVC", "vvc1": "VVC", "apch": "ProRes"}


@dataclass(frozen=True)
class VideoInput:
    """Describe a video, or a folder of frames, that is opened for reading."""

    path: Path
    count: int | None  # of frames, as far as is known
    fps: float
    frame_name: Callable[[int], str]  # of a frame that was read, by its number; without a suffix
    frames: Iterator[Frame]
    files: tuple[Path, ...]
    times: tuple[float, ...] = ()  # of the frames in seconds, where they come at varying times

    def time(self, number: int) -> float:
        """Return when a frame is shown, in seconds."""
        return self.times[number] if number < len(self.times) else number / self.fps

    def repetitions(self, number: int) -> int:
        """Return how often a video of `fps` frames a second repeats a frame, so that it lasts as long."""
        if number + 1 >= len(self.times):
            return 1
        start, stop = (round(self.times[i] * self.fps) for i in (number, number + 1))
        return max(1, stop - start)


def open_video(path: Path, fps: float, on_error: OnError) -> VideoInput:
    """Open a video, or a folder of images in the order of their names (2 before 10).

    Args:
        fps: frames a second of a folder.
        on_error: called with frames that cannot be read, which are left out, or with a damaged video.

    Raises:
        DataError: the file is missing or no video, or the folder has no images.
    """
    if path.is_dir():
        files = sorted(map(Path, list_images(path)), key=_number_key)
        return _open_folder(path, files, fps, on_error)
    if not path.exists():
        raise DataError(f"{path} is missing: there is no such video or folder.")
    capture = cv2.VideoCapture(str(path))
    success, first = capture.read()
    if not success:
        raise DataError(_unreadable(path, capture))
    count, rate = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS)
    times = _varying_times(_read_times(path))
    if times:
        rate = min(MAX_FPS, 1 / np.diff(times).min())
    return VideoInput(
        path=path,
        count=count if count > 0 else None,
        fps=rate if 0 < rate <= 1000 else DEFAULT_FPS,
        times=times,
        frame_name="{:06}".format,
        frames=_read_frames(capture, first, path, count, on_error),
        files=(path,),
    )


def _unreadable(path: Path, capture: cv2.VideoCapture) -> str:
    """Return the message for a file without a frame that can be read, with its codec if it has one."""
    code = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True).decode("ascii", "replace")
    if not capture.isOpened() or not code.isprintable() or not code.strip():
        return f"{path} cannot be read as a video: use MP4, WebM, MOV or AVI, or a folder of frames."
    codec = CODEC_NAMES.get(code.lower(), code)
    return (
        f"{path} is encoded as {codec}, which cannot be decoded here: convert it with "
        f"ffmpeg -i {path.name} -c:v libx264 {path.stem}_h264.mp4, or give a folder of frames."
    )


def _read_times(path: Path) -> list[float]:
    """Return when the frames of a video are shown, in seconds, without decoding them."""
    times, capture = [], cv2.VideoCapture(str(path))
    capture.set(cv2.CAP_PROP_FORMAT, -1)
    while capture.grab():
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    capture.release()
    return sorted(times)  # a file holds frames in the order of decoding


def _varying_times(times: Sequence[float]) -> tuple[float, ...]:
    """Return times whose differences vary, from 0 on; an empty tuple for a constant rate."""
    gaps = np.diff(times)
    if len(gaps) < 2 or gaps.min() <= 0 or np.ptp(gaps) <= 0.1 * np.median(gaps) + 0.001:
        return ()
    return tuple(float(time - times[0]) for time in times)


def _read_frames(
    capture: cv2.VideoCapture, first: np.ndarray, path: Path, count: int, on_error: OnError
) -> Iterator[Frame]:
    frame, success, read = first, True, 0
    try:
        while success:
            read += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            success, frame = capture.read()
    finally:
        capture.release()
    if read < count - 1:  # some containers count one too many
        on_error(
            str(path), DataError(f"{path} is damaged or cut off: {read} of its {count} frames can be read.")
        )


def _open_folder(path: Path, files: Sequence[Path], fps: float, on_error: OnError) -> VideoInput:
    names: list[str] = []  # of the frames that were read

    def frames() -> Iterator[Frame]:
        for file in files:
            try:
                frame = read_image(file)
            except DataError as error:
                on_error(str(file), error)
                continue
            names.append(file.stem)
            yield frame

    return VideoInput(path, len(files), fps, lambda number: names[number], frames(), tuple(files))


def _number_key(path: Path) -> list:
    """Sort names by the numbers in them, before text."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.stem)]


def read_object_labels(mask: Path) -> Integer[np.ndarray, "height width"]:
    """Read the numbers of the objects on the first frame; a single object without a number is 1.

    Raises:
        DataError: the mask cannot be read, is empty, or has numbers beyond those of a palette.
    """
    labels, names = read_objects(mask)
    if not names:
        raise DataError(f"{mask} is empty: mark the objects on the first frame.")
    if len(names) == 1 and (is_array_file(mask) or open_image(mask).mode != "P"):
        return (labels != 0).astype(np.uint8)
    invalid = [number for number in names if not 0 < number <= MAX_OBJECTS]
    if invalid:
        raise DataError(f"{mask} numbers an object {invalid[0]}; numbers must be 1 to {MAX_OBJECTS}.")
    return labels


class VideoOutputs:
    """Write videos of the masks on their frames, and folders of label images.

    This is a context manager: a video appears under its name at the end, if all of its frames are in it. A
    label image appears at once.
    """

    def __init__(self, paths: Sequence[Path], video: VideoInput, objects: Mapping[int, str]):
        """Check the paths and create the folders.

        Args:
            paths: files with a suffix of CODECS, and folders without a suffix.
            objects: names of the objects by their numbers.

        Raises:
            InputError: a suffix is unknown, a path is the input itself, or a folder cannot be created.
        """
        self._input, self._objects, self._count = video, objects, 0
        self._written = 0  # frames of each video, repetitions included
        self._writers: dict[Path, cv2.VideoWriter | None] = {path: None for path in paths if path.suffix}
        self._folders = [path for path in paths if not path.suffix]
        self._colours = class_colours(max(objects))
        for path in paths:
            if path.suffix and path.suffix.lower() not in CODECS:
                raise InputError(
                    f"{path}: the suffix of a video must be one of {', '.join(CODECS)}; a folder has none."
                )
            if path.exists() and path.samefile(video.path):
                raise InputError(f"{path} is the input itself: give another --out.")
            if path.suffix and path.is_dir():
                raise InputError(f"{path} is a folder: give another --out.")
            make_folder(path.parent if path.suffix else path)

    def __enter__(self) -> "VideoOutputs":
        return self

    def __exit__(self, exception: type[BaseException] | None, *_) -> None:
        writers = {path: writer for path, writer in self._writers.items() if writer is not None}
        for writer in writers.values():
            writer.release()
        try:
            if exception is not None:  # the next run draws the videos again from the log
                return
            for path in writers:
                part = part_path(path, keep_suffix=True)
                if (count := _count_frames(part)) < self._written:
                    raise DataError(
                        f"{path} cannot be written to: only {count} of its {self._written} frames are in the "
                        "file; free some disk space."
                    )
                part.replace(path)
        finally:
            for path in writers:
                part_path(path, keep_suffix=True).unlink(missing_ok=True)

    def complete(self, count: int) -> bool:
        """Return whether every video exists, and every folder has `count` label images."""
        return all(path.is_file() for path in self._writers) and all(
            len(list(path.glob("*.png"))) >= count for path in self._folders
        )

    def add(self, frame: Frame, record: FrameRecord) -> None:
        """Write one frame.

        Raises:
            DataError: the disk is full or fails, or a frame of a video has another size than the first.
        """
        if self._writers:
            drawn = self._draw(frame, record)
            repetitions = self._input.repetitions(self._count)
            for path in self._writers:
                for _ in range(repetitions):
                    self._write(path, drawn)
            self._written += repetitions
        for folder in self._folders:
            name = f"{self._input.frame_name(self._count)}.png"
            atomic_write(folder / name, palette_png(record.labels, self._colours))
        self._count += 1

    def _draw(self, frame: Frame, record: FrameRecord) -> Frame:
        masks = {number: record.labels == number for number in self._objects}
        visible = {number: mask for number, mask in masks.items() if mask.any()}
        drawn = draw_masks(frame, visible.values(), [self._colours[number - 1] for number in visible])
        objects = zip(self._objects.values(), record.objects, strict=True)
        if absent := [name for name, state in objects if not state.present]:
            _write_text(drawn, "absent: " + ", ".join(absent))
        return drawn

    def _write(self, path: Path, drawn: Frame) -> None:
        height, width = drawn.shape[:2]
        writer = self._writers[path]
        if writer is None:
            fourcc = cv2.VideoWriter.fourcc(*CODECS[path.suffix.lower()])
            with _silenced_stderr():  # OpenCV prints warnings about tags
                part = str(part_path(path, keep_suffix=True))
                writer = cv2.VideoWriter(part, fourcc, self._input.fps, (width, height))
            if not writer.isOpened():
                raise DataError(f"{path} cannot be written to: the disk is full, or the codec is missing.")
            self._writers[path], self._size = writer, (width, height)
        if self._size != (width, height):
            raise DataError(
                f"Frame {self._count + 1} of {self._input.path} is {width} x {height} pixels, the first "
                f"{self._size[0]} x {self._size[1]}: a video needs frames of one size; give --out a folder."
            )
        if shutil.disk_usage(path.parent).free < drawn.nbytes:  # OpenCV does not report a full disk
            raise DataError(f"{path} cannot be written to: the disk is full.")
        writer.write(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))


@contextmanager
def _silenced_stderr() -> Iterator[None]:
    """Discard what compiled libraries write to the file descriptor of stderr."""
    sys.stderr.flush()
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


def _count_frames(path: Path) -> int:
    """Return the number of encoded frames in a file, without decoding them."""
    count, capture = 0, cv2.VideoCapture(str(path))
    capture.set(cv2.CAP_PROP_FORMAT, -1)
    while capture.grab():
        count += 1
    capture.release()
    return count


def _write_text(image: Frame, text: str) -> None:
    """Draw white text on black into the lower left corner; OpenCV has ASCII letters only."""
    text = text.encode("ascii", "replace").decode()
    scale, font = max(0.35, image.shape[0] / 900), cv2.FONT_HERSHEY_SIMPLEX
    thickness = max(1, round(1.5 * scale))
    (width, height), below = cv2.getTextSize(text, font, scale, thickness)
    margin = max(3, height // 2)
    bottom = image.shape[0] - margin - below
    cv2.rectangle(image, (0, bottom - height - margin), (width + 2 * margin, image.shape[0]), (0, 0, 0), -1)
    cv2.putText(image, text, (margin, bottom), font, scale, (255, 255, 255), thickness, cv2.LINE_AA)
