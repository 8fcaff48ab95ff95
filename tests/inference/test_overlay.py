"""Test that masks are visible on every background, each class in its own colour."""

import cv2
import numpy as np
import pytest

from segic_jax.inference.overlay import DARK, WHITE, class_colours, draw_masks, draw_outline

MASK = cv2.circle(np.zeros((200, 300), np.uint8), (150, 100), 60, 1, -1) > 0


def test_class_colours_are_distinct_and_stable():
    colours = class_colours(255)
    assert len(set(colours)) == 255
    assert all(class_colours(count) == colours[:count] for count in (0, 1, 7, 8, 100))


@pytest.mark.parametrize("colour", [*class_colours(12), (255, 255, 255), (0, 0, 0)])
def test_an_outline_is_visible_on_its_own_colour(colour):
    ground = np.full((200, 300, 3), colour, np.uint8)
    outlined = draw_outline(ground, MASK, colour)
    changed = np.abs(outlined.astype(int) - ground).max(-1)
    ring = cv2.dilate(MASK.astype(np.uint8), np.ones((5, 5))) - MASK  # pixels just outside the mask
    assert (changed[ring > 0] > 80).mean() > 0.25
    assert not changed[MASK].any()  # the outline hides no pixel of the object
    assert (ground == colour).all()  # drawn on a copy


def test_overlays_tint_every_mask():
    grey = np.full((200, 300, 3), 128, np.uint8)
    masks = [cv2.circle(np.zeros((200, 300), np.uint8), (x, 100), 50, 1, -1) > 0 for x in (75, 225)]
    overlay = draw_masks(grey, masks, class_colours(2))
    for mask, colour in zip(masks, class_colours(2), strict=True):
        inner = cv2.erode(mask.astype(np.uint8), np.ones((15, 15))) > 0
        assert np.abs(overlay[inner] - (64 + np.array(colour) / 2)).max() <= 1


def test_drawing_in_a_window_equals_drawing_on_the_image():
    """Compare with masks and outlines that are drawn on the complete image."""
    random = np.random.default_rng(0)
    for side in (1, 5, 60, 150):
        image = random.integers(0, 256, (side, side + 3, 3), np.uint8)
        noise = cv2.GaussianBlur(random.normal(size=image.shape[:2]).astype(np.float32), (0, 0), 2)
        masks = [noise > 0.1, noise < -0.2, np.zeros_like(noise, bool)]
        expected = image.copy()
        for mask, colour in zip(masks, class_colours(3), strict=True):
            expected[mask] = (expected[mask].astype(int) + colour) >> 1
        for mask, colour in zip(masks, class_colours(3), strict=True):
            edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            for line, reach, inside in ((DARK, 4, False), (WHITE, 2, False), (colour, 4, True)):
                band = cv2.drawContours(np.zeros(mask.shape, np.uint8), edges, -1, 1, 2 * reach + 1)
                expected[(band > 0) & (mask == inside)] = line
        np.testing.assert_array_equal(draw_masks(image, masks, class_colours(3), width=2), expected)
