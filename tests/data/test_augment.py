import colorsys
import itertools

import cv2
import numpy as np
import pytest

from segic_jax.data.augment import (
    draw_colour_jitter,
    draw_view,
    flip,
    jitter_windows,
    jittered_taps,
    large_scale_jitter,
    view_image,
    view_mask,
)
from segic_jax.data.preprocess import resample, resample_image


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
    resampled = resample_image(np.moveaxis(image, 0, -1), rows, columns).transpose(2, 0, 1)
    official = arrays[f"out.lsj.{case}.image"]
    np.testing.assert_allclose(resampled, official[:, :h, :w], atol=2e-3)
    official_label = arrays[f"out.lsj.{case}.label"]
    np.testing.assert_allclose(resample(label, rows, columns), official_label[:, :h, :w], atol=2e-3)

    jittered = large_scale_jitter(np.moveaxis(image, 0, -1), label > 127, 112, uniforms)
    np.testing.assert_allclose(jittered.image, np.moveaxis(official, 0, -1), atol=0.502)
    assert jittered.size == (h, w)
    assert jittered.masks.shape == (len(label), 112, 112)


@pytest.mark.parametrize("case", range(3))
def test_flip_equals_official(golden, case):
    arrays = golden("preprocess")
    image, label = arrays[f"in.resize.{case}.image"], arrays[f"in.resize.{case}.label"]
    flipped, masks = flip(np.moveaxis(image, 0, -1), label > 127, arrays["in.flip_u"][case])
    np.testing.assert_array_equal(flipped, np.moveaxis(arrays[f"out.flip.{case}.image"], 0, -1))
    np.testing.assert_array_equal(masks, arrays[f"out.flip.{case}.label"] > 127)


def test_the_crop_is_a_window_of_the_resized_image():
    """Resampling the crop alone gives the same numbers as resizing the image and cropping it."""
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    crop = large_scale_jitter(image, np.zeros((0, 40, 60), bool), 50, np.array([1.0, 0.5, 0.25]))
    resized = large_scale_jitter(image, np.zeros((0, 40, 60), bool), 100, np.array([0.5, 0, 0]), (0.5, 1.5))
    top, left = int(0.5 * (67 - 50 + 1)), int(0.25 * 51)
    np.testing.assert_array_equal(crop.image, resized.image[top : top + 50, left : left + 50])


@pytest.mark.parametrize("uniform", [0.0, 0.999999])
def test_extreme_random_numbers_fit_the_canvas(uniform):
    for shape in ((7, 301), (301, 7), (64, 64)):
        masks = np.ones((1, *shape), bool)
        jittered = large_scale_jitter(np.zeros((*shape, 3), np.uint8), masks, 64, np.full(3, uniform))
        height, width = jittered.size
        assert 1 <= height <= 64
        assert 1 <= width <= 64
        assert jittered.masks[0, :height, :width].all()
        assert jittered.masks.sum() == height * width


@pytest.mark.parametrize("shape", [(480, 640), (333, 500), (37, 29), (900, 1350), (384, 512), (256, 128)])
def test_fast_resampling_equals_exact_resampling(shape):
    """Allow for rounding: of values within 0.02 of a half, and of masks within 1e-4 of 1/2."""
    rng = np.random.default_rng(sum(shape))
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    masks = cv2.GaussianBlur(rng.normal(size=shape), (0, 0), 2)[None] > 0
    for uniforms in [
        *rng.random((4, 3)),
        np.array([1, 0, 1 - 1e-6]),
        np.zeros(3),
        np.array([0.9 / 1.9, 0, 0]),
    ]:
        jittered = large_scale_jitter(image, masks, 256, uniforms)
        taps = jittered_taps(*shape, 256, uniforms, (0.1, 2.0))
        exact, shades = resample_image(image, *taps), resample(masks, *taps)[0]
        height, width = jittered.size
        assert exact.shape[:2] == (height, width)
        resampled = jittered.image[:height, :width]
        assert np.abs(resampled - exact).max() <= 0.52
        assert (resampled != np.rint(exact)).mean() < 0.01
        assert (jittered.image[height:] == 128).all()
        assert (jittered.image[:, width:] == 128).all()
        differs = jittered.masks[0, :height, :width] != (shades > 0.5)
        assert np.abs(shades[differs] - 0.5).max(initial=0) < 1e-4
        assert not jittered.masks[:, height:].any()
        assert not jittered.masks[:, :, width:].any()


OPTIONS = {"crop": (0.3, 1.0), "colour": (0.4, 0.4, 0.2, 0.1), "colour_share": 0.2, "mirror": 0.1}


