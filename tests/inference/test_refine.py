"""Test that clicks and boxes change a mask as they say, and nothing else."""

import numpy as np
import pytest
from tiny import bundle, random_image

from segic_jax import Example
from segic_jax.errors import DataError
from segic_jax.inference.refine import PatchEncoder, correct_logits, fit_box
from segic_jax.inference.result import Click
from segic_jax.inference.segmenter import Segmenter


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(bundle())


@pytest.fixture(scope="module")
def result(segmenter):
    context = segmenter.fit([Example(*random_image(i, 60, 70), name=name) for i, name in enumerate("ab")])
    return segmenter.predict(random_image(5, 90, 120)[0], context, keep_absent=True)


def test_a_click_reaches_what_looks_alike_and_is_near():
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 32:] = 255
    features = np.zeros((8, 8, 2), np.float32)
    features[:, :4, 0] = features[:, 4:, 1] = 1
    logits = np.full((32, 32), -4, np.float32)
    corrected = correct_logits(logits, features, image, [Click(20, 30, True), Click(50, 30, False)])
    assert corrected[15, 10] > 0
    assert corrected[15, 14] > corrected[15, 18]  # the edge between them stops it
    assert (corrected[:, 17:] < 0).all()
    assert corrected[15, 10] > corrected[0, 10]


def test_a_click_near_the_border_corrects_only_what_is_connected():
    image, features = np.zeros((64, 64, 3), np.uint8), np.ones((8, 8, 2), np.float32)
    logits = np.full((32, 32), -1, np.float32)
    logits[4:20, 4:20], logits[:, 22:24] = 6, -9  # an object, and something sure between it and the rest
    near = correct_logits(logits, features, image, [Click(40.5, 24.5, True)])
    assert near[12, 20] > 0
    assert (near[:, 24:] < 0).all()
    far = correct_logits(logits, features, image, [Click(56, 24, True)])
    assert far[12, 28] > 0
    assert far[24, 20] > 0  # it tells of what looks alike, also beyond


def test_contradictions_and_repetitions_are_no_error():
    image, logits = np.zeros((64, 64, 3), np.uint8), np.zeros((32, 32), np.float32)
    clicks = [Click(20, 30, True), Click(20, 30, True), Click(20.5, 30, False)]
    assert np.isfinite(correct_logits(logits, np.ones((8, 8, 2), np.float32), image, clicks)).all()


def test_a_box_holds_the_mask_and_is_filled():
    distance = np.hypot(*np.mgrid[-16:16, -16:16]).astype(np.float32)
    fitted = fit_box(2 - distance, (8, 8, 25, 25))  # a disk of radius 2 becomes one of radius 8
    rows, columns = np.nonzero(fitted > 0)
    assert abs(rows.min() - 8) <= 1
    assert abs(columns.max() - 24) <= 1
    assert not (fit_box(20 - distance, (8, 8, 25, 25)) > 0)[:, :7].any()
    assert (fit_box(np.full((32, 32), -5, np.float32), (3.2, 3.2, 3.6, 3.6)) > 0).sum() == 1  # within a cell


@pytest.mark.parametrize("tiles", [None, 3])
def test_clicks_are_honoured_and_kept(segmenter, result, tiles):
    if tiles:
        context = segmenter.fit([Example(*random_image(i, 60, 70), name=name) for i, name in enumerate("ab")])
        result = segmenter.predict(result.image, context, keep_absent=True, tiles=tiles)
    logits = result.logits(1)
    y, x = (int(value) for value in np.unravel_index(logits.argmin(), logits.shape))
    first = segmenter.refine(result, points=[(x, y)], name="b")
    assert first.mask(1)[y, x]
    assert first.present[1]
    np.testing.assert_array_equal(first.small_logits[0], result.small_logits[0])
    other = 80 if x < 60 else 20
    second = segmenter.refine(first, points=[(other, 60, False)], name="b")
    assert second.mask(1)[y, x]
    assert not second.mask(1)[60, other]
    assert [click for _, click in second.clicks] == [Click(x, y, True), Click(other, 60, False)]


@pytest.mark.parametrize(("cut", "tiles"), [(0.0, None), (9.0, None), (-9.0, 2)])
def test_every_click_is_on_its_side_at_any_threshold(segmenter, result, cut, tiles):
    """Clicks are pixels of the image; cells of the map are larger or smaller than they are."""
    context = segmenter.fit(Example(*random_image(0, 60, 70), name="a"))
    rng = np.random.default_rng(0)
    for shape in ((90, 120), (300, 40), (9, 7)):
        image = random_image(5, *shape)[0]
        corrected = segmenter.predict(image, context, keep_absent=True, tiles=tiles, cut=cut)
        cells = corrected.small_logits.shape[-1] / corrected.canvas * np.array(corrected.placed) / shape
        clicked: list[Click] = []
        for _ in range(6):
            y, x = (int(rng.integers(side)) for side in shape)
            click = Click(x, y, bool(rng.integers(2)))
            contradicted = [
                c
                for c in clicked
                if c.inside != click.inside and max(abs(c.y - y) * cells[0], abs(c.x - x) * cells[1]) < 1
            ]
            clicked = [c for c in clicked if c not in contradicted and c != click] + [click]
            corrected = segmenter.refine(corrected, points=[click])
            assert [c for _, c in corrected.clicks] == clicked
            assert all(corrected.mask(0)[int(c.y), int(c.x)] == c.inside for c in clicked)


def test_a_box_on_the_target(segmenter, result):
    boxed = segmenter.refine(result, box=(30, 20, 80, 60), name="a")
    x0, y0, x1, y1 = boxed.boxes[0]
    assert 25 <= x0 < x1 <= 85
    assert 15 <= y0 < y1 <= 65


def test_the_image_is_encoded_once_for_many_clicks(segmenter, result, monkeypatch):
    calls, features = [], segmenter.engine.features
    monkeypatch.setattr(segmenter.engine, "features", lambda *inputs: calls.append(1) or features(*inputs))
    monkeypatch.setattr(segmenter, "_encode", PatchEncoder(segmenter.engine))
    for x in (10, 50, 90):
        result = segmenter.refine(result, points=[(x, 30)], name="a")
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": [(500, 3)]}, "outside the image of 120 x 90"),
        ({"points": [(3,)]}, "must be"),
        ({"points": [(3, 4, 5, 6)]}, "must be"),
        ({"points": [(3, "4")]}, "must be"),
        ({"points": [(3, float("nan"))]}, "outside the image"),
        ({"box": (3, 4, 2, 9)}, "must have x0 < x1"),
        ({"box": (3, 4)}, "A box is"),
        ({"name": "c"}, "Name one of the classes a, b"),
        ({"name": None}, "Name one of the classes a, b"),
    ],
)
def test_malformed_corrections_are_refused(segmenter, result, arguments, message):
    with pytest.raises(DataError, match=message):
        segmenter.refine(result, **{"name": "a"} | arguments)
