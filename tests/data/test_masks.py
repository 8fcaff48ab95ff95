"""Compare decoded COCO segmentations with masks written by hand and with pycocotools."""

import numpy as np
import pytest
from pycocotools import mask as coco

from segic_jax.data.masks import as_polygon, decode, encode, union

# Column by column: 3 off, 2 on, 1 off, 4 on, 2 off.
COUNTS = [3, 2, 1, 4, 2]


def expand(counts, height, width):
    flat = np.concatenate([np.full(count, n % 2, bool) for n, count in enumerate(counts)])
    return flat.reshape(width, height).T


def test_run_lengths_in_every_encoding():
    expected = expand(COUNTS, 3, 4)
    compressed = coco.encode(np.asfortranarray(expected, np.uint8))["counts"]
    for counts in (COUNTS, np.array(COUNTS), compressed, compressed.decode(), bytearray(compressed)):
        mask = decode({"size": [3, 4], "counts": counts}, 3, 4)
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(decode(expected.astype(np.uint8) * 7, 3, 4), expected)


def test_polygons():
    square = [1, 1, 3, 1, 3, 4, 1, 4]
    expected = np.zeros((5, 6), bool)
    expected[1:4, 1:3] = True
    np.testing.assert_array_equal(decode([square], 5, 6), expected)
    np.testing.assert_array_equal(decode([np.array(square, float)], 5, 6), expected)
    expected[0:2, 4:6] = True
    outside = [4.0, 0.0, 9.0, 0.0, 9.0, 2.0, 4.0, 2.0]  # reaches out of the image
    np.testing.assert_array_equal(decode([square, outside], 5, 6), expected)
    np.testing.assert_array_equal(union([[square], [outside]], 5, 6), expected)
    assert not decode([], 5, 6).any()
    assert not union([], 5, 6).any()


def test_polygons_equal_those_of_pycocotools():
    rng = np.random.default_rng(0)
    for _ in range(20):
        polygons = [rng.uniform(-2, 30, 2 * rng.integers(3, 9)) for _ in range(rng.integers(1, 4))]
        expected = coco.decode(coco.merge(coco.frPyObjects(polygons, 24, 28)))
        np.testing.assert_array_equal(
            decode([polygon.tolist() for polygon in polygons], 24, 28), expected == 1
        )


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        "text",
        [1, 2, 3, 4, 5, 6],
        [[]],
        [[1, 2]],
        [["a"] * 6],
        [[0, 0, float("nan"), 1, 2, 2]],
        [[0, 0, 1e9, 1, 2, 2]],
        [[10**400] * 6],
        [[[0, 0], [1, 1]]],
        [np.zeros((2, 3))],
        [np.array([None, 1, 2, 3, 4, 5])],
        np.zeros((2, 2)),
        {},
        {"size": [3, 4]},
        {"size": [4, 3], "counts": [12]},
        {"size": 12, "counts": [12]},
        {"size": [3, 4], "counts": None},
        {"size": [3, 4], "counts": [13]},
        {"size": [3, 4], "counts": [11]},  # pycocotools would leave the last pixel uninitialised
        {"size": [3, 4], "counts": []},
        {"size": [3, 4], "counts": [-1, 13]},
        {"size": [3, 4], "counts": ["a"]},
        {"size": [3, 4], "counts": b""},
        {"size": [3, 4], "counts": b"l"},  # ends inside a number
        {"size": [3, 4], "counts": b"\xff"},
        {"size": [3, 4], "counts": "é"},
        {"size": [3, 4], "counts": b"oooooooooo0"},
    ],
)
def test_an_invalid_segmentation_is_a_value_error(segmentation):
    with pytest.raises(ValueError, match=r"\w"):
        decode(segmentation, 3, 4)


def test_a_polygon_is_a_flat_list_of_numbers():
    assert as_polygon([1, 2.5]).dtype == np.float64
    with pytest.raises(ValueError, match="flat list"):
        as_polygon([[1, 2]])


def test_a_polygon_of_two_points_is_refused():
    with pytest.raises(ValueError, match="too few points"):
        decode([[0, 0, 1, 1]], 3, 4)


def test_encoded_masks_are_those_of_pycocotools():
    random = np.random.default_rng(0)
    masks = [random.random((height, width)) < 0.5 for height, width in [(1, 1), (1, 9), (9, 1), (13, 8)]]
    masks += [
        np.pad(random.random((5, 4)) < 0.7, ((1, 0), (2, 3))),
        np.ones((6, 5), bool),
        np.zeros((6, 5), bool),
    ]
    for mask in masks:
        expected = coco.encode(np.asfortranarray(mask, np.uint8))
        assert encode(mask) == {"size": expected["size"], "counts": str(expected["counts"], "ascii")}
