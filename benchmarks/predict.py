"""Time what `segic predict` does around the model: reading, masks, PNG files, annotations, the contact sheet.

    python -m benchmarks.predict
    python -m benchmarks.predict --images 10 --baseline 13b1a9b

Runs the command itself on photographs of 12 megapixels that show every class, and again on the same number
of tiny images. The difference of the two leaves out the start, the compilation and the model, which sees
the same canvas in both. With --baseline, another revision of this repository does the same work in a
temporary git worktree, in turn with this one.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tyro

from segic_jax.data.emoji.scenes import scene
from segic_jax.data.emoji.sprites import SpriteBank
from segic_jax.errors import ConfigError

ROOT = Path(__file__).parents[1]
LARGE, TINY = (3000, 4000), (84, 112)  # height, width
DISTINCT = 10  # images that are drawn; more are copies of these under other names
GRAIN = 4  # standard deviation of the noise, of 255: without it PNG files would be unusually small


@dataclass
class Args:
    images: int = 100
    """Number of images of 12 megapixels."""
    classes: int = 3
    """Number of classes; every image shows all of them."""
    rounds: int = 1
    """Repetitions; the fastest counts."""
    baseline: str = ""
    """A git revision to compare with."""


class Usage(NamedTuple):
    """Hold what one process used."""

    wall: float  # seconds
    cpu: float  # seconds, of all cores
    peak: int  # bytes


class Figures(NamedTuple):
    """Hold the figures of one revision, without the model's time."""

    seconds_per_image: float
    cpu_seconds_per_image: float
    peak_mib: float


def main(args: Args) -> None:
    """Draw the images, time the command and print the figures."""
    if args.images < 1 or args.classes < 1 or args.rounds < 1:
        raise ConfigError("--images, --classes and --rounds must be at least 1.")
    with tempfile.TemporaryDirectory(prefix="segic_predict_") as folder:
        work = Path(folder)
        references = _draw(work, args.images, args.classes)
        with _revisions(work, args.baseline) as trees:
            for tree in trees.values():  # compile once, so that no round pays for it
                _predict(tree, work, "warm", references)
            rounds = [
                {name: _figures(tree, work, references, args.images) for name, tree in trees.items()}
                for _ in range(args.rounds)
            ]
    best = {
        name: Figures(*map(min, zip(*(figures[name] for figures in rounds), strict=True)))
        for name in rounds[0]
    }
    for name, figures in best.items():
        print(
            f"{name:<10} {figures.seconds_per_image:.3f} s an image, "
            f"{figures.cpu_seconds_per_image:.3f} s of CPU time, peak {figures.peak_mib:.0f} MiB"
        )
    report: dict = {name: figures._asdict() for name, figures in best.items()}
    if args.baseline:
        ours, other = best["this tree"], best[args.baseline]
        report["ratio"] = round(ours.seconds_per_image / other.seconds_per_image, 3)
        report["cpu_ratio"] = round(ours.cpu_seconds_per_image / other.cpu_seconds_per_image, 3)
    print(json.dumps(report))


def _draw(work: Path, images: int, classes: int) -> list[str]:
    """Write the folders `large`, `tiny` and `warm`, and return the options that name the references."""
    sprites = SpriteBank.load("novel").classes[:classes]
    for name, (height, width) in {"large": LARGE, "tiny": TINY, "warm": TINY}.items():
        (work / name).mkdir()
        for i in range(1 if name == "warm" else images):
            path = work / name / f"{i:04}.jpg"
            if i >= DISTINCT:
                shutil.copyfile(work / name / f"{i % DISTINCT:04}.jpg", path)
                continue
            image = cv2.resize(
                scene(sprites, "predict", i).image, (width, height), interpolation=cv2.INTER_CUBIC
            )
            noise = np.random.default_rng(i).normal(0, GRAIN, image.shape)
            image = np.clip(image + noise, 0, 255).astype(np.uint8)
            cv2.imwrite(str(path), image[..., ::-1])
    options = []
    for sprite in sprites:
        reference = scene([sprite], "reference", 0)
        image, mask = work / f"{sprite.name}.png", work / f"{sprite.name}_mask.png"
        cv2.imwrite(str(image), reference.image[..., ::-1])
        cv2.imwrite(str(mask), (reference.labels == 1).astype(np.uint8) * 255)
        options += ["--ref", str(image), str(mask), "--name", sprite.name]
    return options


@contextmanager
def _revisions(work: Path, baseline: str) -> Iterator[dict[str, Path]]:
    """Give the source trees to time by name; the baseline's is removed afterwards."""
    if not baseline:
        yield {"this tree": ROOT}
        return
    tree = work / "baseline"
    _git("worktree", "add", "--quiet", "--detach", str(tree), baseline)
    try:
        yield {baseline: tree, "this tree": ROOT}
    finally:
        _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str) -> None:
    process = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if process.returncode:
        raise ConfigError(f"git {' '.join(arguments)} fails: {process.stderr.strip()}")


def _figures(tree: Path, work: Path, references: list[str], images: int) -> Figures:
    tiny, large = (_predict(tree, work, name, references) for name in ("tiny", "large"))
    return Figures(
        round((large.wall - tiny.wall) / images, 4),
        round((large.cpu - tiny.cpu) / images, 4),
        round(large.peak / 2**20, 1),
    )


def _predict(tree: Path, work: Path, targets: str, references: list[str]) -> Usage:
    """Run the command of a source tree in a process of its own."""
    out = work / "out"
    command = [sys.executable, "-m", "segic_jax", "predict", *references, "--keep-absent"]
    # Each revision's own file: earlier ones cannot read today's.
    command += ["--weights", *map(str, (tree / "segic_jax" / "weights").glob("emoji?tiny.safetensors"))]
    command += ["--out", str(out), str(work / targets)]
    begin = time.perf_counter()
    with (work / "log").open("w+") as log:
        process = subprocess.Popen(
            command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, stdout=log, stderr=log
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise ConfigError(f"{' '.join(command)} fails: {log.read()[-500:]}")
    count = len(list((out / "overlays").glob("*.png")))
    if count != len(list((work / targets).iterdir())):
        raise ConfigError(f"{tree}: {count} overlays were written.")
    shutil.rmtree(out)
    return Usage(wall, usage.ru_utime + usage.ru_stime, 1024 * usage.ru_maxrss)


if __name__ == "__main__":
    main(tyro.cli(Args))
