"""Give the tracker the label maps of a clip, at the size that its semantics take."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Integer

from segic_jax.data.masks import resize_nearest
from segic_jax.data.preprocess import place_masks
from segic_jax.data.video import Clip, VideoSource, other_size


class ClipAnnotations(dict):
    """Map frame numbers to label maps, which are read when asked for and resized to their frames.

    Only officially, where `canvas` is given, does the first map keep another size, if it fits on the canvas.
    """

    def __init__(
        self,
        source: VideoSource,
        clip: Clip,
        read_labels: Callable[[int], np.ndarray],
        canvas: int | None,
        notes: list[str],
    ):
        super().__init__(clip.annotations)
        self._source, self._clip, self._read_labels = source, clip, read_labels
        self._canvas, self._notes = canvas, notes
        self.current: tuple[int, np.ndarray] | None = None  # number and image of the frame that was read last

    def __getitem__(self, number: int) -> Integer[np.ndarray, "height width"]:
        labels, path = self._read_labels(number), self._clip.annotations[number]
        # The official semantics take the first annotation for the first frame.
        shown = number if self._canvas is None else 0
        if self.current is not None and self.current[0] == shown:
            frame = self.current[1]
        else:
            frame = self._source.frame(self._clip, shown)
        height, width = frame.shape[:2]
        note = other_size(labels, path, height, width)
        if not note:
            return labels
        if self._canvas and place_masks((labels > 0)[None], max(height, width), self._canvas) is not None:
            self._notes.append(
                f"{note}: it is scaled as the frame is, and predictions have its size, as officially."
            )
            return labels
        self._notes.append(f"{note}: it is resized to the frame, nearest pixel.")
        return resize_nearest(labels, height, width)
