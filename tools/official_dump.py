"""Dump every kind of `tools/dump_torch.py` from the official code, and compare all of it.

    python -m tools.official_dump --segic CHECKOUT --dinov2 CHECKOUT --out DIR

As `tools/compare_official.py`: small random weights, drawn images, no download. DIR/pairs has two pairs,
their classes on one image, a video and a training step, DIR/instances the objects of a map; both have a
float64 run.
Exit code 0 if `segic parity report` and `segic parity end-to-end` pass on both.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from tools import dump_torch
from tools import official_layouts as layouts

SHIFT = 3  # pixels that the objects of the video move in a frame
FRAMES = 4
TRIPLE = (("reference", ""), ("reference", "_mask"), ("target", ""))  # as --images takes them


def main() -> int:
    """Dump, compare, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--segic", type=Path, required=True, help="folder of the official repository")
    parser.add_argument("--dinov2", type=Path, required=True, help="folder of DINOv2's repository")
    parser.add_argument("--out", type=Path, required=True, help="new folder for images, dumps and results")
    parser.add_argument("--canvas", type=int, default=112, help="side of the input in pixels; officially 896")
    options = parser.parse_args()
    import torch

    from segic_jax.parity.end_to_end import compare_end_to_end
    from segic_jax.parity.report import write_report
    from tools.official_checkout import build_official

    (options.out / "official").mkdir(parents=True)
    out, segic, dinov2 = (path.resolve() for path in (options.out, options.segic, options.dinov2))
    os.chdir(out)
    draw_images()
    torch.manual_seed(0)
    model, _ = build_official(segic, dinov2, out, options.canvas)
    torch.save(dict(model.state_dict()), "head.pth")
    # dump_torch refuses the flag, which the small canvas needs, and imports dump_cases from its own folder.
    dump_torch.require_arguments = lambda text: None
    sys.modules["dump_torch"] = dump_torch
    sys.path.insert(0, str(Path(dump_torch.__file__).parent))
    common = {
        "segic": segic,
        "checkpoint": Path("head.pth"),
        "all_tokens": False,
        "float64": True,
        "segic_args": f"--force_input_size {options.canvas}",
    }
    passed = []
    for name, further in KINDS.items():
        dump_torch.dump(argparse.Namespace(**common, **further, out=Path(name)))
        passed += [write_report(Path(name), Path(f"{name}.html")), compare_end_to_end(Path(name), None)]
        print(f"{name}: {out / name}.html, report {passed[-2]}, end to end {passed[-1]}")
    return 0 if all(passed) else 1


def draw_images() -> None:
    """Draw pairs with masks, and a video of two objects with the map of its first frame."""
    for number in range(2):
        for kind, seed in (("reference", number), ("target", 7 + number)):
            mask = layouts.blob(seed, *layouts.size(number + 3 * (kind == "target")))
            layouts.save(Path(f"{kind}{number}.png"), layouts.shown(seed, mask, (200, 60, 20)))
            layouts.save(Path(f"{kind}{number}_mask.png"), mask.astype(np.uint8) * 255)
    height, width = layouts.size(0)
    objects = np.zeros((height, width), np.uint8)
    objects[5 : height // 3, 5 : width // 2] = 3
    objects[height // 2 : -5, width // 3 : -9] = 1
    layouts.save(Path("objects.png"), objects)
    for number in range(FRAMES):
        moved = np.roll(objects, (SHIFT * number, SHIFT * number), (0, 1))
        image = layouts.shown(30, moved == 1, (200, 60, 20))
        image[moved == 3] //= 2
        layouts.save(Path(f"frame{number}.png"), image)


PAIRS = [Path(f"{kind}{i}{end}.png") for i in range(2) for kind, end in TRIPLE]
KINDS = {
    "pairs": {
        "images": PAIRS,
        "class_name": ["bamboo slip", "cat"],
        "instances": False,
        "semantic": True,
        "video": [Path("objects.png"), *(Path(f"frame{number}.png") for number in range(FRAMES))],
        "train": [Path(f"target{number}_mask.png") for number in range(2)],
    },
    "instances": {
        "images": [Path("reference0.png"), Path("objects.png"), Path("target0.png")],
        "class_name": [""],
        "instances": True,
        "semantic": False,
        "video": [],
        "train": [],
    },
}


if __name__ == "__main__":
    sys.exit(main())
