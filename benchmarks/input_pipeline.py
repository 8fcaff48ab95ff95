"""Measure how fast one core prepares training pairs, and where the time goes.

    python -m benchmarks.input_pipeline
    python -m benchmarks.input_pipeline --workers 2      also with worker processes

Writes noisy images of 640 x 480 pixels (JPEGs of about 150 kB) to a temporary folder: classes in FSS-1000's
layout for semantic pairs, COCO's layout with polygons for instance pairs. The files stay in the system's
file cache, so that reading them needs no disk. Times are processor time of one thread, so that other
programs on the machine matter little. The time of a part excludes the parts inside it. The transfer is one
copy of each batch, as any transfer to a device begins with one.
"""

import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import tyro

from segic_jax.config import INSTANCE_PROMPT, DataConfig, SourceConfig, class_prompt
from segic_jax.data import augment, coco_arrays, image_files, images, pipeline
from segic_jax.data.pairs import PairSource
from segic_jax.data.pipeline import Examples, Stack, training_batches
from segic_jax.data.training_sources import open_pairs

HEIGHT, WIDTH = 480, 640
CLASSES, IMAGES = 4, 6  # of semantic pairs, and images of each class
ROUNDS = 5  # the fastest counts: what else runs can only slow a round down
REST = "draws, checks and the rest"


@dataclass
class Args:
    """Kinds of pairs to measure."""

    canvas: int = 896
    """Side of the canvas in pixels."""
    instances: int = 10
    """Objects in each image of an instance pair."""
    pairs: int = 60
    """Pairs of one round."""
    batch_size: int = 8
    """Pairs of one batch."""
    workers: int = 0
    """Worker processes for a further measurement of whole batches, by the clock; 0 for none."""


PARTS: list[tuple[ModuleType, str, Callable[[tuple], str]]] = [
    (image_files, "read_bytes", lambda args: "reading files"),
    (images, "_decode", lambda args: "decoding JPEGs"),
    (images, "open_image", lambda args: "decoding masks (PNG)"),
    (coco_arrays, "decode", lambda args: "drawing polygons"),
    (augment, "_resized", lambda args: f"resampling {'images' if args[0].ndim == 3 else 'masks'}"),
    (augment, "_round_into", lambda args: "rounding images to 8 bits"),
    (augment, "apply_colour_jitter", lambda args: "changing colours"),
    (pipeline, "view_mask", lambda args: "views of masks"),
    (pipeline, "large_scale_jitter", lambda args: "putting them on the canvas"),
]


def main(args: Args) -> None:
    """Print a table for each kind of pairs."""
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["SEGIC_CACHE"] = str(root / "cache")
        write_classes(root / "classes")
        write_instances(root / "coco", args.instances)
        size = np.mean([path.stat().st_size for path in root.rglob("*.jpg")]) / 1e3
        print(f"{WIDTH} x {HEIGHT} pixels, JPEGs of {size:.0f} kB, canvas {args.canvas}, {processor()}")
        for kind, config in {
            "semantic": SourceConfig("folder", str(root / "classes")),
            "instance": SourceConfig("coco_instances", str(root / "coco")),
        }.items():
            report(kind, open_pairs(config, args.canvas), args)


def report(kind: str, source: PairSource, args: Args) -> None:
    """Return pairs a second, and the time of each part."""
    config = DataConfig()
    prompts = {"": 0, INSTANCE_PROMPT: 1} | {class_prompt(name): 2 for name in source.class_names}
    examples = Examples(source, config, args.canvas, prompts, seed=0)
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        with timed_parts() as spent:
            begin = time.thread_time()
            for number in range(args.pairs):
                examples(number)
            spent[REST] = time.thread_time() - begin - sum(spent.values())
        round_ = {name: value / args.pairs for name, value in spent.items()}
        if not best or sum(round_.values()) < sum(best.values()):
            best = round_
    rows, stack = [examples(number) for number in range(args.batch_size)], Stack(config.max_concepts)
    device = {name: np.ones_like(array) for name, array in stack(rows).items()}

    def hand_over() -> None:
        for name, array in stack(rows).items():
            np.copyto(device[name], array)

    best["stacking and handing over"] = fastest(hand_over) / len(rows)
    total = sum(best.values())
    print(f"\n{kind} pairs: {1 / total:.0f} a second and core")
    for name, value in sorted(best.items(), key=lambda item: -item[1]):
        print(f"  {name:<30} {value * 1e3:6.2f} ms a pair  {value / total:4.0%}")
    if args.workers:
        rate = clocked(source, prompts, args)
        print(f"  by the clock, in batches from {args.workers} processes: {rate:.0f} a second")


