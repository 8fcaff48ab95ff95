"""Results are computed once, in strips: the same for any strip, and in little memory."""

import tracemalloc
from dataclasses import replace

import cv2
import numpy as np
import pytest
from tiny import blob_result

from segic_jax.inference import result as results
from segic_jax.inference.overlay import draw_masks, rgb_png


def test_strips_change_nothing(monkeypatch):
    whole = blob_result(611, 420)
    expected = whole.label_map, whole.masks, whole.overlay(), whole.logits()
    assert whole.areas.min() > 1000
    np.testing.assert_array_equal(expected[2], draw_masks(whole.image, whole.masks, whole.colours))
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
def test_a_png_of_strips_holds_the_image(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    file = b"".join(rgb_png(width, height, (image[i : i + 4] for i in range(0, height, 4))))
    assert np.array_equal(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB), image)


def test_a_large_result_needs_little_more_than_its_image(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "STRIP", 1 << 17)
    large = blob_result(1600, 2000)
    tracemalloc.start()
    try:
        large.save(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The label map has two thirds of the image's bytes, a mask one third.
    assert peak < 2 * large.image.nbytes


def test_each_class_is_resampled_once(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "STRIP", 1 << 14)
    result, resampled = blob_result(300, 400), np.zeros((3, 300), int)
    logit_rows = results.Result._logit_rows

    def counted(self, concept, start, stop):
        resampled[concept, start:stop] += 1
        return logit_rows(self, concept, start, stop)

    monkeypatch.setattr(results.Result, "_logit_rows", counted)
    result.save(tmp_path)
    result.coco_file()
    result.overlay(100)
    assert result.masks.any((1, 2)).all()
    assert result.threshold(0) is result
    assert resampled.max() == 1


def test_measures_are_those_of_the_logits():
    """A mask, its measures and the label map follow from the logits, whatever the threshold."""
    for cut in (-0.1, 0, 0.125):
        result = blob_result(97, 120).threshold(cut)
        logits = result.logits()
        np.testing.assert_array_equal(result.masks, logits > cut)
        np.testing.assert_array_equal(result.areas, (logits > cut).sum((1, 2)))
        np.testing.assert_array_equal(
            result.label_map, np.where(logits.max(0) > cut, logits.argmax(0) + 1, 0)
        )
        for mask, values, score, box in zip(result.masks, logits, result.scores, result.boxes, strict=True):
            assert score == pytest.approx((1 / (1 + np.exp(-values[mask]))).mean(), abs=1e-6)
            y, x = np.nonzero(mask)
            assert box == (x.min(), y.min(), x.max() + 1, y.max() + 1)
