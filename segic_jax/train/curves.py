"""Plot curves of trainings from their `metrics.jsonl`, and list the runs below a folder.

A panel of the plot shows one quantity of all runs; the reversed pass is dashed beside the forward one.
"""

import io
import os
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from jaxtyping import Float

from segic_jax.errors import InputError
from segic_jax.runtime.atomic_write import atomic_write
from segic_jax.runtime.metric_writer import FILE, read_metrics

REVERSE = "_reverse"  # ending of the second pass's names
VALIDATION = "validation/"  # how its scores' names begin
SCORES = {"miou": "mIoU", "fb_iou": "FB-IoU", "episode_iou": "mean IoU of the episodes"}
DENSE = 100  # a curve of more points is smoothed, over a faint curve of the points themselves
WIDTHS = 40  # the smoothing window is the number of points over this
LARGEST = 1e100  # beyond it Matplotlib fails
# Readable on white and to the colour-blind (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
TITLES = {
    "loss": "loss",
    "loss_mask": "mask loss (cross-entropy)",
    "loss_dice": "mask loss (dice)",
    "loss_score": "score loss",
    "grad_norm": "gradient norm",
    "learning_rate": "learning rate",
    "pairs_per_second": "pairs a second",
    "input_wait": "share of time waiting for input",
    "flops_utilisation": "share of the peak FLOP/s",
}

Curve = tuple[np.ndarray, np.ndarray]  # steps, values
Run = dict[str, Curve]  # by the metric's name


