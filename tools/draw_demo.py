"""Draw docs/demo.jpg, the picture of the README, from what `make demo` has written.

    python tools/draw_demo.py outputs/demo --out docs/demo.jpg

On the left are the references, examples/CLASS_reference.jpg with their masks, on the right the targets with
the predicted masks and the presence of every class. What lies outside all masks of an image is darkened.
"""

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segic_jax.data.images import read_image
from segic_jax.data.mask_reader import read_mask
from segic_jax.inference.overlay import Colour, class_colours, draw_outline
from segic_jax.runtime.atomic_write import atomic_write

EXAMPLES = Path(__file__).parents[1] / "examples"
COLUMNS, ROWS = 3, 2  # of the targets
TILE = 504, 336  # width and height in pixels
GAP = 12  # between tiles
TITLE = 56  # height of the line above the tiles
TEXT, INK = 28, (31, 35, 40)
DARKENED = 0.4  # brightness outside the masks
FONTS = Path(matplotlib.get_data_path(), "fonts/ttf")


def draw(demo: Path) -> bytes:
    """Return the picture as a JPEG file.

    Args:
        demo: the output folder of `segic predict`; its first `COLUMNS` times `ROWS` targets are drawn.
    """
    coco = json.loads((demo / "annotations.json").read_text("utf-8"))
    names = [category["name"] for category in coco["categories"]]
    colours = class_colours(len(names))
    side = (ROWS * TILE[1] + (ROWS - 1) * GAP - (len(names) - 1) * GAP) // len(names)
    left = side + 3 * GAP  # of the targets
    width = left + COLUMNS * TILE[0] + (COLUMNS - 1) * GAP
    canvas = Image.new("RGB", (width, TITLE + ROWS * (TILE[1] + GAP) - GAP), "white")
    pen = ImageDraw.Draw(canvas)
    for x, title in ((0, "References"), (left, "Found in other photographs")):
        pen.text(
            (x, TITLE // 2 - 4), title, INK, ImageFont.truetype(FONTS / "DejaVuSans-Bold.ttf", TEXT), "lm"
        )
    for row, (name, colour) in enumerate(zip(names, colours, strict=True)):
        image, mask = (EXAMPLES / f"{name}_reference{end}" for end in (".jpg", "_mask.png"))
        tile = draw_tile(read_image(image), [read_mask(mask)], [colour], (side, side))
        draw_labels(tile, [(name, colour)])
        canvas.paste(tile, (0, TITLE + row * (side + GAP)))
    for number, image in enumerate(coco["images"][: COLUMNS * ROWS]):
        path = Path(image["file_name"])
        labels = np.asarray(Image.open(demo / "labels" / f"{path.stem}.png"))
        masks = [labels == value for value in range(1, len(names) + 1)]
        tile = draw_tile(read_image(path), masks, colours, TILE)
        present = {item["category_name"] for item in coco["annotations"] if item["image_id"] == image["id"]}
        draw_labels(
            tile,
            [
                (f"{name} {100 * presence:.0f} %", colour)
                if name in present
                else (f"no {name} ({100 * presence:.0f} %)", None)
                for (name, presence), colour in zip(image["presence"].items(), colours, strict=True)
            ],
        )
        row, column = divmod(number, COLUMNS)
        canvas.paste(tile, (left + column * (TILE[0] + GAP), TITLE + row * (TILE[1] + GAP)))
    file = io.BytesIO()
    canvas.save(file, "jpeg", quality=85, optimize=True)
    return file.getvalue()


def draw_tile(
    image: np.ndarray, masks: Sequence[np.ndarray], colours: Sequence[Colour], size: tuple[int, int]
) -> Image.Image:
    """Return the image with its masks, enlarged and cropped to fill a width and a height."""
    height, width = image.shape[:2]
    scale = max(size[0] / width, size[1] / height)
    shape = max(size[0], round(scale * width)), max(size[1], round(scale * height))
    x, y = (shape[0] - size[0]) // 2, (shape[1] - size[1]) // 2
    window = np.s_[y : y + size[1], x : x + size[0]]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    drawn = cv2.resize(image, shape, interpolation=method)[window]
    large = [cv2.resize(mask.astype(np.float32), shape, interpolation=method)[window] > 0.5 for mask in masks]
    outside = ~np.any(large, axis=0)
    if not outside.all():
        drawn[outside] = (DARKENED * drawn[outside]).astype(np.uint8)
    for mask, colour in zip(large, colours, strict=True):
        drawn = draw_outline(drawn, mask, colour)
    return Image.fromarray(drawn)


def draw_labels(tile: Image.Image, labels: Sequence[tuple[str, Colour | None]]) -> None:
    """Write labels on dark ground at the lower left: white after a dot of its colour, grey without one."""
    pen, font = ImageDraw.Draw(tile, "RGBA"), ImageFont.truetype(FONTS / "DejaVuSans.ttf", TEXT)
    x, height, pad = GAP, TEXT + 14, 12
    top = tile.height - GAP - height
    for text, colour in labels:
        dot = TEXT if colour else 0
        end = x + 2 * pad + dot + round(font.getlength(text))
        pen.rounded_rectangle((x, top, end, top + height), 8, (0, 0, 0, 190 if colour else 120))
        if colour:
            middle = top + height // 2
            pen.ellipse((x + pad, middle - 9, x + pad + 18, middle + 9), colour)
        pen.text(
            (x + pad + dot, top + height // 2), text, (255, 255, 255, 255 if colour else 200), font, "lm"
        )
        x = end + GAP // 2


def main() -> None:
    """Parse the arguments and write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("demo", type=Path, help="the folder that `make demo` has written")
    parser.add_argument("--out", type=Path, required=True, help="the JPEG file to write")
    args = parser.parse_args()
    atomic_write(args.out, draw(args.demo))


if __name__ == "__main__":
    main()
