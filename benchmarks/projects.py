"""Time `segic fit` on large projects of labelling tools, and measure its memory.

    python -m benchmarks.projects

The images are parts of the photographs in examples/, and the annotations random polygons: what they show
does not change the time. Each command runs in a process of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import tyro

from benchmarks.conditions import conditions
from segic_jax.data.images import read_image

ROOT = Path(__file__).parents[1]
POINTS = 24  # of a polygon


@dataclass
class Args:
    """Print seconds and peak memory of `segic fit` for projects of several sizes."""

    images: tuple[int, ...] = (250, 1000)
    """Images of each project."""
    objects: int = 4
    """Annotations of an image."""
    classes: int = 20
    """Classes that the annotations have in turn."""
    size: tuple[int, int] = (640, 480)
    """Width and height of an image."""
    formats: tuple[Literal["coco", "labelme"], ...] = ("coco", "labelme")
    max_images: tuple[int, ...] = (0, 20)
    """`--max-images` of the command; 0 leaves it out."""
    weights: str = "photo"
    """A name from `segic weights list`, or a model file."""


def main(args: Args) -> None:
    """Print a row of a table for each command."""
    print("".join(f"{name}: {value}\n" for name, value in conditions(None).items()))
    print("| format | images | annotations | `--max-images` | s | CPU, s | peak, MB | file, MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for count in args.images:
            for name in args.formats:
                project = Path(folder, f"{name}_{count}")
                compose(args, project, name, count)
                for limit in args.max_images:
                    cost = fit(project, Path(folder, "out.segic"), limit, args.weights)
                    cells = [name, count, count * args.objects, limit or ""]
                    cells += [f"{cost.seconds:.1f}", f"{cost.processor:.1f}"]
                    cells += [f"{cost.peak / 1e6:.0f}", f"{cost.file / 1e6:.1f}"]
                    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def compose(args: Args, folder: Path, name: str, count: int) -> None:
    """Write a project of `count` images."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    photographs = [read_image(path) for path in sorted((ROOT / "examples").rglob("*.jpg"))]
    width, height = args.size
    images, annotations = [], []
    for number in range(1, count + 1):
        photograph = photographs[int(rng.integers(len(photographs)))]
        top, left = (int(rng.integers(1 + side // 2)) for side in photograph.shape[:2])
        part = cv2.resize(photograph[top : top + len(photograph) // 2, left:], args.size)
        file = f"{number:05}.jpg"
        cv2.imwrite(str(folder / file), cv2.cvtColor(part, cv2.COLOR_RGB2BGR))
        images.append({"id": number, "file_name": file, "width": width, "height": height})
        for _ in range(args.objects):
            place = rng.uniform(0.2, 0.8, 2) * args.size
            angles = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
            radius = rng.uniform(0.8, 1.2, POINTS) * rng.uniform(0.03, 0.15) * width
            points = place + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
            points = points.clip(0, np.array(args.size) - 1)
            annotations.append((number, len(annotations) % args.classes, points.round(2).tolist()))
    names = [f"class {i}" for i in range(args.classes)]
    if name == "coco":
        items = [
            {
                "id": i,
                "image_id": image,
                "category_id": label,
                "segmentation": [[value for point in points for value in point]],
            }
            for i, (image, label, points) in enumerate(annotations)
        ]
        categories = [{"id": i, "name": name} for i, name in enumerate(names)]
        content = {"images": images, "annotations": items, "categories": categories}
        (folder / "annotations.json").write_text(json.dumps(content))
        return
    shapes: dict[int, list[dict]] = {}
    for image, label, points in annotations:
        shapes.setdefault(image, []).append(
            {"label": names[label], "shape_type": "polygon", "points": points, "flags": {}}
        )
    for image in images:
        content = {"version": "5.5.0", "flags": {}, "shapes": shapes[image["id"]], "imageData": None}
        content |= {"imagePath": image["file_name"], "imageWidth": width, "imageHeight": height}
        (folder / image["file_name"]).with_suffix(".json").write_text(json.dumps(content))


class Cost(NamedTuple):
    """Hold what a command took."""

    seconds: float
    processor: float  # seconds of all cores
    peak: int  # bytes
    file: int  # bytes that it wrote


def fit(project: Path, out: Path, max_images: int, weights: str) -> Cost:
    """Run the command."""
    command = [sys.executable, "-m", "segic_jax", "fit", str(project), "--weights", weights]
    command += ["--out", str(out)] + ["--max-images", str(max_images)] * bool(max_images)
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
    processor = usage.ru_utime + usage.ru_stime
    return Cost(seconds, processor, 1024 * usage.ru_maxrss, out.stat().st_size)


if __name__ == "__main__":
    main(tyro.cli(Args))
