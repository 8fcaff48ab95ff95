"""Masks on images: seen on every ground, each class in a colour of its own."""

import cv2
import numpy as np
import pytest

from segic_jax.inference.overlay import colours, outlined, overlays

MASK = cv2.circle(np.zeros((200, 300), np.uint8), (150, 100), 60, 1, -1) > 0


def test_colours_differ_and_stay():
    many = colours(255)
    assert len(set(many)) == 255
    assert all(colours(count) == many[:count] for count in (0, 1, 7, 8, 100))


@pytest.mark.parametrize("colour", [*colours(12), (255, 255, 255), (0, 0, 0)])
def test_an_outline_is_seen_on_its_own_colour(colour):
    ground = np.full((200, 300, 3), colour, np.uint8)
    drawn = outlined(ground, MASK, colour)
    changed = np.abs(drawn.astype(int) - ground).max(-1)
    ring = cv2.dilate(MASK.astype(np.uint8), np.ones((5, 5))) - MASK  # what is just outside
    assert (changed[ring > 0] > 80).mean() > 0.25
    assert not changed[MASK].any()  # the lines around hide nothing of the object
    assert (ground == colour).all()  # drawn on a copy


def test_overlays_tint_every_mask():
    grey = np.full((200, 300, 3), 128, np.uint8)
    masks = [cv2.circle(np.zeros((200, 300), np.uint8), (x, 100), 50, 1, -1) > 0 for x in (75, 225)]
    drawn = overlays(grey, masks, colours(2))
    for mask, colour in zip(masks, colours(2), strict=True):
        inner = cv2.erode(mask.astype(np.uint8), np.ones((15, 15))) > 0
        assert np.abs(drawn[inner] - (64 + np.array(colour) / 2)).max() <= 1
