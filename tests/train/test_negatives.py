"""Compare the queue of negative prompts with deques, and test its use in the losses."""

from collections import defaultdict, deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segic_jax.train import losses
from segic_jax.train.forward import NegativeBatch
from segic_jax.train.negatives import MAX_NEGATIVES, choose, empty_queue, push

CHANNELS, LENGTH = 3, 4


def test_the_queue_keeps_the_latest_of_every_class():
    """Compare with deques over batches with repeated classes, rows without a class, and empty features."""
    rng = np.random.default_rng(0)
    queue, plain = empty_queue(5, LENGTH, CHANNELS), defaultdict(lambda: deque(maxlen=LENGTH))
    jitted_push = jax.jit(push)
    for _ in range(20):
        classes = rng.integers(-1, 5, 9)
        features = rng.normal(size=(9, CHANNELS)).astype(np.float32)
        features[rng.random(9) < 0.2] = 0
        queue = jitted_push(queue, classes, features)
        for class_row, feature in zip(classes, features, strict=True):
            if class_row >= 0 and feature.any():
                plain[class_row].append(feature)
        for class_row, expected in plain.items():
            assert min(int(queue["count"][class_row]), LENGTH) == len(expected)
            stored = np.asarray(queue["features"][class_row])[: len(expected)]
            assert {tuple(feature) for feature in stored} == {tuple(feature) for feature in expected}


@pytest.fixture
def queue():
    """Return a queue of five classes, in which 0, 2 and 3 have features that encode their number."""
    queue = empty_queue(5, LENGTH, CHANNELS)
    for class_row, times in ((0, 1), (2, 6), (3, 2)):
        for i in range(times):
            queue = push(queue, jnp.array([class_row]), jnp.array([[class_row + 1, i + 1, 1.0]]))
    return queue


def test_negatives_are_chosen_among_candidates_with_features(queue):
    candidates = np.array([[1, 2, 0, 4, 3, -1], [-1] * 6, [4, 1, -1, -1, -1, -1]])
    negatives = choose(queue, jax.random.key(0), jnp.arange(3), candidates, concepts=4)
    assert negatives.valid.shape == (3, 2, 4)
    assert negatives.valid[0].tolist() == [[False, True, True, True]] * 2  # slot 0 is the class itself
    assert not negatives.valid[1:].any()  # no candidates, or none with a feature
    assert negatives.prompts[0, 0, 1:].tolist() == [2, 0, 3]  # in the order of the candidates
    assert negatives.prompts[0, 1, 1:].tolist() == [3, 0, 2]  # from the end
    np.testing.assert_array_equal(negatives.features[0, :, 1:, 0], negatives.prompts[0, :, 1:] + 1)
    # Only stored features are drawn: class 3 has the features 1 and 2, class 2 lost its first two.
    for seed in range(20):
        repeated = choose(queue, jax.random.key(seed), jnp.arange(3), candidates, concepts=4)
        assert set(np.asarray(repeated.features[0, 0, 3:, 1]).tolist()) <= {1.0, 2.0}
        assert set(np.asarray(repeated.features[0, 0, 1:2, 1]).tolist()) <= {3.0, 4.0, 5.0, 6.0}
    many_candidates = choose(
        queue, jax.random.key(0), jnp.arange(1), np.tile([0, 2, 3], (1, 10)), concepts=19
    )
    assert int(many_candidates.valid[0, 0].sum()) == MAX_NEGATIVES


def test_a_row_has_the_same_negatives_in_any_part_of_the_batch(queue):
    candidates = np.tile([0, 2, 3, -1], (4, 1))
    batch = choose(queue, jax.random.key(1), jnp.arange(4), candidates, concepts=3)
    part = choose(queue, jax.random.key(1), jnp.array([2, 3]), candidates[2:], concepts=3)
    np.testing.assert_array_equal(batch.features[2:], part.features)


def test_weights_and_totals_of_masks_and_negatives():
    valid = np.array([[True, False, False], [True, True, False]])
    extra = np.zeros((2, 2, 3), bool)
    extra[0, 0, 1:] = True
    extra[0, 1, 1] = True
    negatives = NegativeBatch(extra, np.zeros((2, 2, 3, CHANNELS)), np.zeros((2, 2, 3), int))
    weights = losses.mask_weights(valid, negatives, 0.1)
    np.testing.assert_allclose(weights[0], [[1, 0.1, 0.1], [1, 0.1, 0]])
    np.testing.assert_allclose(weights[1], [[1, 1, 0]] * 2)
    totals = losses.batch_totals(weights)
    np.testing.assert_allclose(totals.weights, [3.2, 3.1])
    np.testing.assert_allclose(totals.masks, [5, 4])
    np.testing.assert_array_equal(losses.mask_weights(valid, None, 0.1)[:, 0], valid)


def test_weighted_losses_are_weighted_means():
    """Compare with averaged losses of single masks, unlike the official dice (loss_mask.py:111-113)."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, 3, 8, 8)).astype(np.float32)
    targets = rng.random((1, 3, 16, 16)) > 0.5
    coords = rng.random((1, 3, 50, 2)).astype(np.float32)
    weights = np.array([[1.0, 0.1, 0.0]])
    single = [
        losses.mask_losses(logits[:, i : i + 1], targets[:, i : i + 1], coords[:, i : i + 1], np.ones((1, 1)))
        for i in range(2)
    ]
    for kind, loss in enumerate(losses.mask_losses(logits, targets, coords, weights)):
        expected = (single[0][kind] + 0.1 * single[1][kind]) / 1.1
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
