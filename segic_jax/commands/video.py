"""Define `segic video`: track objects through a video."""

import hashlib
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from segic_jax.commands.arguments import MaskArguments, SkippedInputs, bar, print_references
from segic_jax.errors import InputError
from segic_jax.runtime import progress

if TYPE_CHECKING:
    import numpy as np

    from segic_jax.inference.context import Context
    from segic_jax.inference.segmenter import Segmenter
    from segic_jax.inference.video_log import VideoLog


@dataclass(kw_only=True)
class Video(MaskArguments):
    """Track objects through a video, given masks of its first frame or references from elsewhere.

      segic video clip.mp4 --mask first_frame.png --out clip_masks.mp4
      segic video clip.mp4 --ref cat.jpg cat.png --name cat --out clip_masks.mp4 --out labels/
      segic video clip.mp4 --ref cat.jpg cat.png --negative fox.jpg fox.png --out clip_masks.mp4
      segic video frames/ --context pets.segic --out labels/

    The input is a video that OpenCV can read, or a folder of images, which are ordered by name. Give --out
    once or twice: a video (.mp4 for players, .webm for browsers) shows the masks on the frames, without
    sound; a folder contains a palette PNG of each frame, with 0 or the number of the object. OUT.jsonl
    beside the first --out, such as masks.mp4.jsonl, has a line for each object on each frame, with its time,
    "present", scores, area, box and mask. Where frames come at varying times, a written video repeats frames
    and so keeps the times.

    Frames are read and written one at a time, so a video may have any length. Repeat the command to continue
    a stopped run; a finished one is not run again."""

    video: tyro.conf.Positional[Path]
    """A video, or a folder of frames."""
    out: tyro.conf.UseAppendAction[tuple[Path, ...]]
    """A video or a folder to write."""
    mask: Path | None = None
    """A mask of the first frame, instead of --ref and --context: of a single object, or a palette or grey
    image whose values are the numbers of the objects."""
    fps: float = 25.0
    """Frames a second, for a folder of frames."""

    def run(self) -> int:
        """Track to the end; return 2 if a frame cannot be read."""
        from segic_jax.inference.output_folder import file_run_id, run_id
        from segic_jax.inference.tracker import track_context
        from segic_jax.inference.video_io import MAX_OBJECTS, VideoOutputs, open_video
        from segic_jax.inference.video_log import FrameRecord, ObjectRecord, VideoLog, frame_record

        if self.method != "segic":
            raise InputError("Videos are tracked with the trained head: leave --method out.")
        if not self.out:
            raise InputError("Give at least one --out: a video such as masks.mp4, or a folder.")
        if not 0 < self.fps <= 1000:
            raise InputError(f"--fps {self.fps:g} must be above 0 and at most 1000.")
        if self.mask is not None and (self.ref or self.context):
            raise InputError("Give either --mask of the first frame, or references, not both.")
        self._require_apart()
        if self.mask is None and not (self.ref or self.context):
            raise InputError(
                "Say what to track: --mask FILE for objects of the first frame, --ref IMAGE MASK, or "
                "--context FILE."
            )
        cut, skipped = self.cut, SkippedInputs()
        video = open_video(self.video, self.fps, skipped)
        frames, labels = video.frames, None
        if self.mask is None:
            segmenter, context = self.load()
            objects = dict(enumerate(context.names, 1))
        else:
            if (first := next(frames, None)) is None:
                return 2
            frames = itertools.chain([first], frames)
            segmenter, context, labels = self._fit_first_frame(first)
            objects = {int(name): name for name in context.names}
        if len(objects) > MAX_OBJECTS:
            raise InputError(f"There are {len(objects)} classes; a palette numbers at most {MAX_OBJECTS}.")
        settings = {
            "threshold": self.threshold,
            "keep_absent": self.keep_absent,
            "fps": self.fps,
            "first": None if labels is None else hashlib.sha256(labels.tobytes()).hexdigest(),
        }
        run = file_run_id(run_id(segmenter, context, **settings), *video.files)
        outputs = VideoOutputs(self.out, video, objects)
        log = VideoLog(self.out[0], run, objects)
        if log.finished:
            for _ in log.replay():
                pass
            if outputs.complete(log.count):
                _print_summary(log, self.out, "were done before")
                return 0
            log = VideoLog(self.out[0], run, objects)
        try:
            with outputs:
                for record in log.replay():  # the videos are drawn again, without the model
                    outputs.add(next(frames), record)
                if labels is not None and not log.count:
                    record = FrameRecord(labels, [ObjectRecord(True, 1.0, 1.0)] * len(objects))
                    outputs.add(next(frames), record)
                    log.add(record, video.frame_name(0), video.time(0), None)
                if not log.finished:
                    results = track_context(
                        segmenter, context, frames, log.state, cut=cut, keep_absent=self.keep_absent
                    )
                    for result, state in bar(results, total=video.count, unit="frame", initial=log.count):
                        record = frame_record(result, objects)
                        outputs.add(result.image, record)
                        log.add(record, video.frame_name(log.count), video.time(log.count), state)
        except BaseException:
            if log.count:
                count = f"{log.count} of {video.count}" if video.count else f"{log.count}"
                progress.write_line(
                    f"{count} frames are done: repeat the command to continue from there.", to_stderr=True
                )
            raise
        log.finish()
        _print_summary(log, self.out, "are done")
        return 2 if skipped.messages else 0

    def _require_apart(self) -> None:
        """Raise InputError if a label image, which has a frame's name, could replace a mask or an image."""
        inputs = [*self.example_files, *([] if self.mask is None else [self.mask])]
        folders = {os.path.realpath(file.parent): file for file in inputs}
        for out in self.out:
            if (file := folders.get(os.path.realpath(out))) is not None:
                raise InputError(
                    f"{out} is the folder of {file}, which a label image could replace: give another --out."
                )

    def _fit_first_frame(self, frame: "np.ndarray") -> "tuple[Segmenter, Context, np.ndarray]":
        """Make a context of the objects of --mask on the first frame; their numbers are the names.

        Returns:
            The model, the context, and the label map of the mask.

        Raises:
            InputError: the mask has another size than the frame, or a file cannot be used.
        """
        import numpy as np

        from segic_jax.inference.example import Example
        from segic_jax.inference.video_io import read_object_labels

        assert self.mask is not None
        labels = read_object_labels(self.mask)
        if frame.shape[:2] != labels.shape:
            (height, width), (rows, columns) = frame.shape[:2], labels.shape
            raise InputError(
                f"{self.mask} is {columns} x {rows} pixels, the first frame {width} x {height}: "
                "make them the same size."
            )
        segmenter = self.load_model()
        numbers = [number for number in np.unique(labels).tolist() if number]
        context = segmenter.fit([Example(frame, labels == number, name=str(number)) for number in numbers])
        if self.examples:  # negatives
            context = segmenter.fit(self.examples, context)
        print_references(context)
        return segmenter, context, labels


def _print_summary(log: "VideoLog", outputs: Sequence[Path], state: str) -> None:
    """Print how many frames there are, and on which of them each object is absent."""
    files = ", ".join(str(path) for path in (*outputs, log.path))
    progress.write_line(f"{log.count} frames {state}: {files}")
    for status, frames in (("absent", log.absent), ("no pixel above the threshold", log.emptied)):
        for name, numbers in frames.items():
            if numbers:
                progress.write_line(f"{name}: {status} on {len(numbers)} frames, {_format_ranges(numbers)}")


def _format_ranges(numbers: Sequence[int], limit: int = 8) -> str:
    """Format increasing numbers as 0-3, 7, 9-12."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges[:limit])
    return text + (f" and {len(ranges) - limit} more ranges" if len(ranges) > limit else "")
