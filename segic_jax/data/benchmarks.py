"""List every benchmark by name and open its data."""

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
    spec.name: spec for spec in (*(module.BENCHMARK for module in MODULES), ytvos18.HOLDOUT)
}


def find_benchmark(name: str) -> BenchmarkSpec:
    """Return the benchmark of a name. Raises DataError for an unknown name."""
    if name not in BENCHMARKS:
        raise DataError(f"There is no benchmark {name!r}: choose one of {', '.join(BENCHMARKS)}.")
    return BENCHMARKS[name]


def open_benchmark(benchmark: BenchmarkSpec, root: Path | None):
    """Open the data in `root`, in the official layout or as `segic data build` wrote them.

    Raises:
        DataError: data are missing; the message says which and where to get them.
    """
    if root is not None and not benchmark.needs_root and not find_built(root):
        raise DataError(
            f"--data-root {root} has no effect: {benchmark.name} is in the package; leave it out."
        )
    if root is not None and find_built(root):
        source = open_built(root)
        if source.name != benchmark.name:
            raise DataError(
                f"{root} holds {source.name}, not {benchmark.name}: give the folder of {benchmark.name}."
            )
        return source
    if benchmark.needs_root and (root is None or not root.exists()):
        place = "--data-root is missing" if root is None else f"{root} is missing"
        layout = "; ".join(benchmark.layout.splitlines())
        raise DataError(
            f"{place}: {benchmark.name} needs a folder with {layout} (from {benchmark.download})."
        )
    return benchmark.open(root)


def list_benchmarks() -> str:
    """Describe every benchmark: protocols, the layout of --data-root, and where to get the data."""
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
