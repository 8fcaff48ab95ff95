"""Draw docs/tiles.jpg, docs/instances.jpg and docs/clicks.jpg: `python tools/draw_objects.py`.

Everything on them is in the package: composed emoji, and a photograph of examples/.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

sys.path.insert(0, str(Path(__file__).parents[1]))  # for studies/

from segic_jax import Example, Segmenter
from segic_jax.inference.overlay import class_colours, draw_masks, shrink
from studies.cutouts import EmojiMaterial
from studies.instances import touching_scenes
from studies.tiles import large_scenes

DOCS, EXAMPLES = Path("docs"), Path("examples")
HEIGHT = 360  # pixels of a row
INSIDE, OUTSIDE = (0, 158, 115), (213, 94, 0)


def tiles(segmenter: Segmenter) -> list[np.ndarray]:
    """Show a large scene without and with tiles, and a part of it at its own size."""
    scene = next(iter(large_scenes(EmojiMaterial(8), 2048, (30, 80), 1)))
    reference = scene.kind.reference
    context = segmenter.fit(Example(reference.image, reference.mask, name=scene.kind.name))
    plain, tiled = (
        segmenter.predict(scene.image, context, keep_absent=True, tiles=way) for way in (None, "auto")
    )
    y, x = np.argwhere(scene.truth)[0]
    top, left = (int(np.clip(at - 150, 0, 2048 - 360)) for at in (y, x))
    part = tiled.overlay()[top : top + 360, left : left + 360]
    return [reference.image, plain.overlay(), tiled.overlay(), part]


def instances(segmenter: Segmenter) -> list[np.ndarray]:
    """Show touching objects as connected regions, and split where the mask is narrow."""
    drawn = []
    for scene in list(touching_scenes(EmojiMaterial(60), 60))[1:3]:
        result = segmenter.predict(scene.image, segmenter.fit(scene.reference), keep_absent=True)
        for method in ("regions", "peaks"):
            split = segmenter.predict(
                scene.image, segmenter.fit(scene.reference), keep_absent=True, instances=method
            ).instances(0)
            drawn.append(draw_masks(result.image, split, class_colours(max(1, len(split)))))
    return drawn


def clicks(segmenter: Segmenter) -> list[np.ndarray]:
    """Show a mask, and what clicks make of it."""
    context = segmenter.fit(
        Example(EXAMPLES / "bird_reference.jpg", EXAMPLES / "bird_reference_mask.png", name="bird")
    )
    result = segmenter.predict(EXAMPLES / "targets/owl.jpg", context, keep_absent=True)
    drawn = [result.overlay()]
    for points in ([(510, 230, False)], [(352, 296, False)]):
        result = segmenter.refine(result, points=points)
        image = result.overlay()
        for _, click in result.clicks:
            at, radius = (round(click.x), round(click.y)), max(image.shape) // 60
            cv2.circle(image, at, radius + 3, (255, 255, 255), -1, cv2.LINE_AA)
            cv2.circle(image, at, radius, INSIDE if click.inside else OUTSIDE, -1, cv2.LINE_AA)
        drawn.append(image)
    return drawn


def row(images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> UInt8[np.ndarray, "rows columns 3"]:
    """Put images of one height side by side, with white gaps."""
    parts = []
    for image in images:
        small = shrink(image, round(HEIGHT * max(image.shape[:2]) / image.shape[0]))
        width = round(small.shape[1] * HEIGHT / small.shape[0])
        parts += [cv2.resize(small, (width, HEIGHT)), np.full((HEIGHT, 8, 3), 255, np.uint8)]
    return np.concatenate(parts[:-1], axis=1)


def main() -> None:
    """Write the figures."""
    emoji, photo = Segmenter.load("emoji-tiny"), Segmenter.load()
    for name, images in (("tiles", tiles(emoji)), ("instances", instances(emoji)), ("clicks", clicks(photo))):
        bgr = cv2.cvtColor(row(images), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(DOCS / f"{name}.jpg"), bgr, [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main()
