import cv2
import numpy as np
import pytest

from segic_jax.data.preprocess import fitted_taps, pad, resample, resample_image, resize, resize_and_pad


def on_canvas(x, canvas, value):
    """Pad the last two axes with `value`."""
    rows, columns = x.shape[-2:]
    margin = [(0, 0)] * (x.ndim - 2) + [(0, canvas - rows), (0, canvas - columns)]
    return np.pad(x, margin, constant_values=value)


@pytest.mark.parametrize("case", range(6))
def test_resize_equals_official(golden, case):
    arrays = golden("preprocess")
    image, label = arrays[f"in.resize.{case}.image"], arrays[f"in.resize.{case}.label"]
    rows, columns = fitted_taps(*image.shape[1:], 112)
    assert (len(rows.low), len(columns.low)) == tuple(arrays[f"out.resize.{case}.ori_size"])
    resampled = resample_image(np.moveaxis(image, 0, -1), rows, columns).transpose(2, 0, 1)
    np.testing.assert_allclose(on_canvas(resampled, 112, 128), arrays[f"out.resize.{case}.image"], atol=2e-3)
    resampled = resample(label, rows, columns)
    np.testing.assert_allclose(on_canvas(resampled, 112, 0), arrays[f"out.resize.{case}.label"], atol=2e-3)


@pytest.mark.parametrize("case", range(6))
def test_resize_and_pad_rounds_the_official_image(golden, case):
    arrays = golden("preprocess")
    image, label = arrays[f"in.resize.{case}.image"], arrays[f"in.resize.{case}.label"]
    padded = resize_and_pad(np.moveaxis(image, 0, -1), label > 127, 112)
    official = np.moveaxis(arrays[f"out.resize.{case}.image"], 0, -1)
    assert padded.image.dtype == np.uint8
    # Values before rounding differ by at most 2e-3.
    np.testing.assert_allclose(padded.image, official, atol=0.502)
    assert padded.size == tuple(arrays[f"out.resize.{case}.ori_size"])
    if set(np.unique(label)) == {0, 255}:
        official = arrays[f"out.resize.{case}.label"] / 255
        clear = abs(official - 0.5) > 1e-4
        np.testing.assert_array_equal(padded.masks[clear], official[clear] > 0.5)


def test_resize_of_a_video_equals_official(golden):
    arrays = golden("preprocess")
    rows, columns = fitted_taps(60, 80, 112)
    assert (len(rows.low), len(columns.low)) == tuple(arrays["out.vos.ori_size"])
    frames, masks = (resample(arrays[f"in.vos.{name}"], rows, columns) for name in ("images", "inst_masks"))
    np.testing.assert_allclose(on_canvas(frames, 112, 128), arrays["out.vos.images"], atol=2e-3)
    np.testing.assert_allclose(on_canvas(masks, 112, 0), arrays["out.vos.inst_masks"], atol=2e-3)


def test_an_image_of_the_right_size_is_copied():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    masks = rng.random((2, 48, 64)) < 0.5
    padded = resize_and_pad(image, masks, 64)
    np.testing.assert_array_equal(padded.image[:48], image)
    np.testing.assert_array_equal(padded.masks[:, :48], masks)
    assert (padded.image[48:] == 128).all()
    assert not padded.masks[:, 48:].any()
    assert padded.size == (48, 64)
    # Resampling gives the same image.
    resampled = resample_image(image, *fitted_taps(48, 64, 64)).astype(np.uint8)
    np.testing.assert_array_equal(resampled, image)


@pytest.mark.parametrize("shape", [(30, 50), (90, 45), (128, 128)])
def test_resampling_agrees_with_opencv(shape):
    """Compare with OpenCV, whose step is in / out: the same where the size needs no rounding."""
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    height, width = (side * 100 // max(shape) for side in shape)
    expected = cv2.resize(image.astype(np.float32), (width, height))
    np.testing.assert_allclose(resample_image(image, *fitted_taps(*shape, 100)), expected, atol=5e-3)


def test_an_axis_that_keeps_its_size_is_copied():
    """Check that 280 columns are copied while 447 rows become 448, as torch does on a CPU."""
    rows, columns = fitted_taps(447, 280, 448)
    assert (len(rows.low), len(columns.low)) == (448, 280)
    np.testing.assert_array_equal(columns.low, np.arange(280))
    assert not columns.fraction.any()
    assert rows.fraction.any()


@pytest.mark.parametrize("size", [(61, 70), (15, 25), (30, 11), (7, 80), (30, 50)])
def test_resize_to_a_size_agrees_with_opencv(size):
    planes = np.random.default_rng(2).normal(size=(2, 30, 50)).astype(np.float32)
    expected = [cv2.resize(plane, size[::-1]) for plane in planes]
    np.testing.assert_allclose(resize(planes, size), expected, atol=5e-5)


def test_masks_are_thresholded_strictly():
    masks = np.zeros((1, 4, 4), bool)
    masks[:, :, :1] = True  # every other value of the halved mask is exactly 1/2
    assert not resize_and_pad(np.zeros((4, 4, 3), np.uint8), masks, 2).masks.any()


def test_pad_fills_with_grey():
    padded = pad(np.zeros((2, 3, 3), np.uint8), np.ones((1, 2, 3), bool), 4)
    assert padded.masks.sum() == 6
    assert (padded.image == 128).sum() == 3 * (16 - 6)


def test_a_canvas_keeps_fractions_if_asked():
    rng = np.random.default_rng(0)
    image, masks = rng.integers(0, 256, (50, 90, 3), np.uint8), rng.random((2, 50, 90)) < 0.5
    rounded, exact = (resize_and_pad(image, masks, 64, rounded=choice) for choice in (True, False))
    assert (rounded.image.dtype, exact.image.dtype) == (np.uint8, np.float32)
    np.testing.assert_array_equal(rounded.image, np.rint(exact.image))
    np.testing.assert_array_equal(rounded.masks, exact.masks)
    assert resize_and_pad(image, masks, 90, rounded=False).image.dtype == np.float32
