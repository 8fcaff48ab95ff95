"""Score a model on a benchmark: `python eval.py --benchmark fss1000 --data-root DIR`.

`python eval.py --list` shows every benchmark and what it needs. Repeat a stopped command and it goes on.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from segic_jax.config import Hosts
from segic_jax.errors import ConfigError
from segic_jax.runtime.command_line import run_command

if TYPE_CHECKING:
    from segic_jax.data.benchmark_spec import BenchmarkSpec
    from segic_jax.data.manifest import Manifest
    from segic_jax.weights.bundle import Bundle


@dataclass
class Args:
    benchmark: str = "emoji"
    """A name of --list."""
    data_root: Path | None = None
    """The folder with the benchmark's data; --list says what must be in it."""
    weights: str = ""
    """Model file, or a name of `segic weights list`; the small model inside the package by default."""
    out: Path | None = None
    """Folder for the results; outputs/eval_... by default."""
    protocol: str | None = None
    """Whose convention: matcher, insid3, segic or original; the benchmark's first by default."""
    fold: int | Literal["all"] = "all"
    """A number from 0, or all."""
    shots: int = 1
    """References an episode."""
    episodes: Path | None = None
    """A list of episodes (see `segic episodes`) instead of the benchmark's own."""
    limit: int | None = None
    """Answer only so many episodes, images or videos, spread over the list."""
    class_names: bool | None = None
    """Give the model the class names as text; by default as the protocol says, where the model can."""
    baselines: bool | None = None
    """Also score what a result has to beat; by default for emoji and folder."""
    batch_size: int = 16
    """Episodes on their way at once; it changes no result."""
    workers: int = 0
    """Processes that read images; 0: threads."""
    classes: Literal["present", "all"] = "present"
    """Semantic segmentation: decode the classes that an image shows (official), or all."""
    merge: Literal["independent", "argmax"] = "independent"
    """Semantic segmentation: each class by itself (official), or one class a pixel."""
    bank: Literal["train", "val"] | None = None
    """Semantic segmentation: where references come from; train by default, where there is one."""
    semantics: Literal["official", "repaired"] = "official"
    """Video: numbering and late objects as in the official code, or true ids and all objects."""
    hosts: tyro.conf.OmitArgPrefixes[Hosts] = field(default_factory=Hosts)
    list: bool = False
    """Show every benchmark and stop."""


def main(args: Args) -> None:
    """Slow imports wait until Ctrl-C is heard."""
    from segic_jax.data.benchmarks import find_benchmark, list_benchmarks, open_benchmark
    from segic_jax.runtime import distributed
    from segic_jax.runtime.compile_cache import use_compile_cache
    from segic_jax.weights.bundle import load_bundle
    from segic_jax.weights.fetch import find

    if args.list:
        print(list_benchmarks())
        return
    distributed.initialize(args.hosts)
    use_compile_cache()
    benchmark = find_benchmark(args.benchmark)
    with distributed.raise_on_all_hosts():
        source = open_benchmark(benchmark, args.data_root)
        weights = find(args.weights)
        bundle = load_bundle(weights)
    out = args.out or Path("outputs") / default_name(args, weights)
    if benchmark.kind == "semseg":
        from segic_jax.evaluate.semantic import evaluate_semseg, table

        result = evaluate_semseg(
            bundle,
            source,
            benchmark=benchmark,
            classes=args.classes,
            merge=args.merge,
            bank=args.bank or ("val" if benchmark.name == "pc459" else "train"),
            class_names=args.class_names,
            batch_size=args.batch_size,
            limit=args.limit,
            out=out,
        )
    elif benchmark.kind == "video":
        from segic_jax.evaluate.video import evaluate_video, table

        result = evaluate_video(
            bundle, source, benchmark=benchmark, semantics=args.semantics, limit=args.limit, out=out
        )
    else:
        from segic_jax.evaluate.report import table

        result = _episodes(args, bundle, benchmark, source, out)
    if distributed.is_main_host():
        print(f"{table(result)}\n{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def _episodes(args: Args, bundle: "Bundle", benchmark: "BenchmarkSpec", source, out: Path) -> dict:
    from segic_jax.evaluate.episodes import evaluate
    from segic_jax.evaluate.protocols import find_protocol
    from segic_jax.weights.bundle import load_bundle

    protocol = find_protocol(args.protocol or benchmark.protocols[0])
    class_names = protocol.class_names if args.class_names is None else args.class_names
    if args.class_names is None and class_names and bundle.tower is None and len(bundle.text) < 2:
        class_names = False
        print(f"{bundle.name} cannot read class names; they are not given.", file=sys.stderr)
    baselines = benchmark.name in ("emoji", "folder") if args.baselines is None else args.baselines
    random = bundle.path and bundle.path.with_name(bundle.path.stem + "_random_backbone.safetensors")
    return evaluate(
        bundle,
        benchmark,
        source,
        manifests(args, benchmark, source),
        protocol=protocol,
        out=out,
        batch_size=args.batch_size,
        workers=args.workers,
        limit=args.limit,
        class_names=class_names,
        baselines=baselines,
        random_backbone=load_bundle(random) if baselines and random and random.is_file() else None,
    )


def manifests(args: Args, benchmark: "BenchmarkSpec", source) -> Sequence["Manifest"]:
    """The folds that were asked for."""
    from segic_jax.data.manifest import read_manifest

    if args.episodes:
        one = read_manifest(args.episodes)
        if one.benchmark != benchmark.name:
            raise ConfigError(f"{args.episodes} lists episodes of {one.benchmark}, not of {benchmark.name}.")
        return [one]
    name = args.protocol or benchmark.protocols[0]
    folds = range(benchmark.folds) if args.fold == "all" else [args.fold]
    benchmark.require_drawn(name, folds, args.shots)
    return [source.manifest(name, fold, args.shots) for fold in folds]


def default_name(args: Args, weights: Path) -> str:
    """A folder for each experiment: whatever changes a row changes the name."""
    same = ("out", "limit", "batch_size", "workers", "hosts", "list", "weights")
    changing = {name: value for name, value in asdict(args).items() if name not in same}
    stat = weights.stat()
    key = json.dumps([changing, str(weights.resolve()), stat.st_size, stat.st_mtime_ns], default=str)
    return f"eval_{args.benchmark}_{hashlib.sha256(key.encode()).hexdigest()[:8]}"


if __name__ == "__main__":
    stopped = "\nStopped; the same command goes on from here."
    sys.exit(run_command(lambda: main(tyro.cli(Args, description=__doc__)), stopped))
