"""Is a benchmark on disk what it must be? Counts and names first, then every image is read."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.benchmarks import open_benchmark
from segic_jax.data.build.info import find_built
from segic_jax.data.episodes import View
from segic_jax.errors import DataError
from segic_jax.runtime import progress
from segic_jax.runtime.prefetch import prefetch_results

SHOWN = 10  # problems of each kind that are listed
THREADS = 4


@dataclass
class Report:
    """What was found."""

    lines: list[CheckLine] = field(default_factory=list)

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


def _trouble(line: CheckLine) -> str:
    if line.problem:
        return line.problem
    return "" if line.needed is None or line.found == line.needed else "not what the benchmark has"


def _row(line: CheckLine) -> tuple[str, str, str, str]:
    needed = "any" if line.needed is None else str(line.needed)
    return line.what, str(line.found), needed, _trouble(line) or "ok"


def check_benchmark(benchmark: BenchmarkSpec, root: Path | None, *, quick: bool = False) -> Report:
    """Everything that can be said of the data in `root`; it goes on after a bad file.

    Args:
        quick: counts and names only; do not read the images.

    Raises:
        DataError: nothing is there at all, or so little that the benchmark cannot be opened.
    """
    source = open_benchmark(benchmark, root)
    # What `data.build` wrote is read whole below; it has not the benchmark's own layout.
    official = root is not None and find_built(root) is None
    report = Report(list(benchmark.check(root)) if root and official else [])
    if root:
        report.lines.append(_odd_names(root))
    if benchmark.kind == "episodes":
        report.lines += _own_references(benchmark, source)
    if not quick:
        report.lines += {"episodes": _views, "semseg": _semantic, "video": _clips}[benchmark.kind](source)
    return report


@runtime_checkable
class OnDisk(Protocol):
    """A source that says which files it reads."""

    def paths(self, view: View) -> tuple[Path, ...]:
        """The files that `load` reads for a view; they may be missing."""
        ...


def require_files(source: object, views: Iterable[View]) -> None:
    """Before hours are spent: are the files of all these views there? Sources not on disk always pass.

    Raises:
        DataError: naming the first one that is missing.
    """
    if isinstance(source, OnDisk):
        for path in dict.fromkeys(path for view in views for path in source.paths(view)):
            if not path.is_file():
                raise DataError(f"{path} is missing, and an episode needs it: get it, or list others.")


def _odd_names(root: Path) -> CheckLine:
    """Carriage returns of lists with CRLF line ends, blanks at the ends."""
    odd = sorted(str(path) for path in root.rglob("*") if path.name != path.name.strip())
    problem = f"{odd[0]!r}: rename it without blanks or carriage returns at its ends." if odd else ""
    return CheckLine("names with blanks or carriage returns", len(odd), 0, problem)


def _own_references(benchmark: BenchmarkSpec, source) -> list[CheckLine]:
    lines = []
    for protocol in benchmark.protocols:
        count, total = 0, 0
        try:
            for fold in range(benchmark.folds):
                episodes = source.manifest(protocol, fold, 1).episodes
                total += len(episodes)
                count += sum(one.target_view in one.reference_views for one in episodes)
        except DataError as error:
            # A further protocol may need files that the benchmark does without: its own check names them.
            problem = str(error) if protocol == benchmark.protocols[0] else ""
            lines.append(CheckLine(f"episodes of {protocol}", "none", problem=problem))
            continue
        lines.append(CheckLine(f"episodes of {protocol}", total))
        allowed = None if protocol.endswith("-leak") else 0
        lines.append(CheckLine(f"  whose reference is the target ({protocol})", count, allowed))
    return lines


def _views(source) -> list[CheckLine]:
    try:
        views = list(source.views())
    except DataError as error:
        return [CheckLine("images with masks, read", "none", problem=str(error))]

    def look(view):
        shown = source.load(view)
        return "" if shown.mask.any() else f"{view.image_name} shows nothing of class {view.class_id}."

    return _looked("images with masks", views, look)


def _semantic(source) -> list[CheckLine]:
    lines = []
    for split in ("train", "val"):
        try:
            image_names = source.image_names(split)
        except DataError:
            continue  # the benchmark's own check names it, where it must have this split

        def look(image_name, split=split):
            source.load(split, image_name)
            return ""

        lines += _looked(f"images of {split}", image_names, look)
    return lines


def _clips(source) -> list[CheckLine]:
    frames = [(clip, number) for clip in source.videos() for number in range(len(clip.frames))]

    def look(one):
        clip, number = one
        frame = source.frame(clip, number)
        if number in clip.annotations:
            labels = source.annotation(clip, number)
            if labels.shape != frame.shape[:2]:
                return f"{clip.annotations[number]} is of another size than its frame."
        return ""

    def first(clip):
        labels = source.annotation(clip, min(clip.annotations))
        return "" if np.any(labels) else f"{clip.name}: its first label map is empty."

    return [*_looked("frames", frames, look), *_looked("first label maps", source.videos(), first)]


def _looked(what: str, items: list, look) -> list[CheckLine]:
    """One line for all, and one for each of the first problems."""

    def tried(item) -> str:
        try:
            return look(item)
        except DataError as error:
            return str(error)

    found: list[str] = []
    problems = prefetch_results(tried, items, threads=THREADS, limit=16 * THREADS)
    found += filter(None, progress.bar(problems, total=len(items), desc=what, unit=""))
    lines = [CheckLine(f"{what}, read", len(items) - len(found), len(items))]
    lines += [CheckLine("  problem", i + 1, None, problem) for i, problem in enumerate(found[:SHOWN])]
    if len(found) > SHOWN:
        lines.append(CheckLine("  further problems", len(found) - SHOWN, 0))
    return lines
