"""Draw docs/steps.jpg, the steps from a reference to a mask, with one row for each target.

    python tools/draw_steps.py examples/targets/{kitten,dog_on_porch}.jpg --out docs/steps.jpg

The reference is examples/cat_reference.jpg with its mask, the model the bundled one.
"""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from segic_jax import Example, Segmenter
from segic_jax.data.images import as_image
from segic_jax.data.mask_reader import read_mask
from segic_jax.inference.overlay import draw_masks, heat_map
from segic_jax.runtime.atomic_write import atomic_write

EXAMPLES = Path(__file__).parents[1] / "examples"
LINE = 2  # the thinnest line around a mask, in pixels of the image
PANEL_SIZE = 2.6, 2.9  # width and height of an image with its title, in inches


def draw(targets: Sequence[Path]) -> bytes:
    """Return a JPEG with reference, similarity map, its peak on the target, and mask from left to right."""
    reference = as_image(EXAMPLES / "cat_reference.jpg")
    mask = read_mask(EXAMPLES / "cat_reference_mask.png")
    segmenter = Segmenter.load()
    context = segmenter.fit(Example(reference, mask, name="cat"))
    figure = Figure((4 * PANEL_SIZE[0], len(targets) * PANEL_SIZE[1]), dpi=110, layout="constrained")
    for row, target in zip(figure.subplots(len(targets), 4, squeeze=False), targets, strict=True):
        result = segmenter.predict(target, context, keep_absent=True)
        similarity = segmenter.explain(target, context)[0].heat
        y, x = np.unravel_index(np.argmax(similarity), similarity.shape)
        panels = (
            ("reference and mask", draw_masks(reference, [mask], result.colours, LINE)),
            (f"similarity map, up to {similarity.max():.2f}", heat_map(similarity)),
            ("peak", result.image),
            (
                f"mask, presence {100 * result.presence[0]:.0f} %",
                draw_masks(result.image, [result.mask(0)], result.colours, LINE),
            ),
        )
        for axis, (title, image) in zip(row, panels, strict=True):
            axis.imshow(image)
            axis.set_title(title, fontsize=12, loc="left")
            axis.axis("off")
            axis.set_anchor("N")  # titles of one height, for photographs of any shape
        for axis in row[1:3]:  # on the map, and on the target
            axis.plot(x, y, "o", ms=16, mfc="none", mec="black", mew=5)
            axis.plot(x, y, "o", ms=16, mfc="none", mec="white", mew=2.5)
    file = io.BytesIO()
    figure.savefig(file, format="jpeg", facecolor="white", pil_kwargs={"quality": 65})
    return file.getvalue()


def main() -> None:
    """Parse the arguments and write the image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", type=Path, nargs="+", help="target images")
    parser.add_argument("--out", type=Path, required=True, help="the JPEG file to write")
    args = parser.parse_args()
    atomic_write(args.out, draw(args.targets))


if __name__ == "__main__":
    main()
