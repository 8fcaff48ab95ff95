"""Render results: a page without external files, and a sheet of episodes with their images."""

import base64
import csv
import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import jinja2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from segic_jax.inference.overlay import draw_outline, heat_map

Image = UInt8[np.ndarray, "height width 3"]  # RGB
Mask = Bool[np.ndarray, "height width"]

GREEN, RED = (40, 200, 60), (230, 50, 60)
TILE = 192  # side of an image on the sheet
CAPTION = 22  # height of the text above it
TEXT = 0.5  # its scale; longer text is drawn smaller


class GalleryItem(NamedTuple):
    """Hold an episode to be drawn; masks have the size of their images, the map that of the target."""

    kind: str  # "best", "median" or "worst"
    title: str
    reference: Image
    reference_mask: Mask
    target: Image
    similarity: Float[np.ndarray, "height width"]
    prediction: Mask
    truth: Mask
    iou: float | None  # 0..1; None where truth and prediction are empty
    wrong_prediction: Mask | None = None  # the prediction from a reference of another class
    wrong_class: str = ""  # that class

    def tiles(self) -> list[tuple[str, UInt8[np.ndarray, "_ _ 3"]]]:
        """Return captions and images, from the reference to the truth."""
        iou = "" if self.iou is None else f", IoU {100 * self.iou:.0f}"
        tiles = [
            ("reference", spotlight(self.reference, self.reference_mask, GREEN)),
            ("target", self.target),
            (f"similarity map, up to {self.similarity.max():.2f}", heat_map(self.similarity)),
            ("prediction" + iou, spotlight(self.target, self.prediction, RED)),
            ("ground truth", spotlight(self.target, self.truth, GREEN)),
        ]
        if self.wrong_prediction is not None:
            wrong = spotlight(self.target, self.wrong_prediction, RED)
            tiles.append((f"wrong reference: {self.wrong_class}", wrong))
        return tiles


def select_episodes(rows: Sequence[dict], count: int = 4) -> dict[str, list[int]]:
    """Return indices of episodes to draw: `count` each of the highest, the median and the lowest IoU."""
    scored = [row for row in rows if row["iou"] is not None]
    order = [row["index"] for row in sorted(scored, key=lambda row: (-row["iou"], row["index"]))]
    count = min(count, len(order) // 3)
    middle = (len(order) - count) // 2
    if not count:
        return {"best": order, "median": [], "worst": []}
    return {
        "best": order[:count],
        "median": order[middle : middle + count],
        "worst": order[len(order) - count :],
    }


def to_csv(header: Sequence[str], rows: Iterable[Sequence]) -> bytes:
    """Return a CSV file with Unix line ends."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def render(
    template: str,
    result: dict,
    bars: Iterable[tuple[str, float]],
    values: Iterable[float | None],
    *,
    gallery: Sequence[GalleryItem] = (),
    **more: object,
) -> bytes:
    """Return an HTML page that needs no other file.

    Args:
        template: a file of `evaluate/templates`.
        bars: labels and scores in per cent; the highest comes first.
        values: scores 0..1 for the histogram; None is left out.
        gallery: episodes to draw.
        more: further variables of the template.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("segic_jax.evaluate"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    histogram, _ = np.histogram([value for value in values if value is not None], bins=20, range=(0, 1))
    episodes = [
        {
            "kind": item.kind.capitalize(),
            "title": item.title,
            "iou": "-" if item.iou is None else f"{100 * item.iou:.1f}",
            "tiles": [(caption, _data_uri(_fit(image, TILE))) for caption, image in item.tiles()],
        }
        for item in gallery
    ]
    page = environment.get_template(template).render(
        result=result,
        plural=_plural,
        bars=sorted(bars, key=lambda bar: -bar[1]),
        histogram=histogram.tolist(),
        episodes=episodes,
        **more,
    )
    return page.encode()


def _plural(count: int, singular: str, plural: str = "") -> str:
    return f"{count} {singular if count == 1 else plural or singular + 's'}"


def sheet(items: Sequence[GalleryItem]) -> Image:
    """Return one image with a row of tiles for each episode, in as many columns as make it about square.

    All items must have the same tiles.
    """
    lines = []
    for item in items:
        (caption, image), *others = item.tiles()
        tiles = [_tile(image, f"{caption}: {item.title}"), *(_tile(other, text) for text, other in others)]
        lines.append(np.concatenate(tiles, axis=1))
    height, width = lines[0].shape[:2]
    columns = int(np.ceil(np.sqrt(len(lines) * height / width)))
    rows = -(-len(lines) // columns)
    lines += [np.full_like(lines[0], 255)] * (rows * columns - len(lines))
    return np.concatenate(
        [np.concatenate(lines[start : start + rows]) for start in range(0, len(lines), rows)], axis=1
    )


def encode_png(image: Image) -> bytes:
    """Return a PNG file."""
    return _encode(image, ".png")


def spotlight(image: Image, mask: Mask, colour: tuple[int, int, int]) -> Image:
    """Turn the image grey and dark outside `mask`, so that the mask is visible on any image."""
    dark = (0.45 * image.mean(-1, keepdims=True)).astype(np.uint8)
    return draw_outline(np.where(mask[..., None], image, dark), mask, colour)


def _fit(image: Image, side: int) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """Resize so that the longer side is `side`."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _tile(image: Image, caption: str) -> UInt8[np.ndarray, "tile_height tile_width 3"]:
    tile = np.full((TILE + CAPTION, TILE + 4, 3), 255, np.uint8)
    small = _fit(image, TILE)
    tile[CAPTION : CAPTION + small.shape[0], : small.shape[1]] = small
    (width, _), _ = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, TEXT, 1)
    scale = TEXT * min(1, (TILE - 2) / max(width, 1))
    return cv2.putText(tile, caption, (1, 16), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)


def _encode(image: Image, extension: str) -> bytes:
    return cv2.imencode(extension, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def _data_uri(image: Image) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(_encode(image, ".jpg")).decode()
