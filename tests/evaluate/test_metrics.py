import numpy as np
import pytest

from segic_jax.evaluate import metrics
from segic_jax.evaluate.infer import to_own_size
from segic_jax.evaluate.metrics import EpisodeCounts


@pytest.fixture(scope="module")
def pairs(golden):
    """(prediction, truth) of each golden sample, the logits resized to the label."""
    values = golden("metrics")
    pairs = []
    for i in range(int(values["in.n"])):
        label = np.asarray(values[f"in.label.{i}"])[0, 0]
        logits = values[f"in.logits.{i}"][0, 0]
        pairs.append((to_own_size(logits, logits.shape, label.shape) > 0, label > 128))
    return pairs


def test_each_image(golden, pairs):
    values = golden("metrics")
    sums = [metrics.intersection_union(*pair) for pair in pairs]
    assert np.array_equal(np.transpose(sums), [values["out.intersection"], values["out.union"]])
    np.testing.assert_allclose([metrics.mask_iou(*pair) for pair in pairs], values["out.mask_iou"], rtol=1e-6)
    boundary = [metrics.boundary_iou(*pair) for pair in pairs]
    np.testing.assert_allclose(boundary, values["out.boundary_iou"], rtol=1e-6)


def test_class_accumulated_miou(golden, pairs):
    values = golden("metrics")
    sums = np.array([metrics.intersection_union(*pair) for pair in pairs])
    counts = EpisodeCounts(
        values["in.class_id"], sums[:, 0], sums[:, 1], np.array([t.size for _, t in pairs])
    )
    sums = metrics.class_sums(counts)
    for name in ("intersection", "union"):
        np.testing.assert_array_equal(getattr(sums, name), values[f"out.class_{name}"])
    ious = metrics.class_iou(counts)
    assert list(ious) == values["out.valid_ids"].tolist()
    expected = values["out.class_intersection"] / np.maximum(values["out.class_union"], 1)
    np.testing.assert_allclose(list(ious.values()), expected, rtol=1e-6)
    assert metrics.mean_iou(counts) == pytest.approx(float(values["out.miou"]), rel=1e-6)


def some_counts(episodes=300, spread=0.5):
    random = np.random.default_rng(3)
    union = random.integers(50, 100, episodes)
    intersection = (union * random.uniform(0.5 - spread / 2, 0.5 + spread / 2, episodes)).astype(int)
    return EpisodeCounts(random.integers(0, 6, episodes), intersection, union, np.full(episodes, 400))


def test_fb_iou_is_the_mean_of_both_sides():
    prediction, truth = np.zeros((2, 4, 5), bool)
    prediction[:2], truth[1:3] = True, True
    counts = EpisodeCounts(np.array([0]), *(np.array([n]) for n in (5, 15, 20)))
    assert metrics.intersection_union(prediction, truth) == (5, 15)
    background = metrics.mask_iou(~prediction, ~truth)
    assert metrics.fb_iou(counts) == pytest.approx(50 * (5 / 15 + background))


def test_interval_holds_the_score_and_shrinks_with_agreement():
    wide, narrow = some_counts(spread=0.8), some_counts(spread=0.1)
    low, high = metrics.bootstrap_interval([wide])
    assert low < metrics.mean_iou(wide) < high
    assert metrics.bootstrap_interval([wide]) == (low, high)  # seeded
    narrow_low, narrow_high = metrics.bootstrap_interval([narrow])
    assert narrow_high - narrow_low < (high - low) / 4


def test_interval_equals_a_plain_loop():
    counts = some_counts(episodes=40)
    random = np.random.default_rng(7)
    means = []
    for _ in range(50):
        drawn = random.integers(40, size=40)
        fields = (counts.classes, counts.intersection, counts.union, counts.pixels)
        means.append(metrics.mean_iou(EpisodeCounts(*(field[drawn] for field in fields))))
    expected = np.percentile(means, [2.5, 97.5])
    np.testing.assert_allclose(metrics.bootstrap_interval([counts], samples=50, seed=7), expected)


def test_nothing_on_both_sides_counts_as_zero_for_the_class():
    counts = EpisodeCounts(*(np.array(values) for values in ([0, 1], [0, 10], [0, 10], [30, 30])))
    assert metrics.mean_iou(counts) == 50
    assert metrics.episode_iou(counts) == 100


def test_folds_are_drawn_each_by_itself():
    folds = [some_counts(episodes=30), some_counts(episodes=50, spread=0.2)]
    low, high = metrics.bootstrap_interval(folds)
    assert low < np.mean([metrics.mean_iou(one) for one in folds]) < high
    assert high - low < np.subtract(*metrics.bootstrap_interval(folds[:1])[::-1])


def test_a_class_without_an_episode_counts_as_zero_in_its_fold():
    counts = some_counts()
    seen = len(np.unique(counts.classes))
    assert metrics.fold_mean_iou(counts, 2 * seen) == pytest.approx(metrics.mean_iou(counts) / 2)
