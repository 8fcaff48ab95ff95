"""Format rows as text and Markdown."""

from collections.abc import Iterable, Sequence

from benchmarks.measure import Row, Times
from benchmarks.stages import HOST
from benchmarks.targets import Target

COLUMNS = (
    *("stage", "batch", "concepts", "shots", "precision", "ours, ms", "spread", "images/s"),
    *("torch, ms", "ratio", "compile, s", "temp, MiB", "process, MiB", "torch, MiB"),
)


def markdown(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table."""
    head = [columns, ["---"] * len(columns)]
    return "".join(f"| {' | '.join(line)} |\n" for line in [*head, *lines])


def row_line(row: Row) -> str:
    """Format one row to print during the measurement."""
    size = f"{row.canvas} px, batch {row.batch}, {row.concepts} concepts, {row.shots} shots, {row.precision}"
    if row.ours is None:
        return f"{row.stage:<22}{size}: {row.note}"
    text = f"{row.stage:<22}{size}: {milliseconds(row.ours.median)} ms"
    if row.theirs:
        text += f", PyTorch {milliseconds(row.theirs.median)} ms, ratio {row.ratio:.2f}"
    return text + (f" ({row.note})" if row.note else "")


def row_table(rows: Sequence[Row]) -> str:
    """Format a table for each canvas, and below it the cells that were left out, with reasons."""
    text = ""
    for canvas in sorted({row.canvas for row in rows}):
        of_canvas = [row for row in rows if row.canvas == canvas]
        text += f"{canvas} pixels, {of_canvas[0].tokens} tokens:\n\n"
        text += markdown(COLUMNS, [_cells(row) for row in of_canvas if row.ours])
        out = [
            f"{row.stage} ({_size(row)}; {row.note.removeprefix('left out: ')})"
            for row in of_canvas
            if not row.ours
        ]
        text += f"\nLeft out: {', '.join(out)}.\n\n" if out else "\n"
        text += "".join(
            f"{row.stage} ({_size(row)}): {row.note}\n\n" for row in of_canvas if row.ours and row.note
        )
    return text


def target_table(targets: Iterable[Target]) -> str:
    """Format the targets and what was measured."""
    verdict = {None: "", True: "met", False: "missed"}
    return markdown(
        ("quantity", "target", "measured", ""),
        [(t.what, t.requirement, t.measurement, verdict[t.met]) for t in targets],
    )


def milliseconds(seconds: float) -> str:
    """Format milliseconds with at least three digits."""
    value = 1000 * seconds
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def digits(value: float) -> str:
    """Format with three digits, or all digits before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 1e-4 else "0.0000"


def mebibytes(size: int | None) -> str:
    """Format mebibytes; empty if not measured."""
    return "" if size is None else f"{size / 2**20:.{0 if size >= 2**20 else 1}f}"


def _size(row: Row) -> str:
    return f"batch {row.batch}, {row.concepts} concepts, {row.shots} shots, {row.precision}"


def _cells(row: Row) -> list[str]:
    ours, theirs = row.ours, row.theirs
    assert ours
    backbone_alone = row.stage in ("backbone", "products", "neck")
    return [
        row.stage,
        str(row.batch),
        "" if backbone_alone else str(row.concepts),
        str(row.shots) if row.stage in ("references", "decoder", "head", "whole with references") else "",
        "" if row.stage == HOST else row.precision,
        milliseconds(ours.median),
        _spread(ours),
        digits(row.images_per_second),
        f"{milliseconds(theirs.median)} ({_spread(theirs)})" if theirs else "",
        f"{row.ratio:.2f}" if row.ratio else "",
        "" if row.compile_seconds is None else f"{row.compile_seconds:.1f}",
        mebibytes(row.temporary),
        mebibytes(row.resident),
        mebibytes(row.their_memory),
    ]


def _spread(times: Times) -> str:
    return f"{milliseconds(times.least)} - {milliseconds(times.most)}"
