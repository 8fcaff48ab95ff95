"""Define `segic episodes`: make, show, hash and compare lists of episodes."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import tyro

if TYPE_CHECKING:
    from segic_jax.data.episodes import Episode


@dataclass
class Make:
    """Write a benchmark's episodes as files for `segic eval --episodes`, one for each fold."""

    benchmark: tyro.conf.Positional[str]
    """A name of `segic eval --list`."""
    out: Path
    """Folder for the lists."""
    data_root: Path | None = None
    """The folder with the benchmark's data, which the draw depends on."""
    protocol: str | None = None
    """Whose sampler; the benchmark's first protocol by default."""
    fold: int | None = None
    """One fold; all by default."""
    shots: int = 1
    """References for each episode."""

    def run(self) -> int:
        """Write the lists and print their hashes."""
        from segic_jax.data.benchmarks import find_benchmark, open_benchmark
        from segic_jax.errors import DataError

        benchmark = find_benchmark(self.benchmark)
        if benchmark.kind != "episodes":
            raise DataError(f"{benchmark.name} has no episodes: its items are whole images or videos.")
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
    """Print the header of a list and its first episodes."""

    file: tyro.conf.Positional[Path]
    """A list of episodes."""
    number: int = 10
    """How many episodes to print."""

    def run(self) -> int:
        """Print them."""
        from segic_jax.data.episodes import read_manifest
        from segic_jax.errors import InputError

        if self.number < 0:
            raise InputError(f"--number {self.number} must not be negative.")
        manifest = read_manifest(self.file)
        print(
            f"{manifest.benchmark}, protocol {manifest.protocol}, fold {manifest.fold}, "
            f"{manifest.shots} shot(s): {len(manifest.episodes)} episodes "
            f"of {len(manifest.classes)} classes\n{manifest.sha256}"
        )
        for number, episode in enumerate(manifest.episodes[: self.number]):
            instances = f"  instances {', '.join(map(str, episode.instances))}" if episode.instances else ""
            print(f"{number:6}  {_describe(episode, '  ')}{instances}")
        return 0


@dataclass
class Hash:
    """Print the SHA-256 of lists, which is that of [[class, target, [references]], ...] as JSON."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Lists of episodes."""

    def run(self) -> int:
        """Print a line for each file."""
        from segic_jax.data.episodes import read_manifest
        from segic_jax.errors import InputError

        if not self.files:
            raise InputError("Give at least one list of episodes.")
        for path in self.files:
            print(f"{read_manifest(path).sha256}  {path}")
        return 0


@dataclass
class Diff:
    """Print how two lists differ; the exit code is 1 where they do."""

    first: tyro.conf.Positional[Path]
    """A list of episodes."""
    second: tyro.conf.Positional[Path]
    """Another list."""

    def run(self) -> int:
        """Compare the headers, then the episodes by number."""
        from segic_jax.data.episodes import read_manifest

        first, second = read_manifest(self.first), read_manifest(self.second)
        lines = [
            f"{name}: {getattr(first, name)} | {getattr(second, name)}"
            for name in ("benchmark", "protocol", "fold", "shots", "classes")
            if getattr(first, name) != getattr(second, name)
        ]
        if len(first.episodes) != len(second.episodes):
            lines.append(f"episodes: {len(first.episodes)} | {len(second.episodes)}")
        pairs = list(enumerate(zip(first.episodes, second.episodes, strict=False)))
        different = [(number, *pair) for number, pair in pairs if pair[0] != pair[1]]
        if different:
            lines.append(f"{len(different)} of {len(pairs)} episodes differ; the first:")
            lines += [f"  {number}: {_describe(a)} | {_describe(b)}" for number, a, b in different[:5]]
        print("\n".join(lines) if lines else f"The same {len(first.episodes)} episodes.")
        return 1 if lines else 0


def _describe(episode: "Episode", space: str = " ") -> str:
    return f"{episode.class_id}{space}{episode.target}{space}<- {', '.join(episode.references)}"


class Episodes:
    """Work with lists of episodes: which target is predicted from which references."""

    ACTIONS: ClassVar = {"make": Make, "show": Show, "hash": Hash, "diff": Diff}
