"""Test how the objects of a mask are told apart."""

import cv2
import numpy as np
import pytest
from tiny import blob_result, bundle, random_image

from segic_jax import Example
from segic_jax.data import masks
from segic_jax.errors import ConfigError
from segic_jax.inference.instances import split_mask
from segic_jax.inference.segmenter import Segmenter


def disks(*circles: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros((120, 200), np.uint8)
    for x, y, radius in circles:
        cv2.circle(mask, (x, y), radius, 1, -1)
    return mask > 0


def test_regions_are_connected_and_the_largest_comes_first():
    mask = disks((30, 30, 15), (80, 60, 25), (100, 60, 25), (180, 100, 2))
    large, small = split_mask(mask, "regions")  # the last is too small beside the others
    assert large.inside.sum() > small.inside.sum() == disks((30, 30, 15)).sum()
    assert large.box == (55, 35, 126, 86)
    joined = np.zeros_like(mask)
    for instance in (large, small):
        joined |= instance.rows(0, *mask.shape)
    assert np.array_equal(joined, mask & ~disks((180, 100, 2)))


@pytest.mark.parametrize("scale", [1, 4])
def test_touching_objects_are_split_where_the_mask_is_narrow(scale):
    circles = ((40, 60, 28), (90, 60, 27), (140, 62, 25))
    mask = disks(*circles)
    mask = cv2.resize(mask.view(np.uint8), None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST) > 0
    assert len(split_mask(mask, "regions")) == 1
    parts = split_mask(mask, "peaks")
    assert len(parts) == 3
    assert sum(int(part.inside.sum()) for part in parts) == mask.sum()
    for part, (x, *_) in zip(sorted(parts, key=lambda part: part.box), circles, strict=True):
        x0, _, x1, _ = part.box
        assert abs((x0 + x1) / 2 / scale - x) < 6


def test_one_object_with_thin_parts_stays_one():
    mask = disks((100, 60, 30))
    mask[55:62, 20:100] = mask[60:110, 80:86] = mask[60:110, 112:118] = True  # a tail and legs
    assert len(split_mask(mask, "peaks")) == 1
    assert split_mask(np.zeros((5, 5), bool), "peaks") == []
    assert len(split_mask(np.ones((1, 1), bool), "peaks")) == 1


def test_annotations_and_overlays_show_each_instance():
    from dataclasses import replace

    result = replace(blob_result(300, 400), separate=True)
    counts = [len(result.instances(i)) for i in range(3)]
    assert max(counts) > 1
    annotations = result.to_coco(first_id=5)
    assert [a["id"] for a in annotations] == list(range(5, 5 + sum(counts)))
    assert [sum(a["category_id"] == i + 1 for a in annotations) for i in range(3)] == counts
    first = masks.decode(annotations[0]["segmentation"], 300, 400)
    assert np.array_equal(first, result.instances(0)[0])
    x, y, w, h = annotations[0]["bbox"]
    assert cv2.boundingRect(first.view(np.uint8)) == (x, y, w, h)
    assert annotations[0]["area"] == first.sum()
    expected = (1 / (1 + np.exp(-result.logits(0)[first].astype(np.float64)))).mean()
    assert annotations[0]["score"] == pytest.approx(expected, abs=1e-3)
    assert result.overlay().shape == result.image.shape
    assert result.overlay(100).shape == (75, 100, 3)


@pytest.mark.usefixtures("unchecked_types")
def test_the_segmenter_takes_the_method():
    segmenter = Segmenter(bundle())
    context = segmenter.fit(Example(*random_image(0, 60, 70)))
    target = random_image(1, 50, 60)[0]
    result = segmenter.predict(target, context, instances="peaks")
    assert (result.instances_from, result.separate) == ("peaks", True)
    assert not segmenter.predict(target, context).separate
    with pytest.raises(ConfigError, match="must be regions or peaks"):
        segmenter.predict(target, context, instances="boxes")
