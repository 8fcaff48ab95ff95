"""Write a tiny folder of cut-outs and backgrounds, as `tools/photo_sources.py` makes a large one."""

from pathlib import Path

import cv2
import numpy as np

COLOURS = {"cup": (200, 40, 40), "bowl": (40, 180, 60), "spoon": (50, 60, 210)}  # BGR


def write_photos(root: Path, classes: dict[str, int] | None = None, annotate: str = "") -> Path:
    """Write discs as cut-outs, `classes` of each name, and two backgrounds of noise.

    `annotate` makes the first background one of that class, with a square as its mask.
    """
    rng = np.random.default_rng(0)
    (root / "cutouts").mkdir(parents=True)
    (root / "backgrounds").mkdir()
    lines = []
    for name, count in (classes or {"cup": 3, "bowl": 1, "spoon": 1}).items():
        for number in range(count):
            image = np.zeros((40, 50, 4), np.uint8)
            cv2.circle(image, (25, 20), 15, (*COLOURS[name], 255), -1)
            cv2.imwrite(str(root / f"cutouts/{name}{number}.png"), image)
            lines.append(f"{name}{number}.png\t{name}\tdishes\n")
    (root / "cutouts.txt").write_text("# file, class, kind\n" + "".join(lines))
    for number in range(2):
        noise = rng.integers(0, 256, (90, 120, 3), np.uint8)
        cv2.imwrite(str(root / f"backgrounds/{number}.jpg"), noise)
    if annotate:
        (root / "photographs.txt").write_text(f"0.jpg\t{annotate}\tdishes\n")
        (root / "masks").mkdir()
        mask = np.zeros((90, 120), np.uint8)
        mask[30:60, 40:70] = 255
        cv2.imwrite(str(root / "masks/0.png"), mask)
    return root
