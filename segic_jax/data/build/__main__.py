"""`python -m segic_jax.data.build NAME --root DIR --out DIR2`: a benchmark as a TFDS array_record data set.

Then `eval.py --data-root DIR2` and training read it in place of the original files, with the same results.
Repeat a stopped command and it goes on.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from segic_jax.data.benchmarks import find_benchmark, open_benchmark
from segic_jax.data.build.info import read_info
from segic_jax.data.build.items import Item, items, records
from segic_jax.data.build.read import open_built
from segic_jax.data.build.records import FrameRecord, ImageRecord
from segic_jax.data.build.write import build
from segic_jax.data.image_files import record_reads
from segic_jax.errors import ConfigError, DataError
from segic_jax.runtime.command_line import run_command

COMPARED = 200  # images or frames that are read in both forms at the end


@dataclass
class Args:
    name: tyro.conf.Positional[str]
    """A benchmark's name; `segic data list` shows them."""
    out: Path
    """Where to write <name>/1.0.0/."""
    root: Path | None = None
    """The folder with the original data."""
    shots: tuple[int, ...] = (1, 5)
    """For how many references episodes are drawn and kept."""
    threads: int = 4
    """That read and encode images."""


def main(args: Args) -> None:
    """Build, then read some of it in both forms: they must be equal; say how fast each is."""
    if args.threads < 1 or not args.shots or min(args.shots) < 1:
        raise ConfigError(f"--threads {args.threads} and --shots {args.shots} must be at least 1.")
    benchmark = find_benchmark(args.name)
    with record_reads() as read:  # splits and annotation files, which are read when the source is opened
        source = open_benchmark(benchmark, args.root)
    folder = build(benchmark, source, args.root, args.out, read=read, shots=args.shots, threads=args.threads)
    info = read_info(folder)
    print(
        f"{folder}: {', '.join(f'{len(of)} records of {split}' for split, of in info.records.items())}, "
        f"from {len(info.sources)} files"
    )
    print(compare(benchmark.kind, source, open_built(folder)))


def compare(kind, source, built) -> str:
    """Read up to COMPARED items, drawn with seed 0, from both, after reading them once.

    Raises:
        DataError: they differ.
    """
    work = list(items(kind, source))
    order = np.random.default_rng(0).permutation(len(work))[:COMPARED]
    chosen: list[Item] = [work[i] for i in order]
    seconds = {"the original files": float("inf"), "array_record": float("inf")}
    found = {}
    for _ in range(2):  # the first round warms the file cache
        for name, one in zip(seconds, (source, built), strict=True):
            begin = time.perf_counter()
            found[name] = [records(kind, one, item) for item in chosen]
            seconds[name] = time.perf_counter() - begin
    original, copied = found.values()
    if not all(map(_equal, original, copied)):
        raise DataError(
            f"The data set differs from the files of {source.name}: delete it and build it again."
        )
    rates = ", ".join(f"{name} {len(chosen) / value:.0f}" for name, value in seconds.items())
    return f"Loading, images a second and thread: {rates}. {len(chosen)} compared, all equal."


def _equal(one: list, other: list) -> bool:
    return len(one) == len(other) and all(
        len(_parts(a)) == len(_parts(b)) and all(map(np.array_equal, _parts(a), _parts(b)))
        for a, b in zip(one, other, strict=True)
    )


def _parts(record: ImageRecord | FrameRecord) -> list:
    if isinstance(record, FrameRecord):
        return [record.video, record.frame, record.image, record.labels]
    concepts = [part for one in record.concepts for part in (one.class_id, one.instance, one.mask)]
    return [record.image_name, record.image, record.ignored, *concepts]


if __name__ == "__main__":
    stopped = "\nStopped; the same command goes on from here."
    sys.exit(run_command(lambda: main(tyro.cli(Args, description=__doc__)), stopped))
