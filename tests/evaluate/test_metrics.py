"""Compare scores with those of the official code and of plain loops."""

import numpy as np
import pytest

from segic_jax.evaluate import metrics
from segic_jax.evaluate.metrics import ClassCounts, RunningMeanIoU
from segic_jax.evaluate.protocols import to_image_size


@pytest.fixture(scope="module")
def pairs(golden):
    """Return (prediction, truth) of each golden sample, with logits resized to the label."""
    values = golden("metrics")
    pairs = []
    for i in range(int(values["in.n"])):
        label = np.asarray(values[f"in.label.{i}"])[0, 0]
        logits = values[f"in.logits.{i}"][0, 0]
        pairs.append((to_image_size(logits, logits.shape, label.shape) > 0, label > 128))
    return pairs


def test_scores_of_each_image_equal_the_goldens(golden, pairs):
    values = golden("metrics")
    sums = [metrics.intersection_union(*pair) for pair in pairs]
    assert np.array_equal(np.transpose(sums), [values["out.intersection"], values["out.union"]])
    np.testing.assert_allclose([metrics.mask_iou(*pair) for pair in pairs], values["out.mask_iou"], rtol=1e-6)
    boundary = [metrics.boundary_iou(*pair) for pair in pairs]
    np.testing.assert_allclose(boundary, values["out.boundary_iou"], rtol=1e-6)


def test_miou_of_accumulated_classes_equals_the_goldens(golden, pairs):
    values = golden("metrics")
    sums = np.array([metrics.intersection_union(*pair) for pair in pairs])
    counts = ClassCounts(values["in.class_id"], sums[:, 0], sums[:, 1])
    summed = metrics.class_sums(counts)
    for name in ("intersection", "union"):
        np.testing.assert_array_equal(getattr(summed, name), values[f"out.class_{name}"])
    ious = metrics.class_iou(counts)
    assert list(ious) == values["out.valid_ids"].tolist()
    expected = values["out.class_intersection"] / np.maximum(values["out.class_union"], 1)
    np.testing.assert_allclose(list(ious.values()), expected, rtol=1e-6)
    assert metrics.mean_iou(counts) == pytest.approx(float(values["out.miou"]), rel=1e-6)


def random_counts(episodes=300, spread=0.5):
    random = np.random.default_rng(3)
    union = random.integers(50, 100, episodes)
    intersection = (union * random.uniform(0.5 - spread / 2, 0.5 + spread / 2, episodes)).astype(int)
    return ClassCounts(random.integers(0, 6, episodes), intersection, union)


def interval(*folds, **options):
    def score(fold):
        return lambda repeats: metrics.mean_iou(fold, repeats)

    return metrics.bootstrap_interval(*((len(fold.classes), score(fold)) for fold in folds), **options)


def test_fb_iou_is_the_mean_of_both_sides():
    prediction, truth = np.zeros((2, 4, 5), bool)
    prediction[:2], truth[1:3] = True, True
    counts = ClassCounts(*(np.array([n]) for n in (0, 5, 15)))
    assert metrics.intersection_union(prediction, truth) == (5, 15)
    background = metrics.mask_iou(~prediction, ~truth)
    assert metrics.fb_iou(counts, np.array([20])) == pytest.approx(50 * (5 / 15 + background))


def test_interval_contains_the_score_and_shrinks_with_agreement():
    wide, narrow = random_counts(spread=0.8), random_counts(spread=0.1)
    low, high = interval(wide)
    assert low < metrics.mean_iou(wide) < high
    assert interval(wide) == (low, high)  # deterministic
    narrow_low, narrow_high = interval(narrow)
    assert narrow_high - narrow_low < (high - low) / 4


def test_interval_equals_a_plain_loop():
    counts = random_counts(episodes=40)
    random = np.random.default_rng(7)
    means = []
    for _ in range(50):
        sample = random.integers(40, size=40)
        fields = (counts.classes, counts.intersection, counts.union)
        means.append(metrics.mean_iou(ClassCounts(*(field[sample] for field in fields))))
    expected = np.percentile(means, [2.5, 97.5])
    np.testing.assert_allclose(interval(counts, samples=50, seed=7), expected)


def test_interval_ignores_a_class_that_is_never_true():
    """Predict a class on every image that is never true: no mean includes it."""
    images = np.repeat(np.arange(40), 2)
    classes = np.tile([0, 1], 40)
    truth = np.tile([4, 0], 40)
    constant = ClassCounts(classes, np.tile([3, 0], 40), np.tile([6, 9], 40), truth, images)
    assert metrics.bootstrap_interval((40, lambda repeats: metrics.mean_iou(constant, repeats))) == (50, 50)
    better = constant.intersection.copy()
    better[::4] = 5
    counts = ClassCounts(classes, better, constant.union, truth, images)
    low, high = metrics.bootstrap_interval((40, lambda repeats: metrics.mean_iou(counts, repeats)))
    assert 50 < low < metrics.mean_iou(counts) < high < 83.4


def test_repeats_equal_repeated_entries():
    """Check that images drawn twice count like images listed twice."""
    random = np.random.default_rng(0)
    items, classes = np.repeat(np.arange(6), 3), random.integers(0, 4, 18)
    union = random.integers(1, 50, 18)
    counts = ClassCounts(classes, union // 2, union, random.integers(0, 3, 18), items)
    repeats = np.array([2, 0, 1, 3, 0, 1])
    index = np.repeat(np.arange(18), repeats[items])
    listed = ClassCounts(classes[index], counts.intersection[index], union[index], counts.truth[index])
    assert metrics.class_iou(counts, repeats) == metrics.class_iou(listed)


def test_a_class_empty_in_truth_and_prediction_counts_as_zero():
    counts = ClassCounts(*(np.array(values) for values in ([0, 1], [0, 10], [0, 10])))
    assert metrics.mean_iou(counts) == 50
    assert metrics.episode_iou(counts) == 100


def test_folds_are_resampled_independently():
    folds = [random_counts(episodes=30), random_counts(episodes=50, spread=0.2)]
    low, high = interval(*folds)
    assert low < np.mean([metrics.mean_iou(fold) for fold in folds]) < high
    assert high - low < np.subtract(*interval(folds[0])[::-1])


def test_a_class_without_an_episode_counts_as_zero_in_its_fold():
    counts = random_counts()
    classes = len(np.unique(counts.classes))
    assert metrics.fold_mean_iou(counts, 2 * classes) == pytest.approx(metrics.mean_iou(counts) / 2)


def test_the_running_score_ends_at_the_score():
    random = np.random.default_rng(1)
    entries = random.integers(0, 20, (50, 4))
    entries[:, 2] += entries[:, 1]
    entries[::3, 3] = 0  # predicted, and not true
    running = RunningMeanIoU()
    assert running.value == 0
    for number, entry in enumerate(entries, 1):
        running.add(*entry.tolist())
        counts = ClassCounts(*entries[:number].T)
        assert running.value == pytest.approx(metrics.mean_iou(counts))
