"""Test that masks get the edges of the image."""

import cv2
import numpy as np

from segic_jax.inference.training_free.edges import refine_edges


def disk(side=120, radius=30):
    mask = np.zeros((side, side), np.uint8)
    cv2.circle(mask, (side // 2, side // 2), radius, 1, -1)
    return mask > 0


def picture(mask):
    noise = np.random.default_rng(0).integers(0, 40, (*mask.shape, 3), dtype=np.uint8)
    return noise + np.where(mask[..., None], np.uint8([180, 120, 30]), np.uint8([20, 60, 160]))


def overlap(a, b):
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def test_a_coarse_mask_gets_the_edges_of_the_object():
    truth = disk()
    coarse = cv2.resize(truth.astype(np.float32), (8, 8), interpolation=cv2.INTER_AREA) > 0.5
    coarse = cv2.resize(coarse.astype(np.uint8), (120, 120), interpolation=cv2.INTER_NEAREST) > 0
    refined = refine_edges(picture(truth), coarse, 15)
    assert overlap(coarse, truth) < 0.9
    assert overlap(refined, truth) > 0.97
    np.testing.assert_array_equal(refined, refine_edges(picture(truth), coarse, 15))  # nothing is random


def test_edges_move_no_further_than_the_band():
    truth, mask = disk(radius=50), disk(radius=25)
    refined = refine_edges(picture(truth), mask, 8)
    assert not (refined & ~disk(radius=35)).any()
    assert (refined | ~disk(radius=15)).all()


def test_masks_without_certain_places_stay():
    truth = disk()
    for mask in (np.zeros_like(truth), disk(radius=4), np.ones_like(truth)):
        np.testing.assert_array_equal(refine_edges(picture(truth), mask, 8), mask)
