"""Test the scenes and the simulated clicks of the studies of tiles, instances and clicks."""

import cv2
import numpy as np
import pytest

from segic_jax.inference.result import Click
from studies.aerial import read_boxes
from studies.clicks import mean_over_classes, next_click, true_box
from studies.cutouts import EmojiMaterial
from studies.instances import touching_scenes
from studies.tiles import large_scenes


@pytest.fixture(scope="module")
def material():
    return EmojiMaterial(3)


def test_large_scenes_show_small_objects_apart(material):
    for scene in large_scenes(material, 800, (30, 60), 2):
        assert scene.image.shape == (800, 800, 3)
        count, _, statistics, _ = cv2.connectedComponentsWithStats(
            cv2.dilate(scene.truth.view(np.uint8), np.ones((9, 9), np.uint8))
        )
        assert count - 1 == 6
        assert statistics[1:, cv2.CC_STAT_WIDTH].max() <= 60 + 8


def test_boxes_of_an_aerial_image_are_read(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((30, 40, 3), np.uint8))
    box = "<xmin>5</xmin><ymin>10</ymin><xmax>9</xmax><ymax>20</ymax>"
    item = f"<object><name>Tree</name><bndbox>{box}</bndbox></object>"
    (tmp_path / "a.xml").write_text(f"<annotation><filename>a.png</filename>{item}</annotation>")
    image, boxes = read_boxes(tmp_path / "a.png")
    assert image.shape == (30, 40, 3)
    assert boxes.sum() == 40


def test_objects_of_a_crowd_touch(material):
    for crowd in touching_scenes(material, 6):
        assert 2 <= len(crowd.objects.masks) <= 5
        assert not (crowd.objects.masks.sum(0) > 1).any()
        near = cv2.dilate(crowd.objects.masks.any(0).view(np.uint8), np.ones((15, 15), np.uint8))
        assert cv2.connectedComponents(near)[0] - 1 == 1


def test_the_next_click_is_in_the_largest_error():
    truth = np.zeros((40, 60), bool)
    mask = truth.copy()
    truth[5:25, 5:25] = True
    mask[5:25, 5:15] = mask[30:35, 40:45] = True
    click = next_click(mask, truth)
    assert click == Click(click.x, click.y, True)
    assert 18 <= click.x <= 21
    assert next_click(truth | mask, truth) == Click(42, 32, False)
    assert next_click(truth, truth) is None
    assert true_box(truth) == (5, 5, 25, 25)
    rows = {"a": [{"plain": 0.2}, {"plain": 0.4}], "b": [{"plain": 0.9}]}
    assert mean_over_classes(rows)["plain"] == pytest.approx(60)
