"""Every benchmark by name, and how its data are opened."""

from pathlib import Path

from segic_jax.data.benchmark_spec import BenchmarkSpec
from segic_jax.data.build.info import find_built
from segic_jax.data.build.read import open_built
from segic_jax.data.emoji import source as emoji
from segic_jax.data.sources import (
    ade20k,
    ade847,
    coco,
    coco20i,
    coco_semantic,
    davis17,
    folder,
    fss1000,
    isaid,
    isic,
    lung,
    lvis92i,
    paco_part,
    pascal_part,
    pc459,
    permis,
    perseg,
    suim,
    ytvos18,
)
from segic_jax.errors import DataError

MODULES = (
    emoji,
    folder,
    fss1000,
    coco20i,
    lvis92i,
    pascal_part,
    paco_part,
    coco,
    isic,
    lung,
    isaid,
    suim,
    permis,
    perseg,
    ade20k,
    ade847,
    pc459,
    coco_semantic,
    davis17,
    ytvos18,
)
BENCHMARKS: dict[str, BenchmarkSpec] = {
    one.name: one for one in (*(module.BENCHMARK for module in MODULES), ytvos18.HOLDOUT)
}


def find_benchmark(name: str) -> BenchmarkSpec:
    """Raises DataError for a name that is none."""
    if name not in BENCHMARKS:
        raise DataError(f"There is no benchmark {name!r}: choose one of {', '.join(BENCHMARKS)}.")
    return BENCHMARKS[name]


def open_benchmark(benchmark: BenchmarkSpec, root: Path | None):
    """The benchmark's source over the data in `root`, in the official layout or as `data.build` wrote them.

    Raises:
        DataError: nothing there, or something of it is missing; the message says where to get it.
    """
    if root is not None and find_built(root):
        source = open_built(root)
        if source.name != benchmark.name:
            raise DataError(f"{root} holds {source.name}, not {benchmark.name}: give the folder of that one.")
        return source
    if benchmark.needs_root and (root is None or not root.exists()):
        place = "--data-root is missing" if root is None else f"{root} is missing"
        layout = "; ".join(benchmark.layout.splitlines())
        raise DataError(
            f"{place}: {benchmark.name} needs a folder with {layout} (to be had from {benchmark.download})."
        )
    return benchmark.open(root)


def list_benchmarks() -> str:
    """Every benchmark: what it is, its protocols, what must lie in --data-root and where to get it."""
    lines = []
    for benchmark in BENCHMARKS.values():
        folds = f", {benchmark.folds} folds" if benchmark.folds > 1 else ""
        lines += [
            f"{benchmark.name}: {benchmark.title}",
            f"    {benchmark.kind}; protocols {', '.join(benchmark.protocols)}{folds}",
            *(f"    needs  {line}" for line in benchmark.layout.splitlines()),
            f"    from   {benchmark.download}",
        ]
    return "\n".join(lines)
