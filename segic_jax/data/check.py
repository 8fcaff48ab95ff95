"""Check that a benchmark on disk is complete: counts and names first, then every image."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.benchmarks import open_benchmark
from segic_jax.data.build.info import find_built
from segic_jax.data.video import other_size
from segic_jax.errors import DataError
from segic_jax.runtime import progress
from segic_jax.runtime.prefetch import prefetch_results

LISTED = 10  # problems of each kind
THREADS = 4


@dataclass
class CheckReport:
    """Collect the lines of a check and print them as a table."""

    lines: list[CheckLine] = field(default_factory=list)

    @property
    def problems(self) -> int:
        """Return the number of lines with a problem."""
        return sum(bool(_problem(line)) for line in self.lines)

    def __str__(self) -> str:
        rows = [("what", "found", "needed", ""), *(_row(line) for line in self.lines)]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        return "\n".join(
            f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip()
            for row in rows
        )


def _problem(line: CheckLine) -> str:
    if line.problem:
        return line.problem
    return "" if line.needed is None or line.found == line.needed else "not what the benchmark has"


def _row(line: CheckLine) -> tuple[str, str, str, str]:
    needed = "any" if line.needed is None else str(line.needed)
    return line.what, str(line.found), needed, _problem(line) or line.note or "ok"


def check_benchmark(benchmark: BenchmarkSpec, root: Path | None, *, quick: bool = False) -> CheckReport:
    """Check the data in `root`; a bad file is reported and the check continues.

    Args:
        quick: check counts and names only, without reading the images.

    Raises:
        DataError: the benchmark cannot be opened.
    """
    source = open_benchmark(benchmark, root)
    # A data set of `segic data build` has another layout; it is read completely below.
    official = root is not None and find_built(root) is None
    report = CheckReport(list(benchmark.check(root)) if root and official else [])
    if root:
        report.lines.append(_odd_names(root))
    if benchmark.kind == "episodes":
        report.lines += _episode_lines(benchmark, source)
    if benchmark.kind == "video":
        report.lines += _handled([*source.left_out, *(n for clip in source.videos() for n in clip.notes)])
    if not quick:
        report.lines += {"episodes": _views, "semseg": _semantic, "video": _clips}[benchmark.kind](source)
    return report


def _odd_names(root: Path) -> CheckLine:
    """Find names with carriage returns, from lists with CRLF line ends, or with spaces at their ends."""
    odd = sorted(str(path) for path in root.rglob("*") if path.name != path.name.strip())
    problem = f"{odd[0]!r}: rename it without spaces or carriage returns at its ends." if odd else ""
    return CheckLine("names with spaces or carriage returns at their ends", len(odd), 0, problem)


def _episode_lines(benchmark: BenchmarkSpec, source) -> list[CheckLine]:
    lines, notes = [], []
    for protocol in benchmark.protocols:
        count, total = 0, 0
        try:
            for fold in range(benchmark.folds):
                manifest = source.manifest(protocol, fold, 1)
                episodes = manifest.episodes
                notes += manifest.notes
                total += len(episodes)
                count += sum(episode.target_view in episode.reference_views for episode in episodes)
        except DataError as error:
            # Another protocol may need files that the first does not: its own check names them.
            problem = str(error) if protocol == benchmark.protocols[0] else ""
            lines.append(CheckLine(f"episodes of {protocol}", "none", problem=problem))
            continue
        lines.append(CheckLine(f"episodes of {protocol}", total))
        allowed = None if protocol.endswith("-leak") else 0
        lines.append(CheckLine(f"  whose reference is the target ({protocol})", count, allowed))
    return [*lines, *_handled(notes)]


def _views(source) -> list[CheckLine]:
    try:
        views = list(source.views())
    except DataError as error:
        return [CheckLine("images with masks, read", "none", problem=str(error))]

    def check(view):
        loaded = source.load(view)
        empty = not loaded.mask.any() and not loaded.note
        problem = f"{view.image_name} shows nothing of class {view.class_id}." if empty else ""
        return _Found(problem, loaded.note)

    return _check_all("images with masks", views, check)


def _semantic(source) -> list[CheckLine]:
    lines = []
    for split in ("train", "val"):
        try:
            image_names = source.image_names(split)
        except DataError:
            continue  # the benchmark's own check names a split that is missing

        def check(image_name, split=split):
            return _Found("", source.load(split, image_name).note)

        lines += _check_all(f"images of {split}", image_names, check)
    return lines


def _clips(source) -> list[CheckLine]:
    frames = [(clip, number) for clip in source.videos() for number in range(len(clip.frames))]

    def check(item):
        clip, number = item
        frame = source.frame(clip, number)
        if number in clip.annotations:
            path, labels = clip.annotations[number], source.annotation(clip, number)
            if note := other_size(labels, path, *frame.shape[:2]):
                return _Found(note=f"{note}: it is resized (docs/benchmarks.md, Video).")
        return _Found()

    def check_first(clip):
        labels = source.annotation(clip, min(clip.annotations))
        return _Found("" if np.any(labels) else f"{clip.name}: its first label map is empty.")

    return [
        *_check_all("frames", frames, check),
        *_check_all("first label maps", source.videos(), check_first),
    ]


class _Found(NamedTuple):
    """Say what is wrong with an item, and what its reader handled."""

    problem: str = ""
    note: str = ""


def _check_all(what: str, items: list, check: Callable[[Any], _Found]) -> list[CheckLine]:
    """Return one line for all items, and one for each of the first problems and handled defects."""

    def find(item) -> _Found:
        try:
            return check(item)
        except DataError as error:
            return _Found(str(error))

    results = prefetch_results(find, items, threads=THREADS, limit=16 * THREADS)
    found = list(progress.bar(results, total=len(items), desc=what, unit=""))
    problems = [item.problem for item in found if item.problem]
    notes = [item.note for item in found if item.note]
    lines = [CheckLine(f"{what}, read", len(items) - len(problems), len(items))]
    lines += [CheckLine("  problem", i + 1, None, problem) for i, problem in enumerate(problems[:LISTED])]
    if len(problems) > LISTED:
        lines.append(CheckLine("  further problems", len(problems) - LISTED, 0))
    return [*lines, *_handled(notes)]


def _handled(notes: Iterable[str]) -> list[CheckLine]:
    """Return a line for each different sentence about a defect that readers get past."""
    return [CheckLine("  handled", i + 1, None, note=note) for i, note in enumerate(dict.fromkeys(notes))]
