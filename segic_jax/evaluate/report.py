"""Results for people: a table, result.json and a sheet of pictures, all drawn with OpenCV."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

Image = UInt8[np.ndarray, "height width 3"]  # RGB
Mask = Bool[np.ndarray, "height width"]

GREEN, RED = (40, 200, 60), (230, 50, 60)
TILE = 192  # side of a picture on the sheet
CAPTION = 18  # height of the text above it
LABELS = {
    "segic": "SegIC",
    "copy": "reference's mask copied",
    "cosine": "cosine map at its threshold",
    "no_reference": "head without a reference",
    "wrong_reference": "head with a wrong reference",
    "random_backbone": "head on a random backbone",
}


@dataclass(frozen=True)
class SheetRow:
    """One episode on the sheet; masks are at their pictures' size, the map at the target's."""

    title: str
    reference: Image
    reference_mask: Mask
    target: Image
    cosine: Float[np.ndarray, "height width"]
    prediction: Mask
    truth: Mask
    iou: float


def table(report: dict) -> str:
    """The scores as aligned lines."""
    size = f"{report['episodes']} episodes of {report['classes']} classes"
    lines = [f"{report['benchmark']}: {size}, mIoU in per cent"]
    rows = {"segic": report["scores"], **report["baselines"]}
    for name, scores in rows.items():
        low, high = scores["interval_95"]
        lines.append(f"  {LABELS[name]:<28}{scores['miou']:6.1f}   95 % interval {low:.1f} - {high:.1f}")
    scores = report["scores"]
    lines.append(
        f"  SegIC: FB-IoU {scores['fb_iou']:.1f}, mean of the episodes' IoU {scores['episode_iou']:.1f}"
    )
    return "\n".join([*lines, *(f"  {note}" for note in report["notes"])])


def write(out: Path, report: dict, rows: Sequence[SheetRow]) -> None:
    """`result.json` and `sheet.png` in the folder `out`, which is made if need be."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(json.dumps(report, indent=2) + "\n")
    if not cv2.imwrite(str(out / "sheet.png"), cv2.cvtColor(sheet(rows), cv2.COLOR_RGB2BGR)):
        raise OSError(f"{out / 'sheet.png'} could not be written.")


def sheet(rows: Sequence[SheetRow]) -> Image:
    """One line an episode: reference, target, cosine map, prediction, truth."""
    return np.concatenate(
        [
            np.concatenate(
                [
                    _tile(outlined(row.reference, row.reference_mask, GREEN), f"reference: {row.title}"),
                    _tile(row.target, "target"),
                    _tile(heat(row.cosine), f"cosine map, up to {row.cosine.max():.2f}"),
                    _tile(overlay(row.target, row.prediction, RED), f"prediction, IoU {100 * row.iou:.0f}"),
                    _tile(overlay(row.target, row.truth, GREEN), "truth"),
                ],
                axis=1,
            )
            for row in rows
        ]
    )


def overlay(image: Image, mask: Mask, colour: tuple[int, int, int]) -> Image:
    """The picture with `mask` tinted and outlined."""
    tinted = image.copy()
    tinted[mask] = (0.5 * image[mask] + 0.5 * np.array(colour)).astype(np.uint8)
    return outlined(tinted, mask, colour)


def outlined(image: Image, mask: Mask, colour: tuple[int, int, int]) -> Image:
    """The picture with the edge of `mask` drawn on it."""
    edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(max(mask.shape) / 200))
    return cv2.drawContours(np.ascontiguousarray(image).copy(), edges, -1, colour, thickness)


def heat(values: Float[np.ndarray, "height width"]) -> Image:
    """Colours from the lowest to the highest value."""
    low, high = float(values.min()), float(values.max())
    grey = (255 * (values - low) / max(high - low, 1e-6)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)


def _tile(image: Image, caption: str) -> Image:
    height, width = image.shape[:2]
    scale = TILE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    tile = np.full((TILE + CAPTION, TILE + 4, 3), 255, np.uint8)
    tile[CAPTION : CAPTION + size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.putText(tile, caption, (1, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