def clocked(source: PairSource, prompts: dict[str, int], args: Args) -> float:
    """Return the pairs a second that arrive in batches once the processes run."""
    config = DataConfig(workers=args.workers)
    iterator = training_batches(
        source, config, canvas=args.canvas, prompts=prompts, seed=0, global_batch=args.batch_size
    )
    try:
        count = max(args.pairs // args.batch_size, 1)
        for _ in islice(iterator, 4 * args.workers):  # what was made while they started
            pass
        begin = time.perf_counter()
        for _ in islice(iterator, count):
            pass
        return count * args.batch_size / (time.perf_counter() - begin)
    finally:
        iterator.close()


@contextmanager
def timed_parts() -> Iterator[dict[str, float]]:
    """Measure the seconds of each part inside the context."""
    spent: dict[str, float] = defaultdict(float)
    inner = [0.0]  # of the parts inside each one that runs

    def timed(function: Callable, label: Callable[[tuple], str]) -> Callable:
        def call(*args, **options):
            inner.append(0.0)
            begin = time.thread_time()
            try:
                return function(*args, **options)
            finally:
                taken = time.thread_time() - begin
                spent[label(args)] += taken - inner.pop()
                inner[-1] += taken

        return call

    originals = [(module, name, getattr(module, name)) for module, name, _ in PARTS]
    for module, name, label in PARTS:
        setattr(module, name, timed(getattr(module, name), label))
    try:
        yield spent
    finally:
        for module, name, function in originals:
            setattr(module, name, function)


def fastest(function: Callable[[], object]) -> float:
    """Return the seconds of the fastest of ROUNDS calls."""
    taken = []
    for _ in range(ROUNDS):
        begin = time.thread_time()
        function()
        taken.append(time.thread_time() - begin)
    return min(taken)


def write_classes(root: Path) -> None:
    """Write images with soft blobs as masks, in FSS-1000's layout."""
    rng = np.random.default_rng(0)
    for name in range(CLASSES):
        (root / f"class_{name}").mkdir(parents=True)
        for number in range(IMAGES):
            path = root / f"class_{name}/{number}"
            write_jpeg(path.with_suffix(".jpg"), rng)
            mask = cv2.GaussianBlur(rng.normal(size=(HEIGHT, WIDTH)), (0, 0), 25) > 0
            cv2.imwrite(f"{path}.png", mask.astype(np.uint8) * 255)


def write_instances(root: Path, instances: int) -> None:
    """Write images with polygons of 30 points, in COCO's layout."""
    rng = np.random.default_rng(1)
    (root / "train2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    numbers = range(1, CLASSES * IMAGES + 1)
    objects = []
    for number in numbers:
        write_jpeg(root / f"train2017/{number:012}.jpg", rng)
        for _ in range(instances):
            angles = np.linspace(0, 2 * np.pi, 30, endpoint=False)
            radius = rng.uniform(20, 120) * rng.uniform(0.7, 1, 30)
            x = np.clip(rng.uniform(0, WIDTH) + radius * np.cos(angles), 0, WIDTH)
            y = np.clip(rng.uniform(0, HEIGHT) + radius * np.sin(angles), 0, HEIGHT)
            polygon = np.stack([x, y], 1).round(2).ravel().tolist()
            objects.append({"image_id": number, "category_id": 1, "segmentation": [polygon]})
    content = {
        "images": [
            {"id": number, "file_name": f"{number:012}.jpg", "height": HEIGHT, "width": WIDTH}
            for number in numbers
        ],
        "annotations": objects,
        "categories": [{"id": 1, "name": "thing"}],
    }
    (root / "annotations/instances_train2017.json").write_text(json.dumps(content))


def write_jpeg(path: Path, rng: np.random.Generator) -> None:
    """Return an image of large soft colours with noise."""
    soft = cv2.resize(
        rng.integers(0, 256, (30, 40, 3), np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC
    )
    noisy = np.clip(soft + rng.normal(0, 14, soft.shape), 0, 255).astype(np.uint8)
    cv2.imwrite(str(path), noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])


def processor() -> str:
    """Return the name of the processor, if the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown processor"
    )


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
