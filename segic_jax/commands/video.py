"""`segic video`: follow objects through a clip."""

import hashlib
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from segic_jax.commands.references import WithMasks
from segic_jax.commands.targets import Refused, require_apart
from segic_jax.errors import InputError
from segic_jax.runtime import progress

if TYPE_CHECKING:
    from segic_jax.commands.record import Record


@dataclass(kw_only=True)
class Video(WithMasks):
    """Follow objects through a clip, from masks of its first frame or from references elsewhere.

      segic video clip.mp4 --mask first_frame.png --out clip_masks.mp4
      segic video clip.mp4 --ref cat.jpg cat.png --name cat --out clip_masks.mp4 --out labels/
      segic video clip.mp4 --ref cat.jpg cat.png --negative fox.jpg fox.png --out clip_masks.mp4
      segic video frames/ --context pets.segic --out labels/

    The clip is a video that OpenCV reads or a folder of images, by name. Give --out once or twice: a video
    (.mp4 for players, .webm for browsers) shows the masks on the frames, without sound; a folder gets a
    palette PNG a frame, 0 or the object's number. Beside the first --out lies NAME.jsonl: a line for each
    object on each frame, with "present", scores, area, box and mask.

    Frames are read and written one after another, so a clip may have any length. A stopped run goes on when
    the command is repeated; a finished one is not done again.
    """

    clip: tyro.conf.Positional[Path]
    """A video, or a folder of frames."""
    out: tyro.conf.UseAppendAction[tuple[Path, ...]]
    """A video or a folder to write; again for both."""
    mask: Path | None = None
    """Mask of the first frame, instead of --ref and --context: of one object, or a palette or grey image
    whose values are the objects' numbers."""
    fps: float = 25.0
    """Frames a second of a video that is made from a folder."""

    def run(self) -> int:
        """Follow to the end; 0, or 2 if a frame could not be read."""
        import numpy as np

        from segic_jax.commands.record import Judged, Record, Seen, seen_of
        from segic_jax.commands.resume import run_of, with_files
        from segic_jax.commands.video_files import COLOURS, Videos, objects_of, open_clip
        from segic_jax.inference.example import Example
        from segic_jax.inference.tracker import track_context

        if not self.out:
            raise InputError("Give at least one --out: a video such as masks.mp4, or a folder.")
        if not 0 < self.fps <= 1000:
            raise InputError(f"--fps {self.fps:g} must be above 0 and at most 1000.")
        if self.mask is not None and (self.ref or self.context):
            raise InputError("Give --mask of the first frame, or references; not both.")
        cut, refused = self.cut, Refused()
        clip = open_clip(self.clip, self.fps, refused)
        frames, first = clip.frames(), None
        if self.mask is None:
            segmenter, context = self.ready()
            numbers = dict(enumerate(context.names, 1))
        else:
            require_apart(self.out, [self.mask.parent])  # it may have a frame's name
            first, opening = objects_of(self.mask), next(frames, None)
            if opening is None:
                return 2
            if opening.shape[:2] != first.shape:
                (height, width), (rows, columns) = opening.shape[:2], first.shape
                raise InputError(
                    f"{self.mask} is {columns} x {rows} pixels, the first frame {width} x {height}: "
                    "make them the same size."
                )
            frames = itertools.chain([opening], frames)
            numbers = {number: str(number) for number in np.unique(first).tolist() if number}
            segmenter = self.model()
            context = segmenter.fit(
                [Example(opening, first == number, name=name) for number, name in numbers.items()]
            )
            if negatives := self.examples():
                context = segmenter.fit(negatives, context)
        if len(numbers) > COLOURS:
            raise InputError(f"There are {len(numbers)} classes; a palette numbers at most {COLOURS}.")
        settings = {
            "threshold": self.threshold,
            "keep_absent": self.keep_absent,
            "fps": self.fps,
            "first": None if first is None else hashlib.sha256(first.tobytes()).hexdigest(),
        }
        run = with_files(run_of(segmenter, context, **settings), *clip.files)
        videos = Videos(self.out, clip, numbers)
        record = Record(self.out[0], run, numbers)
        if record.finished:
            for _ in record.before():
                pass
            if videos.there(record.count):
                _say(record, self.out, "were done before")
                return 0
            record = Record(self.out[0], run, numbers)
        try:
            with videos:
                for seen in record.before():  # the videos are drawn again, without the model
                    videos.add(next(frames), seen)
                if first is not None and not record.count:
                    seen = Seen(first, [Judged(True, 1.0, 1.0)] * len(numbers))
                    videos.add(next(frames), seen)
                    record.add(seen, clip.name(0), None)
                if not record.finished:
                    results = track_context(
                        segmenter, context, frames, record.latest, keep_absent=self.keep_absent
                    )
                    for result, latest in progress.bar(
                        results, total=clip.count, unit="frame", initial=record.count, leave=False
                    ):
                        seen = seen_of(result.threshold(cut), numbers)
                        videos.add(result.image, seen)
                        record.add(seen, clip.name(record.count), latest)
        except BaseException:
            if record.count:
                done = f"{record.count} of {clip.count}" if clip.count else f"{record.count}"
                progress.write_line(
                    f"{done} frames are done: the same command goes on from there.", sys.stderr
                )
            raise
        record.finish()
        _say(record, self.out)
        return 2 if refused.said else 0


def _say(record: "Record", outs: Sequence[Path], what: str = "are done") -> None:
    """How many frames there are, and who is not on which."""
    progress.write_line(
        f"{record.count} frames {what}: {', '.join(str(out) for out in (*outs, record.path))}"
    )
    for name, absent in record.absent.items():
        if absent:
            progress.write_line(f"{name}: absent on {len(absent)} frames, {_ranges(absent)}")


def _ranges(numbers: Sequence[int], most: int = 8) -> str:
    """0-3, 7, 9-12."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    text = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs[:most])
    return text + (f" and {len(runs) - most} more stretches" if len(runs) > most else "")
