"""Is a benchmark on disk what it must be? Counts and names first, then every picture is read."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from segic_jax.data.benchmark import Benchmark, Check
from segic_jax.data.benchmarks import open_source
from segic_jax.data.episodes import DataError

SHOWN = 10  # problems of each kind that are listed
THREADS = 4


@dataclass
class Report:
    """What was found."""

    lines: list[Check] = field(default_factory=list)

    @property
    def problems(self) -> int:
        """Lines with something wrong."""
        return sum(bool(_trouble(line)) for line in self.lines)

    def __str__(self) -> str:
        rows = [("what", "found", "needed", ""), *(_row(line) for line in self.lines)]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        return "\n".join(
            f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip()
            for row in rows
        )


def _trouble(line: Check) -> str:
    if line.problem:
        return line.problem
    return "" if line.needed is None or line.found == line.needed else "not what the benchmark has"


def _row(line: Check) -> tuple[str, str, str, str]:
    needed = "any" if line.needed is None else str(line.needed)
    return line.what, str(line.found), needed, _trouble(line) or "ok"


def check_benchmark(benchmark: Benchmark, root: Path | None, *, quick: bool = False) -> Report:
    """Everything that can be said of the data in `root`; it goes on after a bad file.

    Args:
        quick: counts and names only; do not read the pictures.

    Raises:
        DataError: nothing is there at all, or so little that the benchmark cannot be opened.
    """
    source = open_source(benchmark, root)
    report = Report(list(benchmark.check(root)) if root else [])
    if root:
        report.lines.append(_odd_names(root))
    if benchmark.kind == "episodes":
        report.lines += _own_references(benchmark, source)
    if not quick:
        report.lines += {"episodes": _views, "semseg": _semantic, "video": _clips}[benchmark.kind](source)
    return report


def _odd_names(root: Path) -> Check:
    """Carriage returns of lists with CRLF line ends, blanks at the ends."""
    odd = sorted(str(path) for path in root.rglob("*") if path.name != path.name.strip())
    problem = f"{odd[0]!r}: rename it without blanks or carriage returns at its ends." if odd else ""
    return Check("names with blanks or carriage returns", len(odd), 0, problem)


def _own_references(benchmark: Benchmark, source) -> list[Check]:
    lines = []
    for protocol in benchmark.protocols:
        count, total = 0, 0
        try:
            for fold in range(benchmark.folds):
                episodes = source.manifest(protocol, fold, 1).episodes
                total += len(episodes)
                count += sum(one.target_view in one.reference_views for one in episodes)
        except DataError as error:
            lines.append(Check(f"episodes of {protocol}", "none", problem=str(error)))
            continue
        lines.append(Check(f"episodes of {protocol}", total))
        allowed = None if protocol.endswith("-leak") else 0
        lines.append(Check(f"  whose reference is the target ({protocol})", count, allowed))
    return lines


def _views(source) -> list[Check]:
    views = list(source.views())

    def look(view):
        shown = source.load(view)
        return "" if shown.mask.any() else f"{view.picture} shows nothing of class {view.class_id}."

    return _looked("pictures with masks", views, look)


def _semantic(source) -> list[Check]:
    lines = []
    for split in ("train", "val"):
        try:
            pictures = source.pictures(split)
        except DataError as error:
            lines.append(Check(f"pictures of {split}", "none", problem=str(error)))
            continue

        def look(picture, split=split):
            source.load(split, picture)
            return ""

        lines += _looked(f"pictures of {split}", pictures, look)
    return lines


def _clips(source) -> list[Check]:
    frames = [(clip, number) for clip in source.videos() for number in range(len(clip.frames))]

    def look(one):
        clip, number = one
        frame = source.frame(clip, number)
        if number in clip.annotations:
            labels = source.annotation(clip, number)
            if labels.shape != frame.shape[:2]:
                return f"{clip.annotations[number]} is of another size than its frame."
        return ""

    empty = [
        clip
        for clip in source.videos()
        if not np.any(source.annotation(clip, min(clip.annotations))) and clip.annotations
    ]
    problem = f"{empty[0].name}: its first label map is empty." if empty else ""
    return [
        *_looked("frames", frames, look),
        Check("videos without an object at first", len(empty), 0, problem),
    ]


def _looked(what: str, items: list, look) -> list[Check]:
    """One line for all, and one for each of the first problems."""

    def tried(item) -> str:
        try:
            return look(item)
        except DataError as error:
            return str(error)

    found: list[str] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for problem in tqdm(_in_order(pool, tried, items), total=len(items), desc=what, unit=""):
            if problem:
                found.append(problem)
    lines = [Check(f"{what}, read", len(items) - len(found), len(items))]
    lines += [Check("  problem", i + 1, None, problem) for i, problem in enumerate(found[:SHOWN])]
    if len(found) > SHOWN:
        lines.append(Check("  further problems", len(found) - SHOWN, 0))
    return lines


def _in_order(pool: ThreadPoolExecutor, call, items: list) -> Iterator:
    """Like `map`, without queueing a hundred thousand pictures at once."""
    step = 16 * THREADS
    for start in range(0, len(items), step):
        yield from pool.map(call, items[start : start + step])
