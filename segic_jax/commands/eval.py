"""Define `segic eval`: score a model on a benchmark."""

import dataclasses
import hashlib
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from segic_jax.commands.arguments import TilesOption
from segic_jax.commands.command_line import run_command
from segic_jax.config import Hosts, MethodChoice, Precision
from segic_jax.errors import ConfigError, InputWarning
from segic_jax.weights.catalog import DEFAULT

if TYPE_CHECKING:
    from segic_jax.data.benchmark_spec import BenchmarkSpec
    from segic_jax.data.episodes import Manifest
    from segic_jax.evaluate.protocols import Protocol
    from segic_jax.evaluate.runner import Evaluation
    from segic_jax.weights.bundle import Bundle


@dataclass
class EpisodeOptions:
    """Apply to benchmarks of episodes only."""

    protocol: str | None = None
    """The protocol: matcher, insid3, segic or original; by default that of --episodes, or the benchmark's
    first."""
    fold: int | Literal["all"] | None = None
    """A fold number from 0, or all, the default."""
    shots: int | None = None
    """References for each episode; 1 by default."""
    episodes: Path | None = None
    """An episode list (see `segic episodes`) instead of the benchmark's own."""
    baselines: bool | None = None
    """Also evaluate the baselines; by default for emoji and folder."""
    random_backbone: Path | None = None
    """A model with a frozen random backbone, evaluated as another baseline."""
    workers: int | None = None
    """Processes that read images; 0, the default, reads in threads."""
    tiles: TilesOption = None
    """Segment targets in overlapping windows, as `segic predict --tiles`: N along the longer side, or
    auto."""
    instances: Literal["regions", "peaks"] | None = None
    """Also score the objects of each class (AP), separated as by `segic predict --instances`; for folder with
    a COCO JSON."""


@dataclass
class SemanticOptions:
    """Apply to benchmarks of semantic segmentation only."""

    classes: Literal["present", "all"] | None = None
    """Decode the classes in the ground truth (official, the default), or all."""
    merge: Literal["independent", "argmax"] | None = None
    """Threshold each class independently (official, the default), or assign each pixel to one class."""
    bank: Literal["train", "val"] | None = None
    """The split that references are drawn from; train by default, if there is one."""


@dataclass
class VideoOptions:
    """Apply to video benchmarks only."""

    semantics: Literal["official", "repaired"] | None = None
    """Object ids and late objects as in the official code (default), or true ids and all objects."""


@dataclass
class ImageOptions:
    """Apply to episodes and semantic segmentation, not to videos."""

    class_names: bool | None = None
    """Give the class names to the text tower; by default as the protocol specifies, if there is one."""
    batch_size: int | None = None
    """Episodes or images processed at a time, 16 by default; does not affect the results."""


KINDS = {"episodes": "episodes", "semseg": "semantic segmentation", "video": "video"}


