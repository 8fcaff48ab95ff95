"""What was found in one target, at the target's own size.

A Result holds the model's small maps; masks, label map and logits are made of them when they are asked for, a
strip of rows at a time, so that another threshold or a large image costs no second run and little memory.
"""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8, UInt16
from PIL import Image

from segic_jax.data.preprocess import Taps, bilinear_taps, resample
from segic_jax.errors import DataError
from segic_jax.inference.overlay import Colour, draw_masks, line_width, shrink
from segic_jax.inference.png import rgb_png
from segic_jax.runtime.atomic_write import atomic_write, require_path

STRIP = 1 << 22  # pixels that are worked on at a time
SMALLEST = 0.02  # of the mask: a connected region below this share is no object of its own


class _Measured(NamedTuple):
    label_map: UInt16[np.ndarray, "height width"]
    areas: np.ndarray
    boxes: list
    scores: Float[np.ndarray, " concepts"]


@dataclass(frozen=True, eq=False)
class Result:
    """Masks of every class of the Context, in its order.

    A class that is not `present` has an empty mask and no place in the label map (`keep_absent` keeps it);
    its logits can be read all the same.
    """

    names: tuple[str, ...]
    presence: Float[np.ndarray, " concepts"]  # 0..1: how probable it is that the class is there at all
    present: Bool[np.ndarray, " concepts"]  # the decision; all True where the model is not calibrated
    evidence: Float[np.ndarray, "concepts evidence"]  # what `presence` was made of: `presence.EVIDENCE`
    image: UInt8[np.ndarray, "height width 3"]  # the target, RGB
    source: str | None  # its path
    small_logits: Float[np.ndarray, "concepts side side"]  # of the whole canvas
    canvas: int  # its side in pixels
    placed: tuple[int, int]  # (h, w) of the image on the canvas
    colours: tuple[Colour, ...]  # of the classes in overlays and palettes; `drawing.colours` by default
    cut: float = 0.0  # logits above it are inside
    keep_absent: bool = False
    instances_from: str = "regions"  # connected regions of the mask

    def threshold(self, cut: float) -> "Result":
        """The same answer with masks cut at another logit; the model does not run again.

        Args:
            cut: any number; pixels whose probability is above 1 / (1 + exp(-cut)) are inside. 0 is 0.5.
        """
        return replace(self, cut=float(cut))

    @property
    def label_map(self) -> UInt16[np.ndarray, "height width"]:
        """0, or 1 + the class with the largest logit above the cut."""
        return self._measured.label_map

    @property
    def areas(self) -> np.ndarray:
        """Pixels of each mask."""
        return self._measured.areas

    @property
    def boxes(self) -> list[tuple[int, int, int, int] | None]:
        """(x0, y0, x1, y1) around each mask, x1 and y1 just beyond it; None for an empty one."""
        return self._measured.boxes

    @property
    def scores(self) -> Float[np.ndarray, " concepts"]:
        """Mean probability inside each mask; 0 for an empty one."""
        return self._measured.scores

    @cached_property
    def masks(self) -> Bool[np.ndarray, "concepts height width"]:
        """Logit above the cut; masks of several classes may overlap."""
        return np.stack([self.mask(i) for i in range(len(self.names))])

    def mask(self, concept: int) -> Bool[np.ndarray, "height width"]:
        """One of the masks.

        Args:
            concept: the class's place in `names`, from 0.
        """
        height, width = self.image.shape[:2]
        mask = np.zeros((height, width), bool)
        if self._shown(concept):
            for start, stop in self._strips():
                mask[start:stop] = self._rows(concept, start, stop) > self.cut
        return mask

    def logits(self, concept: int | None = None) -> Float[np.ndarray, "*concepts height width"]:
        """Of one class, or of all: float32 at the target's size, absent classes as well.

        Args:
            concept: the class's place in `names`, from 0; None for all of them.
        """
        chosen = range(len(self.names)) if concept is None else [concept]
        height, width = self.image.shape[:2]
        values = np.empty((len(chosen), height, width), np.float32)
        for row, i in enumerate(chosen):
            for start, stop in self._strips():
                values[row, start:stop] = self._rows(i, start, stop)
        return values if concept is None else values[0]

    def instances(self, concept: int) -> list[Bool[np.ndarray, "height width"]]:
        """The mask split into its connected regions, the largest first; objects that touch stay one.

        Regions below 2 % of the mask are left out.
        """
        _, labels, statistics, _ = cv2.connectedComponentsWithStats(self.mask(concept).astype(np.uint8))
        areas = statistics[1:, cv2.CC_STAT_AREA]
        order = np.argsort(-areas, kind="stable")
        return [labels == i + 1 for i in order if areas[i] >= SMALLEST * areas.sum()]

    def overlay(self, side: int | None = None) -> UInt8[np.ndarray, "height width 3"]:
        """The target with every mask tinted and outlined in its class's colour.

        Args:
            side: shrink it until its longer side has at most so many pixels.
        """
        image = shrink(self.image, side or max(self.image.shape))
        if image is self.image:
            return np.concatenate(list(self._drawn()))
        shown, size = np.flatnonzero(self.areas), image.shape[1::-1]
        masks = [self.mask(i).view(np.uint8) for i in shown]
        masks = [cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST) > 0 for mask in masks]
        return draw_masks(image, masks, [self.colours[i] for i in shown])

    def overlay_png(self) -> bytes:
        """`overlay` as a PNG file."""
        return b"".join(self._overlay_png())

    def _overlay_png(self) -> Iterator[bytes]:
        height, width = self.image.shape[:2]
        return rgb_png(width, height, self._drawn())

    def _drawn(self) -> Iterator[UInt8[np.ndarray, "rows width 3"]]:
        """The overlay, a strip at a time: lines that come from beyond a strip are drawn in it as well."""
        shown, width = np.flatnonzero(self.areas), line_width(self.image.shape[:2])
        reach, height = 3 * (width + 1), len(self.image)
        tints = [self.colours[i] for i in shown]
        for start, stop in self._strips():
            first, last = max(0, start - reach), min(height, stop + reach)
            masks = [self._rows(i, first, last) > self.cut for i in shown]
            yield draw_masks(self.image[first:last], masks, tints, width)[start - first : stop - first]

    def label_png(self) -> bytes:
        """`label_map` as a palette PNG in the classes' colours; 16-bit grey above 255 classes."""
        if len(self.names) > 255:
            return cv2.imencode(".png", self.label_map)[1].tobytes()
        return palette_png(self.label_map, self.colours)

    def to_coco(self, image_id: int = 1, first_id: int = 1) -> list[dict]:
        """COCO annotations of the masks that are not empty: compressed RLE, bbox, area, category, score.

        Category ids are 1 + the class's place in `names`.
        """
        from pycocotools import mask as coco

        annotations = []
        for i, name in enumerate(self.names):
            box = self.boxes[i]
            if box is None:
                continue
            rle = coco.encode(np.asfortranarray(self.mask(i), np.uint8))
            x0, y0, x1, y1 = box
            annotations.append(
                {
                    "id": first_id + len(annotations),
                    "image_id": image_id,
                    "category_id": i + 1,
                    "category_name": name,
                    "segmentation": {"size": list(rle["size"]), "counts": str(rle["counts"], "ascii")},
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": int(self.areas[i]),
                    "iscrowd": 0,
                    "score": round(float(self.scores[i]), 4),
                    "presence": round(float(self.presence[i]), 4),
                }
            )
        return annotations

    def coco_file(self, name: str = "") -> dict:
        """COCO's images, categories and `to_coco`; the image also has the `presence` of all classes.

        Args:
            name: `file_name` of the image; by default the path that it came from.
        """
        height, width = self.image.shape[:2]
        values = zip(self.names, self.presence, strict=True)
        image = {
            "id": 1,
            "file_name": name or self.source or "",
            "height": height,
            "width": width,
            "presence": {one: round(float(value), 4) for one, value in values},
        }
        categories = [{"id": i, "name": one} for i, one in enumerate(self.names, 1)]
        return {"images": [image], "categories": categories, "annotations": self.to_coco()}

    def save(self, folder: Path | str, name: str = "", info: dict | None = None) -> list[Path]:
        """Write overlays/NAME.png, labels/NAME.png and annotations/NAME.json, as `segic predict` does.

        Args:
            name: by default that of the target's file without its ending, or "image".
            info: goes into the COCO file beside images, categories and annotations.

        Returns:
            The files written, each of which is whole; the annotations come last.

        Raises:
            DataError: the folder cannot be made, or the disk refuses.
        """
        folder = require_path(folder, DataError)
        name = name or (Path(self.source).stem if self.source else "picture")
        coco = self.coco_file() | ({"info": info} if info else {})
        files = {
            Path(folder, "overlays", f"{name}.png"): self._overlay_png,
            Path(folder, "labels", f"{name}.png"): self.label_png,
            Path(folder, "annotations", f"{name}.json"): (json.dumps(coco) + "\n").encode,
        }
        for file, content in files.items():
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DataError(f"{file.parent} cannot be made ({error.strerror}).") from error
            atomic_write(file, content())
        return list(files)

    @cached_property
    def _measured(self) -> _Measured:
        height, width = self.image.shape[:2]
        shown = [i for i in range(len(self.names)) if self._shown(i)]
        label_map = np.zeros((height, width), np.uint16)
        rows, columns = np.zeros((len(self.names), height), bool), np.zeros((len(self.names), width), bool)
        areas, probability = np.zeros(len(self.names), np.int64), np.zeros(len(self.names))
        for start, stop in self._strips():
            labels = label_map[start:stop]
            best = np.full(labels.shape, self.cut, np.float32) if len(shown) > 1 else None
            for i in shown:
                logits = self._rows(i, start, stop)
                inside = logits > self.cut
                if not inside.any():
                    continue
                rows[i, start:stop] = inside.any(1)
                columns[i] |= inside.any(0)
                values = logits[inside]
                areas[i] += len(values)
                probability[i] += (1 / (1 + np.exp(-np.clip(values, -80, 80), dtype=np.float64))).sum()
                if best is None:
                    labels[inside] = i + 1
                else:
                    wins = logits > best
                    labels[wins] = i + 1
                    best[wins] = logits[wins]
        boxes = [_box(*sides) if area else None for area, *sides in zip(areas, rows, columns, strict=True)]
        return _Measured(label_map, areas, boxes, (probability / np.maximum(areas, 1)).astype(np.float32))

    def _shown(self, concept: int) -> bool:
        """Whether the mask can have a pixel; bilinear resampling makes no larger value."""
        allowed = bool(self.present[concept]) or self.keep_absent
        return allowed and float(self.small_logits[concept].max()) > self.cut

    def _strips(self) -> Iterator[tuple[int, int]]:
        """First row of each strip, and the one after its last."""
        height, width = self.image.shape[:2]
        step = max(1, STRIP // width)
        return ((start, min(start + step, height)) for start in range(0, height, step))

    def _rows(self, concept: int, start: int, stop: int) -> Float[np.ndarray, "rows width"]:
        """Logits of the image's rows from `start` to before `stop`.

        Small map -> canvas -> image, both bilinear; OpenCV, which is fast, does the image's columns.
        """
        down, across, rows = self._taps
        part = rows.cropped(start, stop - start)
        first, last = part.low[0], part.high[-1] + 1
        on_canvas = resample(self.small_logits[concept], down.cropped(first, last - first), across)
        fraction = part.fraction[:, None]
        narrow = on_canvas[part.low - first] * (1 - fraction) + on_canvas[part.high - first] * fraction
        return cv2.resize(narrow, (self.image.shape[1], len(narrow)), interpolation=cv2.INTER_LINEAR)

    @cached_property
    def _taps(self) -> tuple[Taps, Taps, Taps]:
        """Small map -> the canvas's rows and columns that the image has; those rows -> the image's."""
        (h, w), height, side = self.placed, len(self.image), self.small_logits.shape[-1]
        to_canvas = bilinear_taps(side, self.canvas, side / self.canvas)
        return to_canvas.cropped(0, h), to_canvas.cropped(0, w), bilinear_taps(h, height, h / height)


def _box(rows: Bool[np.ndarray, " height"], columns: Bool[np.ndarray, " width"]) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 around what is True."""
    (y0, y1), (x0, x1) = ((int(np.argmax(a)), int(len(a) - np.argmax(a[::-1]))) for a in (rows, columns))
    return x0, y0, x1, y1


def joined_coco(files: Sequence[dict]) -> dict:
    """One file of several `coco_file` with the same classes; images and annotations are numbered anew."""
    images, annotations = [], []
    for i, file in enumerate(files, 1):
        images.append(file["images"][0] | {"id": i})
        annotations += [
            one | {"id": len(annotations) + n, "image_id": i} for n, one in enumerate(file["annotations"], 1)
        ]
    return {"images": images, "categories": files[0]["categories"], "annotations": annotations}


def palette_png(labels: Integer[np.ndarray, "height width"], tints: Sequence[Colour]) -> bytes:
    """A PNG file of numbers up to 255; 0 is black, the others have the colours."""
    picture = Image.fromarray(labels.astype(np.uint8), "P")
    picture.putpalette([0, 0, 0, *(value for colour in tints for value in colour)])
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
