"""Write the table of an ablation as JSON and Markdown, and plot it."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from segic_jax.runtime.atomic_write import atomic_write
from studies.ablation.compare import Estimate, class_scores, difference, estimate
from studies.ablation.evaluation import PixelCounts
from studies.ablation.scenes import DRAWINGS, NOVEL, SEEN, VALIDATION
from studies.ablation.variants import DEFAULT, EXTENSIONS, Variant

COLUMNS = {VALIDATION: "unseen classes", SEEN: "trained classes", DRAWINGS: "one of two drawings"}

TICKS = (-40, -16, -4, -2, 0, 2, 4, 16)  # of the plot, points
LINEAR = 4  # points up to which the axis is linear; it is logarithmic beyond

Results = Mapping[str, Mapping[str, PixelCounts]]  # by row and list of episodes


def make_table(rows: Sequence[Variant], results: Results) -> list[dict]:
    """Return a dictionary per finished row: name, group, title, and for each list `miou` and `difference`.

    Both are (value, low, high); the default's own difference is None.
    """
    table = []
    for row in rows:
        if row.name not in results:
            continue
        scores = {}
        for part, counts in results[row.name].items():
            default = results[DEFAULT].get(part) if row.name != DEFAULT else None
            scores[part] = {
                "miou": estimate(class_scores(counts)),
                "difference": difference(counts, default) if default else None,
            }
        table.append({"name": row.name, "group": row.group, "title": row.title, "scores": scores})
    return table


def winner(table: Sequence[Mapping]) -> str | None:
    """Return the extension that is best on the validation classes, if its interval is above zero."""
    differences = {
        row["name"]: row["scores"][VALIDATION]["difference"] for row in table if row["group"] == EXTENSIONS
    }
    better = {name: value.value for name, value in differences.items() if value.low > 0}
    return max(better, key=better.__getitem__) if better else None


def write(out: Path, table: Sequence[Mapping], missing: Sequence[Variant], settings: Mapping) -> None:
    """Write `table.json`, `table.md` and `plot.png` into `out`."""
    content = {
        "settings": settings,
        "rows": table,
        "missing": [row.name for row in missing],
        "winner": winner(table),
    }
    atomic_write(out / "table.json", json.dumps(content, indent=1).encode())
    atomic_write(out / "table.md", markdown(table, missing).encode())
    atomic_write(out / "plot.png", _plot(table))


def markdown(table: Sequence[Mapping], missing: Sequence[Variant]) -> str:
    """Return the table: mIoU and difference to the default with intervals, bold where 0 is outside."""
    columns = [column for part in COLUMNS for column in (COLUMNS[part], "difference")]
    lines = ["| | | " + " | ".join(columns) + " |", "| --- " * (2 + len(columns)) + "|"]
    group = ""
    for row in table:
        cells = []
        for part in COLUMNS:
            score = row["scores"][part]
            cells += [_score(score["miou"]), _difference(score["difference"])]
        lines.append(
            f"| {'' if row['group'] == group else row['group']} | {row['title']} | {' | '.join(cells)} |"
        )
        group = row["group"]
    if novel := [row for row in table if NOVEL in row["scores"]]:
        lines += ["", "| novel classes | mIoU | difference |", "| --- | --- | --- |"]
        for row in novel:
            score = row["scores"][NOVEL]
            lines.append(f"| {row['title']} | {_score(score['miou'])} | {_difference(score['difference'])} |")
    if missing:
        lines += ["", "Not run yet: " + ", ".join(row.name for row in missing) + "."]
    return "\n".join(lines) + "\n"


def _score(score: Estimate) -> str:
    return f"{score.value:.1f} [{score.low:.1f}, {score.high:.1f}]"


def _difference(score: Estimate | None) -> str:
    if score is None:
        return ""
    text = f"{score.value:+.1f} [{score.low:+.1f}, {score.high:+.1f}]"
    return f"**{text}**" if score.low > 0 or score.high < 0 else text


def _plot(table: Sequence[Mapping]) -> bytes:
    """Plot differences to the default, a panel per list of episodes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second to import
    from matplotlib.figure import Figure

    rows = [row for row in table if row["name"] != DEFAULT]
    groups = list(dict.fromkeys(row["group"] for row in rows))
    places, labels, place = [], [], 0.0
    for before, row in zip([None, *rows], rows, strict=False):
        place += 1 if before is None or before["group"] == row["group"] else 1.6
        places.append(place)
        labels.append(f"{row['title']}")
    figure = Figure(figsize=(11, 1.4 + 0.3 * len(rows)), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(COLUMNS), sharey=True, squeeze=False)[0]
    for axis, part in zip(axes, COLUMNS, strict=True):
        for row, y in zip(rows, places, strict=True):
            score = row["scores"][part]["difference"]
            colour = f"C{groups.index(row['group']) % 10}"
            axis.plot([score.low, score.high], [y, y], color=colour, lw=2)
            axis.plot([score.value], [y], "o", color=colour, ms=5)
        axis.axvline(0, color="0.5", lw=1)
        ends = axis.get_xlim()
        axis.set_xscale("symlog", linthresh=LINEAR)  # small differences beside large ones
        axis.set_xticks(TICKS, [f"{tick:+d}" if tick else "0" for tick in TICKS])
        axis.set_xticks([], minor=True)
        axis.set_xlim(*ends)
        default = table[0]["scores"][part]["miou"]
        axis.set_title(f"{COLUMNS[part]}\ndefault: {default.value:.1f}", loc="left", fontsize=10)
        axis.set_xlabel("mIoU above the default, points", fontsize=9)
        axis.grid(axis="x", color="0.9", lw=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=9)
        axis.spines[["top", "right", "left"]].set_visible(False)
    if rows:
        axes[0].set_yticks(places, labels)
        axes[0].set_ylim(places[-1] + 0.8, 0.2)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
