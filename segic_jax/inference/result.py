"""Represent the segmentation of one target, at the size of the target.

A Result holds the model's small maps. Their logits are resampled to the image once (`image_logits`), and
masks, label map, areas, boxes and scores all come from that pass.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, UInt8, UInt16

from segic_jax.data import masks
from segic_jax.data.images import palette_png
from segic_jax.errors import DataError
from segic_jax.inference.coco_output import AnnotatedMask, coco_annotation, coco_document
from segic_jax.inference.image_logits import Box, ImageLogits, Measured, require_cut
from segic_jax.inference.instances import DEFAULT_INSTANCES, Instance, InstancesFrom, split_mask
from segic_jax.inference.overlay import (
    Colour,
    draw_masks,
    line_width,
    outline_reach,
    rgb_png,
    shrink,
)
from segic_jax.runtime.atomic_write import atomic_write, make_folder, require_path

LISTED = 10  # classes in a description


class Click(NamedTuple):
    """Hold a place on the target, in its pixels, that is inside or outside the object."""

    x: float
    y: float
    inside: bool


@dataclass(frozen=True, eq=False)
class Result:
    """Represent the masks of every class of a Context, in its order.

    A class is absent where it is not `present`, whatever the threshold. It has an empty mask and no place in
    the label map (`keep_absent` keeps it); its logits can be read all the same. A class that is present may
    have an empty mask as well, where no pixel exceeds a high threshold.
    """

    names: tuple[str, ...]
    presence: Float[np.ndarray, " concepts"]  # probability that the image shows the class, 0..1
    present: Bool[
        np.ndarray, " concepts"
    ]  # the decision; True for every mask where the model is not calibrated
    evidence: Float[np.ndarray, "concepts evidence"]  # inputs of `presence`: `inference.presence.EVIDENCE`
    image: UInt8[np.ndarray, "height width 3"]  # the target, RGB
    source: str | None  # its path
    small_logits: Float[np.ndarray, "concepts side side"]  # of the full canvas
    canvas: int  # its side in pixels
    placed: tuple[int, int]  # (h, w) of the image on the canvas
    colours: tuple[Colour, ...]  # of the classes in overlays and palettes; `class_colours` by default
    cut: float = 0.0  # pixels with a larger logit are inside
    keep_absent: bool = False
    instances_from: InstancesFrom = DEFAULT_INSTANCES  # how `instances` separates the objects of a class
    separate: bool = False  # overlays and annotations show each instance, not each class
    clicks: tuple[tuple[int, Click], ...] = ()  # corrections so far, each of a class: `Segmenter.refine`
    warnings: tuple[str, ...] = ()  # sentences about the weights: `Segmenter.warnings`

    def __repr__(self) -> str:
        """Describe the classes in one line."""
        height, width = self.image.shape[:2]
        classes = [
            f"{name} {self.status(i)} ({float(self.presence[i]):.2f})"
            for i, name in enumerate(self.names[:LISTED])
        ]
        more = f" and {len(self.names) - LISTED} more" if len(self.names) > LISTED else ""
        return f"Result of {self.source or 'an image'}, {width} x {height}: {', '.join(classes)}{more}"

    def threshold(self, cut: float) -> "Result":
        """Return the same result with masks cut at another logit; the model does not run again.

        Args:
            cut: any number; pixels whose probability is above 1 / (1 + exp(-cut)) are inside. 0 is 0.5.

        Raises:
            ConfigError: it is no number.
        """
        require_cut(cut)
        return self if cut == self.cut else replace(self, cut=float(cut))

    @property
    def label_map(self) -> UInt16[np.ndarray, "height width"]:
        """Return 1 + the class with the largest logit above the cut, or 0, for each pixel."""
        return self._measured.label_map

    @property
    def areas(self) -> Int64[np.ndarray, " concepts"]:
        """Return the number of pixels of each mask."""
        return self._measured.areas

    @property
    def boxes(self) -> list[Box | None]:
        """Return (x0, y0, x1, y1) around each mask, x1 and y1 just beyond it; None for an empty one."""
        return self._measured.boxes

    @property
    def scores(self) -> Float32[np.ndarray, " concepts"]:
        """Return the mean probability inside each mask; 0 for an empty one."""
        return self._measured.scores

    @cached_property
    def masks(self) -> Bool[np.ndarray, "concepts height width"]:
        """Return where each logit is above the cut; masks of several classes may overlap."""
        return np.stack([self.mask(i) for i in range(len(self.names))])

    def status(self, concept: int) -> str:
        """Say whether a class is "present" or "absent", and what is unusual about its mask.

        Args:
            concept: the class's place in `names`, from 0.
        """
        area = int(self.areas[concept])
        if not self.present[concept]:
            return "absent, mask kept" if area else "absent"
        return "present" if area else "present, no pixel above the threshold"

    def mask(self, concept: int) -> Bool[np.ndarray, "height width"]:
        """Return one of the masks.

        Args:
            concept: the class's place in `names`, from 0.
        """
        return self._mask_rows(concept, 0, len(self.image))

    def logits(self, concept: int | None = None) -> Float32[np.ndarray, "*concepts height width"]:
        """Return the logits of one class, or of all, at the target's size; absent classes have them as well.

        Args:
            concept: the class's place in `names`, from 0; None for all of them.
        """
        chosen = range(len(self.names)) if concept is None else [concept]
        height, width = self.image.shape[:2]
        values = np.empty((len(chosen), height, width), np.float32)
        for row, i in enumerate(chosen):
            for start, stop in self._logits.strips():
                values[row, start:stop] = self._logits.rows(i, start, stop)
        return values if concept is None else values[0]

    def instances(self, concept: int) -> list[Bool[np.ndarray, "height width"]]:
        """Split a mask into the objects that it shows, the largest first, as `instances_from` says.

        Parts that are very small beside the largest connected region are left out.
        """
        height, width = self.image.shape[:2]
        return [instance.rows(0, height, width) for instance in self._instances(concept)]

    def instance_scores(self, concept: int) -> list[float]:
        """Return the mean probability inside each of the `instances`."""
        return [
            instance.score(self._logits.rows(concept, y0, y1)[:, x0:x1])
            for instance in self._instances(concept)
            for x0, y0, x1, y1 in [instance.box]
        ]

    def overlay(self, side: int | None = None) -> UInt8[np.ndarray, "rows columns 3"]:
        """Return the target with every mask tinted and outlined in its class's colour.

        Args:
            side: shrink it until its longer side has at most this number of pixels.
        """
        image = shrink(self.image, side or max(self.image.shape))
        if image is self.image:
            return np.concatenate(list(self._overlay_strips()))
        height, size = len(self.image), image.shape[1::-1]
        rows, colours = self._shown()
        small = (
            cv2.resize(of(0, height).view(np.uint8), size, interpolation=cv2.INTER_NEAREST).view(bool)
            for of in rows
        )
        return draw_masks(image, small, colours)

    def overlay_png(self) -> bytes:
        """Return `overlay` as a PNG file."""
        return b"".join(self._overlay_png())

    def _overlay_png(self) -> Iterator[bytes]:
        height, width = self.image.shape[:2]
        return rgb_png(width, height, self._overlay_strips())

    def _overlay_strips(self) -> Iterator[UInt8[np.ndarray, "rows width 3"]]:
        """Draw the overlay a strip at a time, with the lines that reach into it from beyond."""
        width, height = line_width(self.image.shape[:2]), len(self.image)
        reach = outline_reach(width)
        rows, colours = self._shown()
        for start, stop in self._logits.strips():
            first, last = max(0, start - reach), min(height, stop + reach)
            strip = draw_masks(self.image[first:last], [of(first, last) for of in rows], colours, width)
            yield strip[start - first : stop - first]

    def _shown(self) -> tuple[list[Callable[[int, int], np.ndarray]], list[Colour]]:
        """Return what the overlay shows: functions that give rows of a mask, and the colours of the masks."""
        visible = np.flatnonzero(self.areas).tolist()
        if not self.separate:
            return [partial(self._mask_rows, i) for i in visible], [self.colours[i] for i in visible]
        width = self.image.shape[1]
        shown = [(instance, self.colours[i]) for i in visible for instance in self._instances(i)]
        return [partial(instance.rows, width=width) for instance, _ in shown], [colour for _, colour in shown]

    def label_png(self) -> bytes:
        """Return `label_map` as a palette PNG in the classes' colours; 16-bit grey above 255 classes."""
        if len(self.names) > 255:
            return cv2.imencode(".png", self.label_map)[1].tobytes()
        return palette_png(self.label_map, self.colours)

    def to_coco(self, image_id: int = 1, first_id: int = 1) -> list[dict]:
        """Return COCO annotations of the masks that are not empty, or of each instance if `separate`.

        Each has a compressed RLE, bbox, area, category and score. Category ids are 1 + the class's place in
        `names`.
        """
        return [
            coco_annotation(
                mask, self.names[mask.concept], float(self.presence[mask.concept]), image_id, number
            )
            for number, mask in enumerate(self._annotated(), first_id)
        ]

    def _annotated(self) -> Iterator[AnnotatedMask]:
        """Yield everything that gets an annotation."""
        height, width = self.image.shape[:2]
        for i, box in enumerate(self.boxes):
            if box is None:
                continue
            if not self.separate:
                area, score = int(self.areas[i]), float(self.scores[i])
                yield AnnotatedMask(i, self._run_lengths[i], box, area, score)
                continue
            for instance, score in zip(self._instances(i), self.instance_scores(i), strict=True):
                mask = instance.rows(0, height, width)
                yield AnnotatedMask(i, masks.encode(mask), instance.box, int(np.count_nonzero(mask)), score)

    def coco_file(self, name: str = "") -> dict:
        """Return COCO's images, categories and annotations; the image also has the status of every class.

        Its "presence" is the probability of each class, its "status" what `status` says.

        Args:
            name: `file_name` of the image; by default the path that it came from.
        """
        height, width = self.image.shape[:2]
        presence = dict(zip(self.names, self.presence.tolist(), strict=True))
        status = {name: self.status(i) for i, name in enumerate(self.names)}
        return coco_document(name or self.source or "", (height, width), presence, status, self.to_coco())

    def save(self, folder: Path | str, name: str = "", info: dict | None = None) -> list[Path]:
        """Write overlays/NAME.png, labels/NAME.png and annotations/NAME.json, as `segic predict` does.

        Args:
            name: by default that of the target's file without its ending, or "image".
            info: added to the COCO file beside images, categories and annotations.

        Returns:
            The files, each of which appears when it is complete; the annotations are written last.

        Raises:
            DataError: a folder cannot be created, or a file cannot be written.
        """
        folder = require_path(folder, DataError)
        name = name or (Path(self.source).stem if self.source else "image")
        coco = self.coco_file() | ({"info": info} if info else {})
        files = {
            Path(folder, "overlays", f"{name}.png"): self._overlay_png,
            Path(folder, "labels", f"{name}.png"): self.label_png,
            Path(folder, "annotations", f"{name}.json"): (json.dumps(coco) + "\n").encode,
        }
        for file, content in files.items():
            make_folder(file.parent)
            atomic_write(file, content())
        return list(files)

    @cached_property
    def _run_lengths(self) -> dict[int, dict]:
        """Return the RLE of each mask that is not empty, by place."""
        return {i: masks.encode(self.mask(i)) for i, box in enumerate(self.boxes) if box is not None}

    @cached_property
    def _logits(self) -> ImageLogits:
        return ImageLogits(self.small_logits, self.canvas, self.placed, self.image.shape[:2])

    @cached_property
    def _measured(self) -> Measured:
        shown = np.flatnonzero(self.present | self.keep_absent).tolist()
        return self._logits.measure(shown, self.cut)

    def _mask_rows(self, concept: int, start: int, stop: int) -> Bool[np.ndarray, "rows width"]:
        """Return the mask's rows from `start` to before `stop`."""
        width, packed = self.image.shape[1], self._measured.masks[concept]
        return np.zeros((stop - start, width), bool) if packed is None else packed.rows(start, stop, width)

    def _instances(self, concept: int) -> list[Instance]:
        """Return the instances of a class, which are found once."""
        if concept not in self._found_instances:
            self._found_instances[concept] = split_mask(self.mask(concept), self.instances_from)
        return self._found_instances[concept]

    @cached_property
    def _found_instances(self) -> dict[int, list[Instance]]:
        return {}
