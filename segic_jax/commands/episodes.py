"""`segic episodes`: lists of episodes, made, shown, hashed and compared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass
class Make:
    """Write a benchmark's episodes as files that `eval.py --episodes` takes, one a fold."""

    benchmark: tyro.conf.Positional[str]
    """A name of `python eval.py --list`."""
    out: Path
    """Folder for the lists."""
    data_root: Path | None = None
    """The benchmark's data: what is drawn depends on them."""
    protocol: str | None = None
    """Whose draw; the benchmark's first by default."""
    fold: int | None = None
    """One fold; all by default."""
    shots: int = 1
    """References an episode."""

    def run(self) -> int:
        """Write the lists and say their hashes."""
        from segic_jax.data.benchmarks import find_benchmark, open_benchmark
        from segic_jax.errors import DataError

        benchmark = find_benchmark(self.benchmark)
        if benchmark.kind != "episodes":
            raise DataError(f"{benchmark.name} has no episodes: it scores whole images or videos.")
        source = open_benchmark(benchmark, self.data_root)
        protocol = self.protocol or benchmark.protocols[0]
        folds = range(benchmark.folds) if self.fold is None else [self.fold]
        benchmark.require_drawn(protocol, folds, self.shots)
        self.out.mkdir(parents=True, exist_ok=True)
        for fold in folds:
            manifest = source.manifest(protocol, fold, self.shots)
            path = self.out / f"{benchmark.name}_{protocol}_fold{fold}_{self.shots}shot.jsonl.gz"
            manifest.write(path)
            print(f"{manifest.sha256}  {path}  {len(manifest.episodes)} episodes")
        return 0


@dataclass
class Show:
    """What a list says of itself, and its first episodes."""

    file: tyro.conf.Positional[Path]
    """A list of episodes."""
    number: int = 10
    """How many episodes."""

    def run(self) -> int:
        """Print them."""
        from segic_jax.data.manifest import read_manifest
        from segic_jax.errors import InputError

        if self.number < 0:
            raise InputError(f"--number {self.number} must not be negative.")
        manifest = read_manifest(self.file)
        print(
            f"{manifest.benchmark}, protocol {manifest.protocol}, fold {manifest.fold}, "
            f"{manifest.shots} shot(s): {len(manifest.episodes)} episodes "
            f"of {len(manifest.classes)} classes\n{manifest.sha256}"
        )
        for i, episode in enumerate(manifest.episodes[: self.number]):
            instances = f"  instances {', '.join(map(str, episode.instances))}" if episode.instances else ""
            print(
                f"{i:6}  {episode.class_id}  {episode.target}  <- {', '.join(episode.references)}{instances}"
            )
        return 0


@dataclass
class Hash:
    """SHA-256 of lists: of [[class, target, [references]], ...] as JSON, whatever the file's own bytes."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Lists of episodes."""

    def run(self) -> int:
        """Print one line a file."""
        from segic_jax.data.manifest import read_manifest
        from segic_jax.errors import InputError

        if not self.files:
            raise InputError("Give at least one list of episodes.")
        for path in self.files:
            print(f"{read_manifest(path).sha256}  {path}")
        return 0


@dataclass
class Diff:
    """How two lists differ; the exit code is 1 where they do."""

    first: tyro.conf.Positional[Path]
    """A list of episodes."""
    second: tyro.conf.Positional[Path]
    """Another one."""

    def run(self) -> int:
        """Compare headers, then episodes by number."""
        from segic_jax.data.manifest import read_manifest

        one, two = read_manifest(self.first), read_manifest(self.second)
        lines = [
            f"{name}: {getattr(one, name)} | {getattr(two, name)}"
            for name in ("benchmark", "protocol", "fold", "shots", "classes")
            if getattr(one, name) != getattr(two, name)
        ]
        if len(one.episodes) != len(two.episodes):
            lines.append(f"episodes: {len(one.episodes)} | {len(two.episodes)}")
        pairs = list(enumerate(zip(one.episodes, two.episodes, strict=False)))
        other = [(i, a, b) for i, (a, b) in pairs if a != b]
        if other:
            lines.append(f"{len(other)} of {len(pairs)} episodes differ; the first:")
            lines += [f"  {i}: {_line(a)} | {_line(b)}" for i, a, b in other[:5]]
        print("\n".join(lines) if lines else f"The same {len(one.episodes)} episodes.")
        return 1 if lines else 0


def _line(episode) -> str:
    return f"{episode.class_id} {episode.target} <- {', '.join(episode.references)}"


@dataclass
class Episodes:
    """Lists of episodes: which target is answered from which references."""

    command: (
        Annotated[Make, tyro.conf.subcommand("make")]
        | Annotated[Show, tyro.conf.subcommand("show")]
        | Annotated[Hash, tyro.conf.subcommand("hash")]
        | Annotated[Diff, tyro.conf.subcommand("diff")]
    )

    def run(self) -> int:
        """Run the chosen one."""
        return self.command.run()
