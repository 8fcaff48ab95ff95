"""Test that explanations point at the patches that match."""

import numpy as np
import pytest
from tiny import bundle, random_image

from segic_jax import Example
from segic_jax.inference import engine
from segic_jax.inference.segmenter import Segmenter


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(bundle())


def example(seed: int, name: str | None, **fields) -> Example:
    return Example(*random_image(seed, 60 + seed, 70), name=name, **fields)


def test_explanations_point_at_pixels_of_both_images(segmenter):
    context = segmenter.fit([example(0, "a"), example(1, "b"), example(2, "b", negative=True)])
    target = random_image(9, 50, 80)[0]
    explanations = segmenter.explain(target, context, matches=5)
    assert [explanation.name for explanation in explanations] == ["a", "b"]
    for row, explanation in enumerate(explanations):
        assert explanation.heat.shape == (50, 80)
        assert np.abs(explanation.heat).max() <= 1 + 1e-5
        strengths = [match.similarity for match in explanation.matches]
        assert len(strengths) == 5
        assert strengths == sorted(strengths, reverse=True)
        for match in explanation.matches:
            assert match.reference == row
            height, width = context.references[row].size
            assert 0 <= match.point[0] < width
            assert 0 <= match.point[1] < height
            assert 0 <= match.target[0] <= 80
            assert 0 <= match.target[1] <= 50


def test_a_reference_matches_itself(segmenter):
    """Check that on the reference itself the strongest matches are of patches with themselves."""
    image, mask = random_image(0, 64, 64)
    context = segmenter.fit(Example(image, mask))
    for match in segmenter.explain(image, context)[0].matches[:5]:
        assert match.similarity == pytest.approx(1, abs=2e-3)
        assert np.abs(np.subtract(match.target, match.point)).max() <= 1


def test_predicting_and_explaining_is_one_pass(segmenter, monkeypatch):
    """Check that the backbone runs once, and both results are those of `predict` and `explain`."""
    context = segmenter.fit([example(0, "a"), example(1, "b")])
    target = random_image(9, 50, 80)[0]
    predicted = segmenter.predict(target, context)
    explained = segmenter.explain(target, context, matches=5)
    runs, extract = [], engine.extract
    monkeypatch.setattr(engine, "extract", lambda *args: runs.append(1) or extract(*args))
    result, explanations = segmenter.predict_and_explain(target, context, matches=5)
    assert len(runs) == 1
    np.testing.assert_array_equal(result.small_logits, predicted.small_logits)
    np.testing.assert_array_equal(result.presence, predicted.presence)
    for before, after in zip(explained, explanations, strict=True):
        assert (before.name, before.matches) == (after.name, after.matches)
        np.testing.assert_array_equal(before.heat, after.heat)