def test_views_are_drawn_as_torchvision_documents():
    """Check that area, log aspect ratio and position are uniform, and each change has its probability."""
    rng = np.random.default_rng(0)
    height, width = 1000, 1000
    views = [draw_view(height, width, rng, **OPTIONS) for _ in range(6000)]
    sides = np.array([(view.height, view.width) for view in views])
    areas = sides.prod(1) / (height * width)
    aspects = np.log(sides[:, 1] / sides[:, 0])
    assert 0.3 - 1e-3 < areas.min() < 0.31
    assert 0.98 < areas.max() <= 1
    assert abs(aspects).max() < np.log(4 / 3) + 2e-3
    small = areas < 0.5  # every aspect ratio fits: both are uniform
    np.testing.assert_allclose(np.histogram(areas[small], 4, (0.3, 0.5))[0] / small.sum(), 0.25, atol=0.04)
    log_range = (-np.log(4 / 3), np.log(4 / 3))
    np.testing.assert_allclose(np.histogram(aspects[small], 4, log_range)[0] / small.sum(), 0.25, atol=0.04)
    positions = np.array([(view.top, view.left) for view in views]) / np.maximum(1000 - sides, 1)
    assert positions.min() >= 0
    assert positions.max() <= 1
    inner = (1000 - sides).min(1) > 50
    np.testing.assert_allclose(np.histogram(positions[inner, 0], 4, (0, 1))[0] / inner.sum(), 0.25, atol=0.04)
    assert np.mean([view.mirrored for view in views]) == pytest.approx(0.1, abs=0.02)
    assert np.mean([view.colour is not None for view in views]) == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize(
    ("shape", "expected"), [((100, 1000), (0, 434, 100, 133)), ((1000, 100), (434, 0, 133, 100))]
)
def test_a_crop_that_cannot_fit_is_centred(shape, expected):
    """Take a strip so long that no window of an allowed aspect ratio has the area."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        view = draw_view(*shape, rng, **(OPTIONS | {"crop": (0.9, 1.0)}))
        assert view[:4] == pytest.approx(expected, abs=1)


def test_a_crop_of_the_full_area_keeps_the_image():
    view = draw_view(90, 110, np.random.default_rng(1), **(OPTIONS | {"crop": (1.0, 1.0)}))
    assert view.height * view.width == pytest.approx(9900, rel=0.02)


def reference_view(image, mask, view, canvas):
    """Crop, resize, jitter and mirror an image by the documented formulas in float64."""
    part = image[view.top : view.top + view.height, view.left : view.left + view.width] / 255.0
    inside = mask[view.top : view.top + view.height, view.left : view.left + view.width]
    coordinates = [np.clip((np.arange(canvas) + 0.5) * side / canvas - 0.5, 0, None) for side in inside.shape]
    low = [np.floor(index).astype(int) for index in coordinates]
    high = [np.minimum(index + 1, side - 1) for index, side in zip(low, inside.shape, strict=True)]
    y, x = (index - np.floor(index) for index in coordinates)
    y, x = y[:, None, None], x[None, :, None]
    top = part[low[0]][:, low[1]] * (1 - x) + part[low[0]][:, high[1]] * x
    bottom = part[high[0]][:, low[1]] * (1 - x) + part[high[0]][:, high[1]] * x
    pixels = top * (1 - y) + bottom * y
    if view.colour is not None:
        pixels = reference_colours(pixels, view.colour)
    rows, columns = (np.floor(np.arange(canvas) * side / canvas).astype(int) for side in inside.shape)
    inside = inside[rows][:, columns]
    return (pixels[:, ::-1] * 255, inside[:, ::-1]) if view.mirrored else (pixels * 255, inside)


def reference_colours(rgb, colour):
    """Apply torchvision's adjust_brightness, _contrast, _saturation and _hue to floats in 0..1."""
    for change in colour.order:
        factor = colour.factors[change]
        grey = rgb @ [0.2989, 0.587, 0.114]
        if change == 0:
            rgb = np.clip(rgb * factor, 0, 1)
        elif change == 1:
            rgb = np.clip(rgb * factor + grey.mean() * (1 - factor), 0, 1)
        elif change == 2:
            rgb = np.clip(rgb * factor + grey[..., None] * (1 - factor), 0, 1)
        else:
            flat = [colorsys.rgb_to_hsv(*pixel) for pixel in rgb.reshape(-1, 3)]
            turned = [colorsys.hsv_to_rgb((h + factor) % 1, s, v) for h, s, v in flat]
            rgb = np.array(turned).reshape(rgb.shape)
    return rgb


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_views_equal_the_documented_formulas(share):
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    mask = rng.random((50, 70)) > 0.5
    for _ in range(12):
        options = OPTIONS | {"colour_share": share, "mirror": 0.5}
        view = draw_view(50, 70, rng, **options)
        pixels, inside = view_image(image, view, 64), np.empty((64, 64), bool)
        view_mask(mask, view, inside)
        expected, expected_inside = reference_view(image, mask, view, 64)
        assert pixels.dtype == np.uint8
        assert np.abs(pixels - expected).max() < 0.53  # rounding, and what float32 adds
        np.testing.assert_array_equal(inside, expected_inside)


def test_colours_are_drawn_in_their_ranges_and_in_any_order():
    rng = np.random.default_rng(0)
    jitters = [draw_colour_jitter(rng, (0.4, 0.4, 0.2, 0.1)) for _ in range(2000)]
    assert {sum(10**i * change for i, change in enumerate(colour.order)) for colour in jitters} == {
        sum(10**i * change for i, change in enumerate(order)) for order in itertools.permutations(range(4))
    }
    factors = np.array([colour.factors for colour in jitters])
    np.testing.assert_allclose(factors.min(0), [0.6, 0.6, 0.8, -0.1], atol=2e-3)
    np.testing.assert_allclose(factors.max(0), [1.4, 1.4, 1.2, 0.1], atol=2e-3)
    assert draw_colour_jitter(rng, (2.0, 0.0, 0.0, 0.0)).factors[1:] == (1.0, 1.0, 0.0)


def test_image_and_mask_of_a_view_move_together():
    """Check that the mask of the bright object still covers it in the view, except at the border."""
    image = np.zeros((60, 80, 3), np.uint8)
    mask = np.zeros((60, 80), bool)
    mask[20:45, 30:70] = True
    image[mask] = 255
    rng = np.random.default_rng(4)
    for _ in range(20):
        view = draw_view(60, 80, rng, **(OPTIONS | {"colour_share": 0.0, "mirror": 0.5}))
        pixels, inside = view_image(image, view, 96), np.empty((96, 96), bool)
        view_mask(mask, view, inside)
        assert pixels.shape == (96, 96, 3)
        assert ((pixels[..., 0] > 127) != inside).mean() < 0.03
