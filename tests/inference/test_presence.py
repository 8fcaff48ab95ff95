"""Test negative examples, and the decision whether a class is present."""

import numpy as np
import pytest
from tiny import bundle, random_image

from segic_jax import Example
from segic_jax.errors import ConfigError
from segic_jax.inference.presence import EVIDENCE, GAP, MARGIN, apply_negative
from segic_jax.inference.segmenter import Segmenter


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(bundle())


def example(seed: int, name: str | None, **fields) -> Example:
    return Example(*random_image(seed, 60 + seed, 70), name=name, **fields)


def test_a_negative_lowers_logits_where_it_fits_better():
    random = np.random.default_rng(0)
    logits, negative = random.normal(size=(2, 16, 16)) * 5
    no_gap = np.zeros((4, 4), np.float32)
    result = apply_negative(logits, negative, no_gap)
    wins = (negative > 0) & (negative > logits + MARGIN)
    assert (result[wins] < 0).all()
    assert np.array_equal(result[~wins], logits[~wins])
    assert (result <= logits).all()
    with_gap = apply_negative(logits, negative, no_gap + 1)  # its patches also match better
    lost = (negative > 0) & (negative - logits - MARGIN + GAP > 0)
    assert np.array_equal(with_gap > 0, (logits > 0) & ~lost)
    assert np.array_equal(apply_negative(logits, negative, no_gap - 9), logits)


def test_an_example_that_is_also_its_negative_gains_nothing(segmenter):
    """Check that the negative example raises no logit."""
    target, mask = random_image(0, 60, 70)
    without = segmenter.predict(target, segmenter.fit(example(0, "a")))
    negative = Example(target, mask, name="a", negative=True)
    with_negative = segmenter.predict(target, segmenter.fit([example(0, "a"), negative]))
    assert (with_negative.small_logits <= without.small_logits + 1e-5).all()


def test_absent_classes_have_no_mask(segmenter):
    context = segmenter.fit([example(0, "a"), example(1, "b")])
    target = random_image(9, 50, 80)[0]
    plain = segmenter.predict(target, context)
    assert plain.present.all()  # without a calibration every class is present
    assert not segmenter.calibrated
    (warning,) = plain.warnings
    assert "has no calibration of presence" in warning
    calibration = {"weights": dict.fromkeys(EVIDENCE, 0.0), "bias": 0.0, "least": 0.6}
    model = bundle()
    model.notes["presence"] = calibration
    calibrated = Segmenter(model)
    assert calibrated.calibrated
    result = calibrated.predict(target, context)
    assert result.presence.tolist() == [0.5, 0.5]
    assert result.warnings == ()
    assert not result.present.any()
    assert not result.masks.any()
    assert not result.label_map.any()
    assert result.to_coco() == []
    np.testing.assert_array_equal(result.logits(), plain.logits())
    all_masks = calibrated.predict(target, context, keep_absent=True)
    assert np.array_equal(all_masks.masks, plain.masks)
    model.notes["presence"] = {"weights": {"old": 1.0}, "bias": 0.0, "least": 0.6}
    with pytest.raises(ConfigError, match=r"segic calibrate --weights FILE --save"):
        Segmenter(model)
