"""Results for people: a table, files, one self-contained page, and a sheet of images."""

import base64
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import jinja2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from segic_jax.inference.overlay import draw_outline, heat_map
from segic_jax.runtime.atomic_write import atomic_write

Image = UInt8[np.ndarray, "height width 3"]  # RGB
Mask = Bool[np.ndarray, "height width"]

GREEN, RED = (40, 200, 60), (230, 50, 60)
TILE = 192  # side of an image on the sheet
CAPTION = 22  # height of the text above it
TEXT = 0.5  # its scale; a longer one is drawn smaller
LABELS = {
    "segic": "SegIC",
    "copy": "reference's mask copied",
    "cosine": "cosine map at its threshold",
    "no_reference": "head without a reference",
    "wrong_reference": "head with a wrong reference",
    "random_backbone": "head on a random backbone",
}
KINDS = {"best": "Best", "median": "Median", "worst": "Worst"}


class GalleryItem(NamedTuple):
    """One episode to be drawn; masks are at their images' size, the map at the target's."""

    kind: str  # of KINDS
    title: str
    reference: Image
    reference_mask: Mask
    target: Image
    cosine: Float[np.ndarray, "height width"]
    prediction: Mask
    truth: Mask
    iou: float | None  # 0..1; None where nothing was there and nothing was found
    misled: Mask | None = None  # the prediction with a reference of another class
    misled_by: str = ""  # that class

    def tiles(self) -> list[tuple[str, Image]]:
        """Captions and images, from the reference to the truth."""
        tiles = [
            ("reference", spotlight(self.reference, self.reference_mask, GREEN)),
            ("target", self.target),
            (f"cosine map, up to {self.cosine.max():.2f}", heat_map(self.cosine)),
            (
                "prediction" + ("" if self.iou is None else f", IoU {100 * self.iou:.0f}"),
                self._found(self.prediction),
            ),
            ("truth", spotlight(self.target, self.truth, GREEN)),
        ]
        if self.misled is not None:
            tiles.append((f"shown instead: {self.misled_by}", self._found(self.misled)))
        return tiles

    def _found(self, mask: Mask) -> Image:
        return spotlight(self.target, mask, RED)


def chosen(rows: Sequence[dict], count: int = 4) -> dict[str, list[int]]:
    """Indices of the episodes to show: `count` each of the highest, the middle and the lowest IoU."""
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


def table(result: dict) -> str:
    """The scores as aligned lines, one screen."""
    protocol = result["protocol"]
    lines = [
        f"{result['benchmark']}: {result['episodes']} episodes of {result['classes']} classes, "
        f"{result['shots']} shot(s), mIoU in per cent",
        f"  protocol {protocol['name']}: {protocol['truth']}; class names "
        f"{'given' if result['class_names_given'] else 'not given'}",
    ]
    for name, scores in {"segic": result["scores"], **result["baselines"]}.items():
        low, high = scores["interval_95"]
        lines.append(f"  {LABELS[name]:<28}{scores['miou']:6.1f}   95 % interval {low:.1f} - {high:.1f}")
    scores = result["scores"]
    boundary = "-" if scores["boundary_iou"] is None else f"{scores['boundary_iou']:.1f}"
    lines += [
        f"  mean over all classes of a fold {scores['miou_fold_classes']:.1f}, "
        f"over classes seen {scores['miou_seen_classes']:.1f}",
        f"  FB-IoU {scores['fb_iou']:.1f}, mean of the episodes' IoU {scores['episode_iou']:.1f}, "
        f"boundary IoU {boundary}",
    ]
    if len(result["fold_scores"]) > 1:
        folds = "  ".join(f"{fold}: {one['miou']:.1f}" for fold, one in result["fold_scores"].items())
        lines.append(f"  folds  {folds}")
    ranked = sorted(result["class_iou"].items(), key=lambda one: one[1])
    if len(ranked) > 3:
        for label, part in (("best", ranked[:-4:-1]), ("worst", ranked[:3])):
            lines.append(f"  {label:<6} " + ", ".join(f"{name[:20]} {value:.1f}" for name, value in part))
    return "\n".join([*lines, *(f"  {note}" for note in result["notes"])])


def write(out: Path, result: dict, rows: Sequence[dict], gallery: Sequence[GalleryItem]) -> None:
    """result.json, per_class.csv, episodes.jsonl, report.html and sheet.png, each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["class", "iou"])
    writer.writerows(result["class_iou"].items())
    files = {
        "per_class.csv": table.getvalue(),
        "episodes.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "report.html": page(result, rows, gallery),
        "result.json": json.dumps(result, indent=2) + "\n",
    }
    if gallery:
        atomic_write(out / "sheet.png", _encoded(sheet(gallery), ".png"))
    for name, text in files.items():
        atomic_write(out / name, text.encode())


def render(
    template: str,
    result: dict,
    bars: Sequence[tuple[str, float]],
    values: Sequence[float | None],
    **more,
) -> str:
    """One HTML page that needs nothing beside it.

    Args:
        bars: names and per cents, in order.
        values: 0..1, for the histogram; None is left out.
        more: what else the template asks for.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("segic_jax.evaluate"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.globals.update(plural=_plural)
    histogram, _ = np.histogram([one for one in values if one is not None], bins=20, range=(0, 1))
    return environment.get_template(template).render(
        result=result, bars=bars, histogram=histogram.tolist(), **more
    )


def _plural(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def page(result: dict, rows: Sequence[dict], gallery: Sequence[GalleryItem]) -> str:
    """The page of a run over episodes."""
    pictures = [
        {
            "kind": KINDS[item.kind],
            "title": item.title,
            "iou": "-" if item.iou is None else f"{100 * item.iou:.1f}",
            "tiles": [(label, _data_uri(_fitted(image, TILE))) for label, image in item.tiles()],
        }
        for item in gallery
    ]
    bars = sorted(result["class_iou"].items(), key=lambda one: -one[1])
    return render(
        "report.html.j2", result, bars, [row["iou"] for row in rows], labels=LABELS, pictures=pictures
    )


def sheet(rows: Sequence[GalleryItem]) -> Image:
    """One line an episode, whose tiles `GalleryItem` lists; all have them all, or none has the last."""
    lines = []
    for row in rows:
        (first, image), *others = row.tiles()
        tiles = [_tile(image, f"{first}: {row.title}"), *(_tile(image, caption) for caption, image in others)]
        lines.append(np.concatenate(tiles, axis=1))
    return np.concatenate(lines)


def spotlight(image: Image, mask: Mask, colour: tuple[int, int, int]) -> Image:
    """The image grey and dark outside `mask`, which keeps its colours: it shows on any image."""
    dark = (0.45 * image.mean(-1, keepdims=True)).astype(np.uint8)
    return draw_outline(np.where(mask[..., None], image, dark), mask, colour)


def _fitted(image: Image, side: int) -> Image:
    """Shrunk or enlarged so that the longer side is `side`."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _tile(image: Image, caption: str) -> Image:
    tile = np.full((TILE + CAPTION, TILE + 4, 3), 255, np.uint8)
    small = _fitted(image, TILE)
    tile[CAPTION : CAPTION + small.shape[0], : small.shape[1]] = small
    (width, _), _ = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, TEXT, 1)
    scale = TEXT * min(1, (TILE - 2) / max(width, 1))
    return cv2.putText(tile, caption, (1, 16), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)


def _encoded(image: Image, ending: str) -> bytes:
    return cv2.imencode(ending, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def _data_uri(image: Image) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(_encoded(image, ".jpg")).decode()
