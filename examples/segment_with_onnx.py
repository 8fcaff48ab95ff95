"""Segment a folder with a model of `segic export --to onnx`, by onnxruntime, NumPy and Pillow alone."""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


def resize(planes, size, steps):
    """Resize the first two axes: bilinear, half-pixel centres, no antialiasing."""
    for axis, (length, step) in enumerate(zip(size, steps, strict=True)):
        if length == planes.shape[axis]:
            continue
        at = np.maximum(((np.arange(length) + 0.5) * float(np.float32(step)) - 0.5).astype(np.float32), 0)
        low = np.minimum(at.astype(int), planes.shape[axis] - 1)
        high = np.minimum(low + 1, planes.shape[axis] - 1)
        weight = np.expand_dims((at - low).astype(np.float32), [1 - axis, *range(2, planes.ndim)])
        first, second = (np.take(planes, index, axis).astype(np.float32) for index in (low, high))
        planes = first + weight * (second - first)
    return planes


def place(planes, canvas, padding):
    """Put an image or a mask on the canvas; return it and the size that it has there."""
    scale = canvas / max(planes.shape[:2])
    size = [max(int(side * scale), 1) for side in planes.shape[:2]]
    placed = np.full((canvas, canvas, *planes.shape[2:]), padding, np.float32)
    placed[: size[0], : size[1]] = resize(planes, size, (1 / scale, 1 / scale))
    return placed[None], np.array([size], np.int32)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "reference", "mask", "images", "out"):
        parser.add_argument(name, type=Path)
    paths = parser.parse_args()
    import onnxruntime

    encode, segment = (
        onnxruntime.InferenceSession(paths.model / f"{name}.onnx") for name in ("encode", "segment")
    )
    canvas = encode.get_inputs()[0].shape[1]

    def read(path):
        image, size = place(np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB")), canvas, 128)
        return {"images": np.rint(image).astype(np.uint8), "sizes": size}

    mask = place(np.asarray(Image.open(paths.mask).convert("L")) > 127, canvas, 0)[0] > 0.5
    encoded = encode.run(None, {**read(paths.reference), "masks": mask})
    look = dict(zip((port.name for port in encode.get_outputs()), encoded, strict=True))
    least = json.loads((paths.model / "manifest.json").read_text())["presence"]["least"]
    if least is not None:
        look["shots"] = np.ones(1, np.int32)
    paths.out.mkdir(parents=True, exist_ok=True)
    for path in sorted(path for path in paths.images.iterdir() if path.suffix in (".jpg", ".jpeg", ".png")):
        target = read(path)
        logits, scores, _, *presence = segment.run(None, {**target, **look})
        absent = bool(presence) and presence[0][0, 0] < least
        height, width = target["sizes"][0]
        rows, columns = ImageOps.exif_transpose(Image.open(path)).size[::-1]
        logits = resize(logits[0, 0, :height, :width], (rows, columns), (height / rows, width / columns))
        found = (logits > 0) & (not absent)
        Image.fromarray(found).save(paths.out / f"{path.stem}.png")
        share = f"{found.mean():.1%} of the image, score {scores[0, 0]:.2f}"
        print(f"{path.name}: {'not in the image' if absent else share}")


if __name__ == "__main__":
    main()
