"""Test how shapes of labelling tools are drawn, and how masks become polygons."""

import cv2
import numpy as np
import pytest
from annotated import blobs

from segic_jax.data.annotations import brush
from segic_jax.data.annotations.outlines import outlines
from segic_jax.data.annotations.shapes import (
    CORNERS,
    INDICES,
    LABELME,
    draw_box,
    draw_polygon,
    ellipse_points,
    fill_polygon,
    paste,
    turned_box,
)
from segic_jax.errors import DataError, InputWarning

SQUARE = np.array([[2.0, 3], [8, 3], [8, 7], [2, 7]])


def test_corners_are_between_pixels_and_indices_are_pixels():
    assert draw_polygon(SQUARE, 10, 12, "x").sum() == 24
    assert draw_polygon(SQUARE, 10, 12, "x", LABELME).sum() == 35
    assert draw_polygon(SQUARE, 10, 12, "x", INDICES).sum() == 35
    assert draw_box(2, 3, 8, 7, 10, 12, "x").sum() == 24


def test_too_few_points_are_an_empty_mask():
    assert not draw_polygon(SQUARE[:2], 10, 12, "x").any()
    assert not draw_polygon(SQUARE[[0, 1, 0, 1]], 10, 12, "x").any()
    assert not draw_box(4, 4, 4, 8, 10, 12, "x").any()


def test_a_shape_beyond_the_image_is_cut_off_with_a_warning():
    with pytest.warns(
        InputWarning, match="x reaches 20 pixels beyond its image of 12 x 10, where it is cut off"
    ):
        mask = draw_polygon(np.array([[6.0, -20], [30, -20], [30, 5], [6, 5]]), 10, 12, "x")
    assert mask.sum() == mask[:5, 6:].sum() == 30
    with pytest.warns(InputWarning, match="x reaches 3 pixels beyond"):
        assert draw_box(-3, 2, 4, 6, 10, 12, "x").sum() == 16
    with pytest.warns(InputWarning, match="x reaches 2 pixels beyond"):
        assert paste(np.ones((4, 4), bool), -2, 8, 10, 12, "x").sum() == 4


@pytest.mark.parametrize(
    "draw", [draw_polygon, lambda points, *size: draw_box(*points[0], *points[2], *size)]
)
def test_a_shape_outside_of_the_image_is_refused(draw):
    with pytest.raises(
        DataError, match=r"^x lies outside of its image of 12 x 10 pixels \(x 22 to 28.*right image"
    ):
        draw(SQUARE + np.array([20, 0]), 10, 12, "x")


@pytest.mark.parametrize(
    "draw", [draw_polygon, lambda points, *size: draw_box(*points[0], *points[2], *size)]
)
def test_relative_coordinates_are_refused(draw):
    with pytest.raises(DataError, match=r"^x has coordinates of 0 to 1.*multiply x by the image's width, 12"):
        draw(SQUARE / 10, 10, 12, "x")


def test_a_polygon_that_crosses_itself_is_refused_if_its_area_is_not_clear():
    bow_tie = np.array([[10.0, 10], [90, 90], [90, 10], [10, 90]])
    with pytest.raises(
        DataError, match=r"^x crosses itself, so that it is not clear.*order of its points\.$"
    ):
        draw_polygon(bow_tie, 100, 100, "x")
    # A slip of the hand where the outline closes changes nothing.
    slip = np.array([[10.0, 10], [90, 10], [90, 90], [10, 90], [11, 9], [9, 11]])
    assert draw_polygon(slip, 100, 100, "x").sum() == pytest.approx(6400, rel=0.02)


def test_turned_boxes_and_ellipses_have_their_area():
    corners = turned_box(40, 40, 60, 50, 30, (50, 45))
    assert draw_polygon(corners, 100, 100, "x").sum() == pytest.approx(200, rel=0.05)
    assert corners[1][1] > corners[0][1]  # clockwise as it is seen
    mask = draw_polygon(ellipse_points(50, 45, 30, 15, 90), 100, 100, "x")
    assert mask.sum() == pytest.approx(np.pi * 30 * 15, rel=0.01)
    assert (np.ptp(np.nonzero(mask), axis=1) == (59, 29)).all()


@pytest.mark.parametrize("rule", [CORNERS, LABELME, INDICES])
@pytest.mark.parametrize("cut_holes", [False, True])
def test_polygons_of_a_mask_have_an_iou_of_98_per_cent(rule, cut_holes):
    for seed in range(8):
        for label in (1, 2):
            mask = blobs(90, 120, seed) == label
            drawn = np.zeros_like(mask)
            for outline in outlines(mask, rule, cut_holes=cut_holes):
                if outline.points is None:
                    assert not cut_holes
                    drawn |= paste(outline.mask, outline.left, outline.top, 90, 120, "x")
                else:
                    drawn |= fill_polygon(outline.points, 90, 120, rule)
            assert (drawn & mask).sum() >= 0.98 * (drawn | mask).sum()


def test_polygons_have_few_points():
    mask = np.zeros((300, 400), np.uint8)
    cv2.ellipse(mask, (200, 150), (120, 80), 20, 0, 360, 1, -1)
    (outline,) = outlines(mask.astype(bool))
    assert len(outline.points) < 40


@pytest.mark.parametrize("rule", [CORNERS, LABELME, INDICES])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 1), (2, 2)])
def test_the_smallest_regions_have_a_polygon(rule, shape):
    mask = np.zeros((6, 7), bool)
    mask[2 : 2 + shape[0], 3 : 3 + shape[1]] = True
    (outline,) = outlines(mask, rule)
    assert outline.points is None or (fill_polygon(outline.points, 6, 7, rule) == mask).all()


def test_regions_that_touch_at_a_corner_are_one_outline():
    mask = np.zeros((6, 6), bool)
    mask[1:3, 1:3] = mask[3:5, 3:5] = True
    (outline,) = outlines(mask)
    assert (fill_polygon(outline.points, 6, 6) == mask).all()


def test_an_empty_mask_has_no_outline():
    assert outlines(np.zeros((5, 5), bool)) == []


def test_brush_strokes_are_packed_and_unpacked():
    for seed in range(3):
        mask = blobs(60, 71, seed) == 1
        assert (brush.decode(brush.encode(mask), 60, 71) == mask).all()


def test_a_brush_stream_of_single_values_is_read():
    bits = f"{8:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    bits += "000" + f"{7:03b}" + "".join(f"{value:08b}" for value in (0, 0, 0, 255, 9, 9, 9, 9))
    packed = np.packbits([int(bit) for bit in bits]).tolist()
    assert brush.decode(packed, 1, 2).tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rle: rle[: len(rle) // 2], "ends early"),
        (lambda rle: [300, *rle[1:]], "range"),
        (lambda rle: [255, *rle[1:]], "pixels for an image"),
        (lambda rle: [*rle[:4], 255, *rle[5:]], "another kind"),
    ],
)
def test_a_damaged_brush_stream_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        brush.decode(change(brush.encode(blobs(60, 71, 0) == 1)), 60, 71)
    with pytest.raises(ValueError, match="a stream of 4260 pixels for an image of 60 x 60"):
        brush.decode(brush.encode(blobs(60, 71, 0) == 1), 60, 60)
