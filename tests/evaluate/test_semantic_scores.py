"""Compare pixel counts of classes on an image with numbers by hand and loops over pixels."""

import numpy as np
import pytest

from segic_jax.data.preprocess import resize
from segic_jax.data.semantic import SemanticImage
from segic_jax.evaluate.semantic_scores import ClassPixels, image_iou, score_image

TRUTH = SemanticImage(  # classes 1 and 4; the last column is ignored
    image=np.zeros((2, 4, 3), np.uint8),
    classes=(1, 4),
    masks=np.array([[[1, 1, 0, 0], [1, 0, 0, 0]], [[0, 0, 1, 0], [0, 1, 1, 0]]], bool),
    ignored=np.array([[0, 0, 0, 1], [0, 0, 0, 1]], bool),
)
LOGITS = np.array(
    [
        [[2, 2, 2, 2], [-1, -1, -1, -1]],  # of class 1
        [[3, -1, 1, 1], [-1, 1, 3, -1]],  # of class 4
        [[-1, -1, 5, -1], [-1, -1, -1, 5]],  # of class 7, which is absent
    ],
    np.float32,
)


def test_independent_classes_may_overlap():
    counts = score_image(TRUTH, (1, 4, 7), LOGITS, "independent")
    assert counts == {
        1: ClassPixels(2, 4, 5, 3),  # 2 of 3 pixels, and one of class 4; another is ignored
        4: ClassPixels(3, 4, 5, 3),
        7: ClassPixels(0, 1, 2, 0),
    }


def test_the_largest_logit_decides():
    assert score_image(TRUTH, (1, 4, 7), LOGITS, "argmax") == {
        # Winning classes: 4 1 7 1 / none 4 4 7.
        1: ClassPixels(1, 3, 4, 3),
        4: ClassPixels(2, 4, 4, 3),
        7: ClassPixels(0, 1, 2, 0),
    }


def test_background_wins_where_no_logit_is_above_zero():
    counts = score_image(TRUTH, (1, 4), np.zeros((2, 2, 4), np.float32), "argmax")
    assert counts == {1: ClassPixels(0, 3, 3, 3), 4: ClassPixels(0, 3, 3, 3)}


def test_a_class_that_is_not_decoded_counts_as_missed():
    assert score_image(TRUTH, (4,), LOGITS[1:2], "independent")[1] == ClassPixels(0, 3, 3, 3)


@pytest.mark.parametrize("merge", ["independent", "argmax"])
def test_scores_equal_loops_over_pixels(merge):
    random = np.random.default_rng(2)
    for _ in range(30):
        height, width = random.integers(1, 12, 2).tolist()
        labels = random.integers(-1, 5, (height, width))  # -1 is ignored
        classes = np.unique(labels[labels >= 0])
        image = SemanticImage(
            np.zeros((height, width, 3), np.uint8),
            tuple(classes.tolist()),
            labels == classes[:, None, None],
            labels < 0,
        )
        decoded = (0, 2, 3, 9)
        rows = random.normal(-0.5, 1, (4, 5, 7)).astype(np.float32)
        rows[1] = -np.abs(rows[1])  # predicted nowhere
        resized = resize(rows, (height, width))
        expected: dict[int, list[int]] = {}
        for y, x in np.ndindex(height, width):
            above = [c for c, row in zip(decoded, resized, strict=True) if row[y, x] > 0]
            if merge == "argmax" and above:
                above = [max(above, key=lambda c: resized[decoded.index(c), y, x])]
            for c in {*above, int(labels[y, x])} - {-1}:
                in_truth, in_prediction = labels[y, x] == c, c in above
                add = (in_truth and in_prediction, labels[y, x] >= 0, True, in_truth)
                expected[c] = [a + int(b) for a, b in zip(expected.get(c, [0] * 4), add, strict=True)]
        assert {c: [*n] for c, n in score_image(image, decoded, rows, merge).items()} == expected


def test_the_score_of_an_image_is_the_mean_over_its_classes():
    counts = {1: ClassPixels(2, 4, 5, 3), 4: ClassPixels(3, 4, 5, 3), 7: ClassPixels(0, 1, 2, 0)}
    assert image_iou(counts) == (2 / 4 + 3 / 4) / 2
    assert image_iou({7: counts[7]}) is None
