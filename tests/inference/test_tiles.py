"""Test that windows cover an image, merge without seams, and compile nothing for another size."""

import numpy as np
import pytest
from tiny import CONFIG, bundle, random_image

from segic_jax import Example
from segic_jax.data.preprocess import resize_and_pad
from segic_jax.errors import ConfigError
from segic_jax.inference import engine
from segic_jax.inference.segmenter import Segmenter
from segic_jax.inference.tiles import MapMerger, TilePlan, cut_window, keep_certain, plan_tiles


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(bundle())


@pytest.mark.parametrize(
    ("size", "tiles"), [((200, 300), "auto"), ((300, 90), 3), ((64, 64), 1), ((9, 500), 4)]
)
def test_windows_cover_the_image_and_overlap(size, tiles):
    plan = plan_tiles(size, CONFIG, tiles)
    covered = np.zeros((plan.side + CONFIG.canvas, plan.side + CONFIG.canvas), int)
    for top, left in plan.windows:
        assert top % 8 == left % 8 == 0  # starts with a patch
        covered[top : top + CONFIG.canvas, left : left + CONFIG.canvas] += 1
    assert covered[: plan.size[0], : plan.size[1]].min() >= 1
    if tiles != "auto":
        assert len({max(window) for window in plan.windows}) == tiles
    if len(plan.windows) > 1:
        assert covered.max() >= 2


def test_auto_takes_images_about_as_they_are():
    assert plan_tiles((64, 50), CONFIG, "auto").windows == ((0, 0),)
    for longest in (100, 200, 500):
        assert 1 <= plan_tiles((longest, 60), CONFIG, "auto").side / longest < 1.5


def test_a_window_is_a_part_of_the_resized_image():
    image = random_image(0, 150, 220)[0]
    plan = plan_tiles((150, 220), CONFIG, 4)
    plane = resize_and_pad(image, np.zeros((0, 150, 220), bool), plan.side).image
    for top, left in plan.windows:
        window = cut_window(image, plan, (top, left))
        height, width = window.size
        expected = plane[top : top + height, left : left + width]
        np.testing.assert_array_equal(window.image[:height, :width], expected)


def average(plan: TilePlan, maps: list[np.ndarray]) -> np.ndarray:
    merger = MapMerger(plan)
    for values in maps:
        merger.add(values)
    return merger.average()


def test_maps_of_one_plane_are_merged_into_it():
    """Any map of the plane comes back, whatever the windows' order and overlap: there are no seams."""
    plan = plan_tiles((230, 300), CONFIG, "auto")
    plane = np.random.default_rng(0).normal(size=(2, plan.side // 2, plan.side // 2)).astype(np.float32)
    padded = np.pad(plane, [(0, 0), (0, 64), (0, 64)])
    maps = [padded[:, top // 2 : top // 2 + 32, left // 2 : left // 2 + 32] for top, left in plan.windows]
    merged = average(plan, maps)
    rows, columns = plan.size[0] // 2, plan.size[1] // 2
    np.testing.assert_allclose(merged[:, :rows, :columns], plane[:, :rows, :columns], atol=1e-5)


def test_regions_that_are_nowhere_certain_are_dropped():
    plan = plan_tiles((64, 112), CONFIG, 2)
    plane = np.full((2, 56, 56), -2, np.float32)
    plane[0, 2:6, 2:6], plane[0, 3, 3], plane[0, 20:24, 20:24] = 0.5, 10, 3
    plane[0, 50:] = 90  # below the image
    windows = [plane[:, :32, left // 2 : left // 2 + 32] for _, left in plan.windows]
    merged = keep_certain(plan, average(plan, windows))[:, :32]
    assert (merged[0] > 0).sum() == 16  # also what is uncertain around a certain place
    assert (merged[0, 2:6, 2:6] > 0).all()
    np.testing.assert_allclose(merged[1], plane[1, :32], atol=1e-5)


def test_one_tile_is_the_plain_call(segmenter):
    context = segmenter.fit([Example(*random_image(i, 60, 70), name=name) for i, name in enumerate("ab")])
    target = random_image(5, 50, 90)[0]
    plain, tiled = segmenter.predict(target, context), segmenter.predict(target, context, tiles=1)
    np.testing.assert_allclose(tiled.small_logits, plain.small_logits, atol=1e-5)
    np.testing.assert_allclose(tiled.presence, plain.presence, atol=1e-6)
    assert (tiled.placed, tiled.canvas) == (plain.placed, plain.canvas)


def test_tiles_of_any_image_use_the_programs_of_the_plain_call(segmenter, monkeypatch):
    context = segmenter.fit(Example(*random_image(0, 60, 70)))
    shapes = set()
    program = engine.extract
    monkeypatch.setattr(
        engine,
        "extract",
        lambda config, backbone, *inputs: shapes.add(inputs[0].shape) or program(config, backbone, *inputs),
    )
    images = [random_image(i, 120 + 30 * i, 200)[0] for i in range(3)]
    for rows in (1, 4):
        monkeypatch.setattr(segmenter.engine, "rows", rows)
        results = [segmenter.predict(image, context, tiles="auto") for image in images]
        assert [result.masks.shape[1:] for result in results] == [image.shape[:2] for image in images]
        if rows == 1:
            expected = results
    assert shapes == {(1, 64, 64, 3), (4, 64, 64, 3)}
    for result, other in zip(results, expected, strict=True):
        np.testing.assert_allclose(result.small_logits, other.small_logits, atol=1e-4)
    many = list(segmenter.predict_many(images, context, tiles="auto"))
    for result, other in zip(many, expected, strict=True):
        np.testing.assert_allclose(result.small_logits, other.small_logits, atol=1e-4)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("tiles", [0, -1, 2.5, "all", True])
def test_other_numbers_of_tiles_are_refused(segmenter, tiles):
    context = segmenter.fit(Example(*random_image(0, 60, 70)))
    with pytest.raises(ConfigError, match=r"tiles .* must be"):
        segmenter.predict(random_image(1, 50, 60)[0], context, tiles=tiles)
