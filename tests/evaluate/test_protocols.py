"""Test the sizes at which masks are compared, and the precision of scores."""

import dataclasses

import numpy as np
import pytest
from tiny import DiskSource

from segic_jax.data.masks import resize_nearest
from segic_jax.errors import ConfigError
from segic_jax.evaluate.protocols import (
    copy_mask,
    find_protocol,
    summarise_rows,
    to_image_size,
)


def test_nearest_resizing_rounds_down():
    truth = np.random.default_rng(0).random((61, 83)) < 0.5
    square = resize_nearest(truth, 518, 518)
    assert square.shape == (518, 518)
    y, x = (np.arange(518) * side // 518 for side in truth.shape)
    assert (square != truth[y[:, None], x]).mean() < 1e-3  # torch's float32 index is sometimes one lower


def test_a_copied_mask_is_stretched():
    top = np.array([[True, True], [False, False]])
    np.testing.assert_array_equal(copy_mask(top, (4, 6)), np.arange(4)[:, None] < np.full(6, 2))


def test_a_canvas_is_cropped_and_resized():
    ramp = np.tile(np.arange(64, dtype=np.float32), (64, 1))
    resized = to_image_size(ramp, (32, 64), (64, 128))
    assert resized.shape == (64, 128)
    np.testing.assert_allclose(resized[0, 1:-1], (np.arange(1, 127) + 0.5) / 2 - 0.5)


def test_scores_keep_their_precision():
    rows = [
        {
            "fold": fold,
            "class": "a",
            "intersection": n,
            "union": 100_000,
            "pixels": 200_000,
            "boundary_iou": None,
        }
        for fold, n in enumerate((10_004, 10_004, 10_014))
    ]
    manifests = [dataclasses.replace(DiskSource().manifest("", fold, 1), classes=("a",)) for fold in range(3)]
    result = summarise_rows(rows, manifests, find_protocol("original"))
    assert [result["fold_scores"][fold]["miou"] for fold in "012"] == pytest.approx([10.004, 10.004, 10.014])
    assert result["scores"]["miou"] == pytest.approx(10.0073333, abs=1e-6)
    assert result["scores"]["boundary_iou"] is None


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ConfigError, match="no protocol 'nonsense': choose one of matcher"):
        find_protocol("nonsense")