def plot(workdirs: Sequence[Path], out: Path, what: Sequence[str] = ()) -> None:
    """Draw the curves of `workdirs` into the PNG `out`.

    Args:
        what: names of metrics; by default all losses, validation scores, the gradient norm, the learning
            rate and pairs a second.

    Raises:
        InputError: a folder is no training's, its log is damaged, or there is nothing to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second to import
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    if out.suffix.lower() != ".png":
        raise InputError(f"{out}: the curves are drawn as PNG; give a name that ends in .png.")
    workdirs = list(dict.fromkeys(path.resolve() for path in workdirs))
    runs = dict(zip(_labels(workdirs), map(read_run, workdirs), strict=True))
    panels = chosen_panels(runs, what)
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(
        figsize=(4.4 * columns, 2.9 * rows + 0.4 + 0.25 * len(runs)), layout="constrained", dpi=120
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    last = max(steps[-1] for run in runs.values() for steps, _ in run.values())
    for axis, (name, curves) in zip(axes, panels.items(), strict=False):
        axis.set_xlim(0, 1.03 * last)
        for (_, run), colour in zip(runs.items(), cycle(COLOURS), strict=False):
            for metric in curves:
                if metric in run:
                    _draw(axis, *run[metric], metric, colour)
        _finish(axis, name, dashed=any(metric.endswith(REVERSE) for metric in curves))
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    lines = [Line2D([], [], color=c, lw=2.5, label=n) for n, c in zip(runs, cycle(COLOURS), strict=False)]
    figure.legend(handles=lines, loc="outside upper left", frameon=False, fontsize=11)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, content.getvalue())


def read_run(workdir: Path) -> Run:
    """Read the log of a training by metric; null and unbounded values are left out.

    Raises:
        InputError: there is none, or it is damaged.
    """
    points: dict[str, list] = {}
    for line in read_metrics(workdir):
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float) and abs(value) < LARGEST:
                points.setdefault(name, []).append((line["step"], value))
    return {name: (np.array(p)[:, 0], np.array(p, float)[:, 1]) for name, p in points.items()}


def chosen_panels(runs: dict[str, Run], what: Sequence[str]) -> dict[str, list[str]]:
    """Return the panels: name of a panel -> metrics on it.

    Raises:
        InputError: a name of `what` is in no run, or the runs have nothing in them.
    """
    names = list(dict.fromkeys(name for run in runs.values() for name in run))
    if not names:
        raise InputError(f"There is nothing to plot yet: no line in the {FILE} of {', '.join(runs)}.")
    unknown = [name for name in what if name not in names]
    if unknown:
        raise InputError(f"No run has '{unknown[0]}'; there are {', '.join(sorted(names))}.")
    if what:
        return {name: [name] for name in what}
    single = ("grad_norm", "learning_rate", "pairs_per_second")
    order = (
        *sorted((name for name in names if "loss" in name), key=lambda name: (name != "loss", name)),
        *(name for name in names if name.startswith(VALIDATION)),
        *(name for name in single if name in names),
    )
    panels: dict[str, list[str]] = {}
    for name in order or names:
        panels.setdefault(name.removesuffix(REVERSE), []).append(name)
    return panels


def smooth(values: Float[np.ndarray, " points"], width: int) -> Float[np.ndarray, " points"]:
    """Average over `width` neighbours, fewer at the ends."""
    ones = np.ones(width)
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")


def _draw(axis, steps: np.ndarray, values: np.ndarray, name: str, colour: str) -> None:
    style = {"color": colour, "linestyle": "--" if name.endswith(REVERSE) else "-"}
    if name == "learning_rate":
        axis.plot(steps, values, lw=1.6, **style)
    elif len(values) > DENSE:
        if not name.endswith(REVERSE):  # four clouds would hide the curves
            axis.plot(steps, values, lw=0.6, alpha=0.25, **style)
        axis.plot(steps, smooth(values, len(values) // WIDTHS), lw=1.6, **style)
    else:
        few = {"marker": "o", "markersize": 4} if name.startswith(VALIDATION) or len(values) == 1 else {}
        axis.plot(steps, values, lw=1.6, **few, **style)


def _finish(axis, name: str, dashed: bool) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    title = TITLES.get(name, name)
    if name.startswith(VALIDATION):
        *where, score = name.removeprefix(VALIDATION).split("/")
        title = ", ".join(("validation", *where, f"{SCORES.get(score, score)} in per cent"))
    if name == "learning_rate":
        unit = 10.0 ** np.floor(np.log10(max(axis.dataLim.y1, 1e-12)))
        title = f"{title}, in {unit:.0e}"
        axis.yaxis.set_major_formatter(lambda value, _: f"{value / unit:.3g}")
    axis.set_title(title, loc="left", fontsize=10)
    if dashed:
        axis.set_title("dashed: reversed pass", loc="right", fontsize=8, color="0.4")
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if name in ("learning_rate", "pairs_per_second"):
        axis.set_ylim(bottom=0)
    axis.tick_params(labelsize=9)
    axis.grid(color="0.9", lw=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_xlabel("step", fontsize=9)


def _labels(workdirs: Sequence[Path]) -> list[str]:
    """Return the folders' names, or where two are the same, the part in which their paths differ."""
    names = [path.name for path in workdirs]
    if len(set(names)) == len(names):
        return names
    common = os.path.commonpath(workdirs)
    return [str(path.relative_to(common)) for path in workdirs]


def listing(folder: Path) -> str:
    """Return a table of the runs in and below `folder`, the latest last.

    Raises:
        InputError: there are none.
    """
    rows = sorted(_rows(folder))
    if not rows:
        raise InputError(f"There is no {FILE} in {folder} or below it: give a folder of trainings.")
    table = [("run", "step", "loss", "best validation", "written"), *(row for _, row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )


def _rows(folder: Path) -> Iterator[tuple[float, tuple[str, ...]]]:
    for path in folder.rglob(FILE):
        name, when = str(path.parent.relative_to(folder)), path.stat().st_mtime
        written = time.strftime("%Y-%m-%d %H:%M", time.localtime(when))
        try:
            run = read_run(path.parent)
        except InputError:
            yield when, (name, "damaged", "", "", written)
            continue
        best = ""
        scores = [key for key in run if key.startswith(VALIDATION) and key.endswith("miou")]
        if scores:
            steps, values = run[scores[0]]  # the first validation decides what is best
            best = f"{scores[0].removeprefix(VALIDATION)} {values.max():.2f} at {int(steps[values.argmax()])}"
        loss = f"{run['loss'][1][-1]:.4f}" if "loss" in run else ""
        step = str(int(max(steps[-1] for steps, _ in run.values()))) if run else ""
        yield when, (name, step, loss, best, written)