@dataclass
class Eval:
    """Score a model on a benchmark.

    `segic eval --list` shows every benchmark and what it needs. Repeat a stopped command and it continues.

      segic eval --benchmark emoji --weights emoji-tiny
      segic eval --benchmark fss1000 --data-root FSS-1000 --weights segic-l --shots 5
    """

    benchmark: str = "emoji"
    """A name from --list."""
    data_root: Path | None = None
    """The folder with the benchmark's data; --list describes its layout."""
    weights: str = DEFAULT
    """A name from `segic weights list`, or a model file."""
    out: Path | None = None
    """The output folder; by default outputs/eval_..."""
    method: MethodChoice = "segic"
    """segic decodes with the trained head; training_free (INSID3) compares features, and needs a backbone
    only; training_free_crf also moves the edges of its masks to those of the image. Both are for benchmarks
    of episodes."""
    precision: Precision = "auto"
    """The precision of the backbone: auto is bfloat16 on a GPU or TPU and float32 on a CPU."""
    limit: int | None = None
    """Evaluate only this number of episodes, images or videos, spread evenly over the list."""
    list: bool = False
    """Show every benchmark and stop."""
    image_options: ImageOptions = field(default_factory=ImageOptions)
    episode_options: EpisodeOptions = field(default_factory=EpisodeOptions)
    semantic_options: SemanticOptions = field(default_factory=SemanticOptions)
    video_options: VideoOptions = field(default_factory=VideoOptions)
    hosts: Hosts = field(default_factory=Hosts)

    def run(self) -> int:
        """Evaluate, print the scores and name the files; Ctrl-C says how to continue."""

        def work() -> None:
            self.evaluate()

        return run_command(work, stopped="\nStopped; the same command continues from here.")

    def evaluate(self) -> dict | None:
        """Evaluate and return the content of result.json; None after --list.

        Raises:
            InputError: an option, the data or the weights cannot be used.
        """
        from segic_jax.data.benchmarks import find_benchmark, list_benchmarks, open_benchmark
        from segic_jax.evaluate.runner import run_evaluation
        from segic_jax.inference.methods import load_model
        from segic_jax.runtime import distributed
        from segic_jax.runtime.compile_cache import use_compile_cache
        from segic_jax.weights.fetch import find

        if self.list:
            print(list_benchmarks())
            return None
        self._require_counts()
        benchmark = find_benchmark(self.benchmark)
        self._refuse_other_kinds(benchmark)
        distributed.initialize(self.hosts)
        use_compile_cache()
        with distributed.raise_on_all_hosts():
            source = open_benchmark(benchmark, self.data_root)
            path = find(self.weights)
            bundle = load_model(path, self.method)
            evaluation = self._evaluation(bundle, benchmark, source)
        if bundle.domain_warning and benchmark.name != "emoji" and distributed.is_main_host():
            warnings.warn(bundle.domain_warning, InputWarning, stacklevel=2)
        out = self.out or Path("outputs") / self.default_name(path)
        result = run_evaluation(evaluation, out, limit=self.limit)
        if distributed.is_main_host():
            print(evaluation.table(result))
            print(f"{out}: {', '.join(sorted(file.name for file in out.iterdir()))}")
        return result

    def _require_counts(self) -> None:
        """Raise ConfigError, before data are read, if a number is too small."""
        batch_size, workers = self.image_options.batch_size, self.episode_options.workers
        for option, number, least in (
            ("--limit", self.limit, 1),
            ("--batch-size", batch_size, 1),
            ("--workers", workers, 0),
        ):
            if number is not None and number < least:
                raise ConfigError(f"{option} {number} must be at least {least}.")

    def _refuse_other_kinds(self, benchmark: "BenchmarkSpec") -> None:
        """Refuse options that the benchmark's kind would ignore.

        Raises:
            ConfigError: one was given, or another method than the kind has.
        """
        if self.method != "segic" and benchmark.kind != "episodes":
            raise ConfigError(
                f"--method is for episodes, but {benchmark.name} is a benchmark of "
                f"{KINDS[benchmark.kind]}: leave it out."
            )
        groups: Sequence[tuple[object, Sequence[str]]] = (
            (self.image_options, ("episodes", "semseg")),
            (self.episode_options, ("episodes",)),
            (self.semantic_options, ("semseg",)),
            (self.video_options, ("video",)),
        )
        for options, kinds in groups:
            if benchmark.kind in kinds:
                continue
            for name, value in vars(options).items():
                if value is not None:
                    raise ConfigError(
                        f"--{name.replace('_', '-')} is for {' and '.join(KINDS[kind] for kind in kinds)}, "
                        f"but {benchmark.name} is a benchmark of {KINDS[benchmark.kind]}: leave it out."
                    )

    def _evaluation(self, bundle: "Bundle", benchmark: "BenchmarkSpec", source: Any) -> "Evaluation":
        """Make the evaluation of the benchmark's kind; options that were not given keep its defaults."""
        if benchmark.kind == "video":
            from segic_jax.evaluate.video import VideoEvaluation

            return VideoEvaluation(
                bundle,
                benchmark,
                source,
                semantics=self.video_options.semantics or "official",
                precision=self.precision,
            )
        batch_size = 16 if self.image_options.batch_size is None else self.image_options.batch_size
        if benchmark.kind == "semseg":
            from segic_jax.evaluate.semantic import SemanticEvaluation

            options = self.semantic_options
            return SemanticEvaluation(
                bundle,
                benchmark,
                source,
                classes=options.classes or "present",
                merge=options.merge or "independent",
                bank=options.bank or ("val" if benchmark.name == "pc459" else "train"),
                class_names=self.image_options.class_names,
                batch_size=batch_size,
                precision=self.precision,
            )
        from segic_jax.evaluate.episodes import EpisodeEvaluation
        from segic_jax.weights.bundle import load_bundle

        options = self.episode_options
        protocol, manifests = self._episodes(benchmark, source)
        class_names = self.image_options.class_names
        if class_names is None:
            class_names = protocol.class_names and self.method == "segic"
            if class_names and bundle.tower is None and len(bundle.text) < 2:
                class_names = False
                print(f"{bundle.name} cannot encode class names; they are not given.", file=sys.stderr)
        baselines = options.baselines
        if baselines is None:
            baselines = benchmark.name in ("emoji", "folder") and self.method == "segic"
        random_backbone = options.random_backbone
        if random_backbone and not baselines:
            raise ConfigError("--random-backbone is a baseline: give --baselines, too.")
        return EpisodeEvaluation(
            bundle,
            benchmark,
            source,
            manifests,
            protocol=protocol,
            class_names=class_names,
            baselines=baselines,
            random_backbone=load_bundle(random_backbone) if random_backbone else None,
            batch_size=batch_size,
            workers=options.workers or 0,
            precision=self.precision,
            tiles=options.tiles,
            instances=options.instances,
            method=self.method,
        )

    def _episodes(self, benchmark: "BenchmarkSpec", source: Any) -> "tuple[Protocol, Sequence[Manifest]]":
        """Return the protocol, and the lists of the folds that were asked for."""
        from segic_jax.data.episodes import read_manifest
        from segic_jax.evaluate.protocols import PROTOCOLS, find_protocol

        options = self.episode_options
        if options.episodes:
            for name, value in (("fold", options.fold), ("shots", options.shots)):
                if value is not None:
                    raise ConfigError(f"--{name} has no effect with --episodes: leave it out.")
            manifest = read_manifest(options.episodes)
            if manifest.benchmark != benchmark.name:
                raise ConfigError(
                    f"{options.episodes} lists episodes of {manifest.benchmark}, not of {benchmark.name}."
                )
            drawn_by = manifest.protocol if manifest.protocol in PROTOCOLS else benchmark.protocols[0]
            return find_protocol(options.protocol or drawn_by), [manifest]
        protocol = find_protocol(options.protocol or benchmark.protocols[0])
        shots = 1 if options.shots is None else options.shots
        folds = range(benchmark.folds) if options.fold in (None, "all") else [options.fold]
        benchmark.require_drawn(protocol.name, folds, shots)
        return protocol, [source.manifest(protocol.name, fold, shots) for fold in folds]

    def default_name(self, weights: Path) -> str:
        """Return a folder name for each experiment: whatever changes a row changes the name."""
        unchanging = ("out", "limit", "list", "weights", "hosts")
        options = {n: value for n, value in dataclasses.asdict(self).items() if n not in unchanging}
        del options["image_options"]["batch_size"], options["episode_options"]["workers"]
        stat = weights.stat()
        key = json.dumps([options, str(weights.resolve()), stat.st_size, stat.st_mtime_ns], default=str)
        return f"eval_{self.benchmark}_{hashlib.sha256(key.encode()).hexdigest()[:8]}"
