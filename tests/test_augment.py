import numpy as np
import pytest

from segic_jax.data.augment import flip, jitter_windows, jittered_taps, large_scale_jitter
from segic_jax.data.canvas import resample, resample_image


@pytest.mark.parametrize("case", range(5))
def test_jitter_equals_official(golden, case):
    arrays = golden("preprocess")
    image, label = arrays[f"in.lsj.{case}.image"], arrays[f"in.lsj.{case}.label"]
    uniforms = np.concatenate([arrays[f"in.lsj.{case}.u_scale"], arrays[f"in.lsj.{case}.u_offset"]])
    rows, columns = jittered_taps(*image.shape[1:], 112, uniforms, (0.1, 2.0))
    h, w = len(rows.low), len(columns.low)
    assert (h, w) == tuple(arrays[f"out.lsj.{case}.ori_size"])
    windows = jitter_windows(*image.shape[1:], 112, uniforms, (0.1, 2.0))
    assert [window.start for window in windows] == arrays[f"out.lsj.{case}.offsets"].tolist()
    ours = resample_image(np.moveaxis(image, 0, -1), rows, columns).transpose(2, 0, 1)
    official = arrays[f"out.lsj.{case}.image"]
    np.testing.assert_allclose(ours, official[:, :h, :w], atol=2e-3)
    official_label = arrays[f"out.lsj.{case}.label"]
    np.testing.assert_allclose(resample(label, rows, columns), official_label[:, :h, :w], atol=2e-3)

    placed = large_scale_jitter(np.moveaxis(image, 0, -1), label > 127, 112, uniforms)
    np.testing.assert_allclose(placed.image, np.moveaxis(official, 0, -1), atol=0.502)
    assert placed.size == (h, w)
    assert placed.masks.shape == (len(label), 112, 112)


@pytest.mark.parametrize("case", range(3))
def test_flip_equals_official(golden, case):
    arrays = golden("preprocess")
    image, label = arrays[f"in.resize.{case}.image"], arrays[f"in.resize.{case}.label"]
    ours, masks = flip(np.moveaxis(image, 0, -1), label > 127, arrays["in.flip_u"][case])
    np.testing.assert_array_equal(ours, np.moveaxis(arrays[f"out.flip.{case}.image"], 0, -1))
    np.testing.assert_array_equal(masks, arrays[f"out.flip.{case}.label"] > 127)


def test_the_crop_is_a_window_of_the_whole():
    """Taking only the kept part gives the same numbers as resizing everything and cutting it out."""
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    crop = large_scale_jitter(image, np.zeros((0, 40, 60), bool), 50, np.array([1.0, 0.5, 0.25]))
    whole = large_scale_jitter(image, np.zeros((0, 40, 60), bool), 100, np.array([0.5, 0, 0]), (0.5, 1.5))
    top, left = int(0.5 * (67 - 50 + 1)), int(0.25 * 51)
    np.testing.assert_array_equal(crop.image, whole.image[top : top + 50, left : left + 50])


@pytest.mark.parametrize("uniform", [0.0, 0.999999])
def test_extreme_draws_fit_the_canvas(uniform):
    for shape in ((7, 301), (301, 7), (64, 64)):
        masks = np.ones((1, *shape), bool)
        placed = large_scale_jitter(np.zeros((*shape, 3), np.uint8), masks, 64, np.full(3, uniform))
        height, width = placed.size
        assert 1 <= height <= 64
        assert 1 <= width <= 64
        assert placed.masks[0, :height, :width].all()
        assert placed.masks.sum() == height * width
