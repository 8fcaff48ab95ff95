"""`segic data`: is a benchmark on disk what it must be?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass
class Check:
    """Compare what lies on disk with what a benchmark must have; the exit code is 1 where they differ."""

    name: tyro.conf.Positional[str]
    """A name of `segic data list`."""
    data_root: Path | None = None
    """The folder with the benchmark's data."""
    quick: bool = False
    """Counts and names only; do not read the images."""

    def run(self) -> int:
        """Print one table."""
        from segic_jax.data.benchmarks import find_benchmark
        from segic_jax.data.check import check_benchmark

        report = check_benchmark(find_benchmark(self.name), self.data_root, quick=self.quick)
        print(report)
        print(f"{report.problems} problem(s)." if report.problems else "Everything is there.")
        return 1 if report.problems else 0


@dataclass
class List:
    """Every benchmark: what it is, its protocols, what must lie in its folder and where to get it."""

    def run(self) -> int:
        """Print them."""
        from segic_jax.data.benchmarks import list_benchmarks

        print(list_benchmarks())
        return 0


@dataclass
class Data:
    """Benchmarks on disk: check one, or list all."""

    action: Annotated[Check, tyro.conf.subcommand("check")] | Annotated[List, tyro.conf.subcommand("list")]

    def run(self) -> int:
        """The chosen action."""
        return self.action.run()
