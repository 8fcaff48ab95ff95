"""Render the parity report as one self-contained HTML page, with plots in SVG and embedded images."""

import base64
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import cv2

from segic_jax.inference.overlay import AnyImage

_COLOURS = {"float32": "#1f5fa8", "bfloat16": "#c8641b"}
_IMAGE_SIDE = 360  # longer side in pixels

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2.5rem auto }
h1 { font-weight: 500; font-size: 1.7rem; margin-bottom: .3rem }
h2 { font-weight: 500; margin-top: 2.4rem }
p.small { color: #555; font-size: 13px }
table { border-collapse: collapse; font-size: 13px }
th { font-weight: 500; text-align: left }
th, td { padding: .16rem .8rem .16rem 0; border-bottom: 1px solid #e6e6e6; vertical-align: top }
td { overflow-wrap: anywhere }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
tr.bad td, .failed { background: #fbeaea }
code { font-size: 12px; overflow-wrap: anywhere }
.scroll { overflow-x: auto }
.verdict { font-size: 1.1rem; padding: .5rem .9rem; border-left: 4px solid }
.ok { border-color: #2b8a3e; background: #eef7f0 }
.failed { border-color: #c0392b }
.images { display: flex; flex-wrap: wrap; gap: .8rem }
figure { margin: 0; width: 14.5rem }
img { width: 100% }
figcaption { font-size: 12px; color: #555 }
svg { width: 100%; height: auto }
svg text { font: 10px system-ui, sans-serif }
"""


def render_page(content: dict[str, Any], images: Sequence[Sequence[tuple[AnyImage, str]]]) -> str:
    """Render the page.

    Args:
        content: the result of `report.summarise`.
        images: the images of each pair with captions.
    """
    torch, ours = content["torch"], content["jax"]
    stages = worst_rows(content["rows"], "max_abs_error")
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>SegIC: JAX against PyTorch</title>
<style>{_STYLE}</style></head><body>
<h1>SegIC: JAX against PyTorch, stage by stage</h1>
<p class="small">segic_jax {_e(ours["versions"]["segic_jax"])} on {_e(ours["device"])}, and the official code
at commit <code>{_e(_lookup(torch, "segic", "commit") or "unknown")}</code> on {_e(torch.get("device"))},
with the same weights (<code>{_e(_lookup(torch, "checkpoint", "file"))}</code>) on the same images.</p>
{_verdict(content, stages)}
<h2>Masks</h2>
{_masks(content)}
{"".join(map(_images, content["pairs"], images))}
<h2>Error of each stage</h2>
<p class="small">The largest absolute difference in each stage, over all pairs, in the order of
computation. Each stage reads the stages before it, so errors accumulate as in real use. Grey bars are the
tolerances for float32.</p>
{plot(content["rows"], "max_abs_error", "largest absolute error")}
<p class="small">The same, divided by the largest absolute value of the stage in PyTorch.</p>
{plot(content["rows"], "relative_error", "relative to the largest value")}
<h2>Table</h2>
<p class="small">The worst pair of each stage; the .json file beside this page has every pair. The tolerance
is 1e-4, times the stage's largest value where that exceeds 1; 2e-3 of 255 for the canvas, and 0 for the
point. Where the dump has a float64 run of PyTorch, the tolerance is at least twice PyTorch's distance
from it. bfloat16 (frozen encoders in bfloat16, the head in float32) is a measurement, without tolerance.</p>
{_table(stages)}
{_cases(content.get("cases", ()))}
<h2>Environments</h2>
{_facts(content)}
</body></html>
"""


def worst_rows(rows: Sequence[dict], key: str) -> dict[str, dict[str, dict]]:
    """Return {stage: {precision: the row with the largest `key` of all pairs}}, in order of computation."""

    def badness(row: dict) -> tuple[bool, float]:
        return row["passed"] is False, math.inf if row[key] is None else row[key]

    stages: dict[str, dict[str, dict]] = {}
    for row in rows:
        worst = stages.setdefault(row["stage"], {})
        if row["dtype"] not in worst or badness(row) > badness(worst[row["dtype"]]):
            worst[row["dtype"]] = row
    return stages


def _verdict(content: dict, stages: dict) -> str:
    failure = content["first_failure"]
    if failure:
        text = (
            f"Failed: the first float32 stage that exceeds its tolerance is {failure['stage']} in "
            f"{failure['file']} ({failure['array']}): error {_number(failure['max_abs_error'])}, "
            f"tolerance {_number(failure['tolerance'])}."
        )
        return f'<p class="verdict failed">{_e(text)}</p>'
    judged = [row for row in content["rows"] if row["dtype"] == "float32"]
    largest = max(judged, key=lambda row: row["relative_error"])
    text = (
        f"Passed: all {len(stages)} float32 stages of {len(content['pairs'])} pair(s) are within tolerance. "
        f"The largest relative error is {_number(largest['relative_error'])}, at {largest['stage']}."
    )
    if tied := [row["file"] for row in judged if row.get("tied")]:
        text += (
            f" In {', '.join(tied)} two places have the same similarity up to rounding: the point is a tie, "
            "and the stages after it start from PyTorch's."
        )
    return f'<p class="verdict ok">{_e(text)}</p>'


def _masks(content: dict) -> str:
    header = ["reference", "target", "class name", *(f"IoU with PyTorch, {dtype}" for dtype in _COLOURS)]
    lines = []
    for pair in content["pairs"]:
        ious = [pair["mask_iou"][dtype] for dtype in _COLOURS]
        name = f"{pair['objects']} instances" if pair.get("instances") == "True" else pair.get("class_name")
        cells = [pair.get("reference"), pair.get("target"), name or "none"]
        lines.append([*cells, *("both empty" if iou is None else f"{iou:.6f}" for iou in ious)])
    return _rows(header, lines)


def _images(pair: dict, images: Sequence[tuple[AnyImage, str]]) -> str:
    figures = "".join(
        f'<figure><img alt="{_e(text)}" src="{_jpeg(image)}"><figcaption>{_e(text)}</figcaption></figure>'
        for image, text in images
    )
    return f'<p class="small">{_e(pair.get("target"))}</p><div class="images">{figures}</div>'


def _jpeg(image: AnyImage) -> str:
    """Return a data URL."""
    scale = min(1.0, _IMAGE_SIDE / max(image.shape[:2]))
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def plot(rows: Sequence[dict], key: str, title: str) -> str:
    """Plot a line for each precision on a logarithmic axis, as SVG.

    Zeros lie on the bottom line, and missing numbers on the top line.
    """
    stages = worst_rows(rows, key)
    positive = [row[key] for row in rows if row[key]] or [1e-7]
    low, high = math.floor(math.log10(min(positive))) - 1, math.ceil(math.log10(max(positive))) + 1
    left, top, width, height = 56.0, 22.0, 900.0, 250.0

    def x(index: int) -> float:
        return left + width * (index + 0.5) / len(stages)

    def y(value: float | None) -> float:
        exponent = high if value is None else math.log10(value) if value else low
        return top + height * (high - min(max(exponent, low), high)) / (high - low)

    parts = [f'<text x="{left}" y="12">{_e(title)}</text>']
    for power in range(low, high + 1):
        label = "0" if power == low else f"1e{power}"
        level = y(10.0**power)
        parts.append(f'<path d="M{left} {level:.1f}h{width}" stroke="#e6e6e6"/>')
        parts.append(f'<text x="{left - 6}" y="{level + 3:.1f}" text-anchor="end">{label}</text>')
    for index, name in enumerate(stages):
        transform = f"translate({x(index) + 3:.1f} {top + height + 10}) rotate(-60)"
        parts.append(f'<text transform="{transform}" text-anchor="end">{_e(name)}</text>')
        tolerance = stages[name]["float32"]["tolerance"] if key == "max_abs_error" else None
        if tolerance:
            parts.append(
                f'<path d="M{x(index) - 5:.1f} {y(tolerance):.1f}h10" stroke="#999" stroke-width="2"/>'
            )
    for offset, (dtype, colour) in enumerate(_COLOURS.items()):
        line = [row[dtype] for row in stages.values()]
        points = " ".join(f"{x(i):.1f},{y(row[key]):.1f}" for i, row in enumerate(line))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.2"/>')
        for index, row in enumerate(line):
            tip = f"<title>{_e(row['stage'])}, {dtype}: {_number(row[key])}</title>"
            parts.append(_mark(dtype, x(index), y(row[key]), tip))
        parts.append(_mark(dtype, left + width - 150 + 80 * offset, 9.0, ""))
        parts.append(f'<text x="{left + width - 142 + 80 * offset}" y="12">{dtype}</text>')
    return (
        f'<svg viewBox="0 0 {left + width + 10} {top + height + 120}" role="img" aria-label="{_e(title)}">'
        + "".join(parts)
        + "</svg>"
    )


def _mark(dtype: str, x: float, y: float, inside: str) -> str:
    """Draw a dot or a square, so that the lines differ without colours as well."""
    colour = _COLOURS[dtype]
    if dtype == "float32":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}">{inside}</circle>'
    return f'<rect x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6" fill="{colour}">{inside}</rect>'


def _table(stages: dict[str, dict[str, dict]]) -> str:
    header = [
        "stage",
        "array",
        "largest value",
        "float32",
        "relative",
        "tolerance",
        "",
        "PyTorch, float32 to float64",
        "bfloat16",
        "relative",
    ]
    lines, failed = [], []
    for name, rows in stages.items():
        exact, rounded = rows["float32"], rows["bfloat16"]
        lines.append(
            [
                name,
                exact["array"],
                *(_number(exact[key]) for key in ("largest", "max_abs_error", "relative_error", "tolerance")),
                _judgement(exact),
                "" if exact["torch_rounding"] is None else _number(exact["torch_rounding"]),
                *(_number(rounded[key]) for key in ("max_abs_error", "relative_error")),
            ]
        )
        failed.append(not exact["passed"])
    return _rows(header, lines, failed)


def _cases(rows: Sequence[dict]) -> str:
    """Render semantic segmentation, videos and training steps; nothing for a dump without them."""
    if not rows:
        return ""
    header = ["case", "array", "error", "tolerance", "", "PyTorch, float32 to float64"]
    lines = []
    for row in rows:
        rounding = "" if row["torch_rounding"] is None else _number(row["torch_rounding"])
        numbers = (_number(row[key]) for key in ("max_abs_error", "tolerance"))
        lines.append([row["case"], row["array"], *numbers, _judgement(row), rounding])
    return (
        "<h2>Semantic segmentation, video, training</h2>\n"
        '<p class="small">In float32, from the images. The tolerance of gradients is 1e-5 of the largest '
        "entry of their tensor.</p>\n" + _rows(header, lines, [not row["passed"] for row in rows])
    )


def _judgement(row: dict) -> str:
    if row.get("tied"):
        return "tie"
    return "ok" if row["passed"] else "failed"


def _facts(content: dict) -> str:
    sides = (content["torch"], content["jax"])
    keys = ("device", "system", "versions", "settings", "command")
    lines = [[key, *(_one_line(side.get(key)) for side in sides)] for key in keys]
    torch = content["torch"]
    lines.append(["flags of the official parser", _one_line(_lookup(torch, "segic", "flags")), ""])
    checkpoint = [
        "checkpoint",
        _lookup(torch, "checkpoint", "file"),
        _lookup(torch, "checkpoint", "sha256"),
        "",
    ]
    files = [
        ["dump", entry["file"], entry["sha256"], "" if entry["as_dumped"] else "changed since the dump"]
        for entry in content["files"]
    ]
    return (
        _rows(["", "PyTorch", "JAX"], lines)
        + "<br>"
        + _rows(["", "file", "SHA-256", ""], [checkpoint, *files])
    )


def _rows(header: Iterable, lines: Iterable[Iterable], failed: Sequence[bool] = ()) -> str:
    """Render a table; numbers are aligned to the right."""
    body = []
    for index, line in enumerate(lines):
        cells = "".join(f"<td{_right(str(cell))}>{_e(cell)}</td>" for cell in line)
        style = ' class="bad"' if index < len(failed) and failed[index] else ""
        body.append(f"<tr{style}>{cells}</tr>")
    head = "".join(f"<th>{_e(cell)}</th>" for cell in header)
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(body)}</table></div>'


def _right(text: str) -> str:
    try:
        float(text)
    except ValueError:
        return ""
    return ' class="n"'


def _number(value: float | None) -> str:
    return "no number" if value is None else "0" if value == 0 else f"{value:.1e}"


def _one_line(value) -> str:
    """Format a command, settings or versions in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items() if version)
    return " ".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _lookup(values: dict, *path: str):
    """Return values[a][b], or None if a key is missing."""
    value: object = values
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _e(value) -> str:
    """Escape text from a file for HTML."""
    return escape("" if value is None else str(value))
