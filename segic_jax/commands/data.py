"""Define `segic data`: list the benchmarks, check their files, build fast copies of them."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import tyro


@dataclass
class Check:
    """Compare the files on disk with what a benchmark needs; the exit code is 1 if they differ."""

    name: tyro.conf.Positional[str]
    """The benchmark's name; `segic data list` shows all names."""
    data_root: Path | None = None
    """The folder with the benchmark's data."""
    quick: bool = False
    """Check counts and names only, without reading the images."""

    def run(self) -> int:
        """Print one table."""
        from segic_jax.data.benchmarks import find_benchmark
        from segic_jax.data.check import check_benchmark

        report = check_benchmark(find_benchmark(self.name), self.data_root, quick=self.quick)
        print(report)
        print(f"{report.problems} problem(s)." if report.problems else "No problems found.")
        return 1 if report.problems else 0


@dataclass
class List:
    """List every benchmark with its protocols, the layout of its folder and where to download it."""

    def run(self) -> int:
        """Print the list."""
        from segic_jax.data.benchmarks import list_benchmarks

        print(list_benchmarks())
        return 0


@dataclass
class Build:
    """Copy a benchmark into a TFDS data set in array_record files, which load faster.

      segic data build fss1000 --data-root FSS-1000 --out tfds/

    Evaluation and training then read the copy in place of the original files, with the same results. To
    resume a stopped build, repeat the command.
    """

    name: tyro.conf.Positional[str]
    """The benchmark's name; `segic data list` shows all names."""
    out: Path
    """The folder in which to write NAME/1.0.0/."""
    data_root: Path | None = None
    """The folder with the original data."""
    shots: tuple[int, ...] = (1, 5)
    """The numbers of references for which to draw and store episodes."""
    threads: int = 4
    """The number of threads that read and encode images."""

    def run(self) -> int:
        """Build the data set, compare it with the original files and print how fast each of them loads."""
        from segic_jax.data.benchmarks import find_benchmark, open_benchmark
        from segic_jax.data.build.compare import compare
        from segic_jax.data.build.info import read_info
        from segic_jax.data.build.read import open_built
        from segic_jax.data.build.write import build
        from segic_jax.data.image_files import record_reads
        from segic_jax.errors import ConfigError

        if self.threads < 1 or not self.shots or min(self.shots) < 1:
            raise ConfigError(f"--threads {self.threads} and --shots {self.shots} must be at least 1.")
        benchmark = find_benchmark(self.name)
        try:
            with record_reads() as read:  # of lists and annotations, which opening the source reads
                source = open_benchmark(benchmark, self.data_root)
            folder = build(
                benchmark, source, self.data_root, self.out, read=read, shots=self.shots, threads=self.threads
            )
        except KeyboardInterrupt:
            print("\nTo resume the build, repeat the command.", file=sys.stderr)
            raise
        info = read_info(folder)
        counts = ", ".join(f"{len(records)} records of {split}" for split, records in info.records.items())
        print(f"{folder}: {counts}, from {len(info.sources)} files")
        print(compare(benchmark.kind, source, open_built(folder)))
        return 0


class Data:
    """List the benchmarks, check their files on disk, or build fast copies of them."""

    ACTIONS: ClassVar = {"check": Check, "list": List, "build": Build}
