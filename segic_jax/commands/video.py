"""`segic video`: follow objects through a clip."""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from segic_jax.commands.references import WithReferences
from segic_jax.commands.targets import Refused, progress, require_apart, say
from segic_jax.config import InputError


@dataclass(kw_only=True)
class Video(WithReferences):
    """Follow objects through a clip, from masks of its first frame or from references elsewhere.

      segic video clip.mp4 --mask first_frame.png --out clip_masks.mp4
      segic video clip.mp4 --ref cat.jpg cat.png --name cat --out clip_masks.mp4 --out labels/
      segic video frames/ --context pets.segic --out labels/

    The clip is a film that OpenCV reads or a folder of pictures, by name. Give --out once or twice: a film
    (.mp4 for players, .webm for browsers) shows the masks on the frames, without sound; a folder gets a
    palette PNG a frame, 0 or the object's number. Frames are read and written one after another, so a
    clip may have any length. Ctrl-C ends the film where it is, and what is written stays.
    """

    clip: tyro.conf.Positional[Path]
    """A film, or a folder of frames."""
    out: tyro.conf.UseAppendAction[tuple[Path, ...]]
    """A film or a folder to write; again for both."""
    mask: Path | None = None
    """Mask of the first frame: of one object, or a palette or grey picture whose values are the objects'
    numbers."""
    fps: float = 25.0
    """Frames a second of a film that is made from a folder."""

    def run(self) -> int:
        """Follow to the end; 0, or 2 if a frame could not be read."""
        import numpy as np

        from segic_jax.commands.films import Films, objects_of, open_clip
        from segic_jax.evaluate.video import Tracker, prompt_of, tracked

        if not self.out:
            raise InputError("Give at least one --out: a film such as masks.mp4, or a folder.")
        if not 0 < self.fps <= 1000:
            raise InputError(f"--fps {self.fps:g} must be above 0 and at most 1000.")
        if self.negative:
            raise InputError("segic video takes no --negative: the tracker of SegIC knows none.")
        refused = Refused()
        clip = open_clip(self.clip, self.fps, refused)
        first = None
        if self.mask is not None:
            if self.ref or self.context:
                raise InputError("Give --mask of the first frame, or references; not both.")
            require_apart(self.out, [self.mask.parent])  # it may have a frame's name
            first = objects_of(self.mask)
            from segic_jax.compile_cache import use_compile_cache
            from segic_jax.segmenter import Segmenter

            use_compile_cache()
            segmenter = Segmenter.load(self.weights)
        else:
            segmenter, context = self.ready()
        tracker = Tracker(segmenter.bundle, prompt=prompt_of(segmenter.bundle))
        if first is None:
            if context.negatives:
                say("The context's negative examples are not used in videos.", file=sys.stderr)
            tracker.add(np.stack([concept.visual.mean(0) for concept in context.concepts]))
        with Films(self.out, clip) as films:
            for frame, labels in progress(
                tracked(tracker, clip.frames(), first), total=clip.count, unit="frame"
            ):
                films.add(frame, labels)
        return 2 if refused.said else 0
