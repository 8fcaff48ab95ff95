"""Large pictures are worked on in strips: the same results, in little memory."""

import tracemalloc
from dataclasses import replace

import cv2
import numpy as np
import pytest

from segic_jax.inference import result as results
from segic_jax.inference.overlay import colours, overlays
from segic_jax.inference.png import rgb_png
from segic_jax.inference.result import Result


def made(height: int, width: int, classes: int = 3) -> Result:
    """Blobs of several classes that overlap, on noise."""
    random = np.random.default_rng(0)
    small = cv2.GaussianBlur(random.normal(size=(32, 32, classes)).astype(np.float32), (0, 0), 1.5)
    side = max(height, width)
    return Result(
        names=tuple("abc"[:classes]),
        presence=np.ones(classes, np.float32),
        present=np.ones(classes, bool),
        evidence=np.zeros((classes, 1), np.float32),
        image=random.integers(0, 256, (height, width, 3), np.uint8),
        source="large.png",
        small_logits=np.ascontiguousarray(small.transpose(2, 0, 1)),
        canvas=64,
        placed=(64 * height // side, 64 * width // side),
        colours=colours(classes),
    )


def test_strips_change_nothing(monkeypatch):
    whole = made(611, 420)
    expected = whole.label_map, whole.masks, whole.overlay(), whole.logits()
    assert whole.areas.min() > 1000
    np.testing.assert_array_equal(expected[2], overlays(whole.image, whole.masks, whole.colours))
    monkeypatch.setattr(results, "STRIP", 420 * 40)
    strips = replace(whole)
    for one, other in zip(
        expected, (strips.label_map, strips.masks, strips.overlay(), strips.logits()), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert strips.areas.tolist() == whole.areas.tolist()
    assert strips.boxes == whole.boxes
    np.testing.assert_allclose(strips.scores, whole.scores, rtol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 1), (1, 9), (50, 33)])
def test_a_png_of_strips_holds_the_picture(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    file = b"".join(rgb_png(width, height, (image[i : i + 4] for i in range(0, height, 4))))
    assert np.array_equal(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB), image)


def test_a_large_result_needs_little_more_than_its_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "STRIP", 1 << 17)
    large = made(1600, 2000)
    tracemalloc.start()
    try:
        large.save(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The label map has two thirds of the picture's bytes, a mask one third.
    assert peak < 2 * large.image.nbytes
