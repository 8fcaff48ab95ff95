"""Test that results are computed once, in strips of any size, and with little memory."""

import errno
import json
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from tiny import blob_result, bundle, random_image

from segic_jax import Example
from segic_jax.data.preprocess import resize
from segic_jax.errors import ConfigError, DataError
from segic_jax.inference import image_logits
from segic_jax.inference.coco_output import merge_coco_files
from segic_jax.inference.overlay import draw_masks, rgb_png
from segic_jax.inference.segmenter import Segmenter


def test_results_do_not_depend_on_the_strips(monkeypatch):
    result = blob_result(611, 420)
    expected = result.label_map, result.masks, result.overlay(), result.logits()
    assert result.areas.min() > 1000
    np.testing.assert_array_equal(expected[2], draw_masks(result.image, result.masks, result.colours))
    monkeypatch.setattr(image_logits, "STRIP", 420 * 40)
    in_strips = replace(result)
    for values, values_in_strips in zip(
        expected, (in_strips.label_map, in_strips.masks, in_strips.overlay(), in_strips.logits()), strict=True
    ):
        np.testing.assert_array_equal(values, values_in_strips)
    assert in_strips.areas.tolist() == result.areas.tolist()
    assert in_strips.boxes == result.boxes
    np.testing.assert_allclose(in_strips.scores, result.scores, rtol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 1), (1, 9), (50, 33)])
def test_a_png_written_in_strips_holds_the_image(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    file = b"".join(rgb_png(width, height, (image[i : i + 4] for i in range(0, height, 4))))
    assert np.array_equal(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB), image)


def test_a_large_result_needs_little_more_than_its_image(tmp_path, monkeypatch):
    monkeypatch.setattr(image_logits, "STRIP", 1 << 17)
    large = blob_result(1600, 2000)
    tracemalloc.start()
    try:
        large.save(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The label map has two thirds of the image's bytes, a mask one third.
    assert peak < 2 * large.image.nbytes


def test_each_class_is_resampled_once(tmp_path, monkeypatch):
    monkeypatch.setattr(image_logits, "STRIP", 1 << 14)
    result, resampled = blob_result(300, 400), np.zeros((3, 300), int)
    logit_rows = image_logits.ImageLogits.rows

    def count_rows(self, concept, start, stop):
        resampled[concept, start:stop] += 1
        return logit_rows(self, concept, start, stop)

    monkeypatch.setattr(image_logits.ImageLogits, "rows", count_rows)
    result.save(tmp_path)
    result.coco_file()
    result.overlay(100)
    assert result.masks.any((1, 2)).all()
    assert result.threshold(0.0) is result
    assert resampled.max() == 1


def test_masks_and_measures_follow_from_the_logits():
    """Check masks, areas, scores, boxes and the label map at several thresholds."""
    for threshold in (-0.1, 0.0, 0.125):
        result = blob_result(97, 120).threshold(threshold)
        logits = result.logits()
        np.testing.assert_array_equal(result.masks, logits > threshold)
        np.testing.assert_array_equal(result.areas, (logits > threshold).sum((1, 2)))
        np.testing.assert_array_equal(
            result.label_map, np.where(logits.max(0) > threshold, logits.argmax(0) + 1, 0)
        )
        for mask, values, score, box in zip(result.masks, logits, result.scores, result.boxes, strict=True):
            assert score == pytest.approx((1 / (1 + np.exp(-values[mask]))).mean(), abs=1e-6)
            y, x = np.nonzero(mask)
            assert box == (x.min(), y.min(), x.max() + 1, y.max() + 1)


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(bundle())


def example(seed: int, name: str | None, **fields) -> Example:
    return Example(*random_image(seed, 60 + seed, 70), name=name, **fields)


def make_result(segmenter):
    """Return a result with known logits: two regions of class a, one of class b."""
    context = segmenter.fit([example(0, "a"), example(1, "b")])
    result = segmenter.predict(random_image(9, 50, 80)[0], context)
    logits = np.full((2, 32, 32), -1.0, np.float32)
    logits[0, 2:8, 3:9], logits[0, 12:15, 20:30], logits[1, 6:14, 5:12] = 3, 2, 4
    return replace(result, small_logits=logits, source="street.jpg")


def test_thresholds_boxes_areas_and_instances(segmenter):
    result = make_result(segmenter)
    for threshold in (0.0, 2.5):
        changed = result.threshold(threshold)
        assert np.array_equal(changed.masks, result.logits() > threshold)
        assert changed.areas.tolist() == changed.masks.sum((1, 2)).tolist()
        for mask, box in zip(changed.masks, changed.boxes, strict=True):
            y, x = np.nonzero(mask)
            assert box == (x.min(), y.min(), x.max() + 1, y.max() + 1)
    objects = result.instances(0)
    assert result.instances_from == "regions"
    assert len(objects) == 2
    assert objects[0].sum() >= objects[1].sum() > 0
    assert np.array_equal(objects[0] | objects[1], result.masks[0])
    assert len(result.threshold(2.5).instances(0)) == 1
    assert result.threshold(9.0).boxes == [None, None]
    assert result.threshold(9.0).instances(0) == []


def test_a_result_is_saved_as_files(segmenter, tmp_path):
    result = make_result(segmenter)
    paths = result.save(tmp_path / "out")
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(paths)
    assert [path.parent.name for path in paths] == ["overlays", "labels", "annotations"]
    assert [path.name for path in paths] == ["street.png", "street.png", "street.json"]
    assert np.array_equal(cv2.imread(str(paths[0]), cv2.IMREAD_COLOR_RGB), result.overlay())
    labels = Image.open(paths[1])
    assert np.array_equal(np.asarray(labels), result.label_map)
    assert tuple(labels.getpalette()[3:9]) == result.colours[0] + result.colours[1]
    content = json.loads(paths[2].read_text())
    assert [entry["name"] for entry in content["categories"]] == ["a", "b"]
    for entry, mask in zip(content["annotations"], result.masks, strict=True):
        assert np.array_equal(coco.decode(entry["segmentation"]), mask)
        assert entry["area"] == mask.sum()
        assert entry["bbox"] == coco.toBbox(entry["segmentation"]).tolist()
    assert content["images"][0]["presence"].keys() == {"a", "b"}
    merged = merge_coco_files([content, content])
    assert [entry["image_id"] for entry in merged["annotations"]] == [1, 1, 2, 2]
    assert [entry["id"] for entry in merged["annotations"]] == [1, 2, 3, 4]
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be created"):
        result.save(tmp_path / "file")
    with pytest.raises(DataError, match="not a valid file name"):
        result.save("a\0b")


@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_save_keeps_the_old_files(segmenter, tmp_path, monkeypatch, stop):
    """Check that a full disk and Ctrl-C leave the old files and no other."""
    result = make_result(segmenter)
    result.save(tmp_path)

    def fail(*_):
        raise stop

    def files():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = files()
    for method in ("write_bytes", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, fail)
            with pytest.raises(DataError if isinstance(stop, OSError) else KeyboardInterrupt):
                result.save(tmp_path)
    assert files() == before


def test_logits_equal_those_of_the_evaluation(segmenter):
    """Compare logits computed in strips with the two resizing steps on complete maps."""
    context = segmenter.fit(
        [Example(*random_image(0, 70, 60)), Example(*random_image(3, 60, 60), name="other")]
    )
    result = segmenter.predict(random_image(1, 131, 90)[0], context)
    h, w = result.placed
    expected = resize(resize(result.small_logits, (64, 64))[:, :h, :w], (131, 90))
    np.testing.assert_allclose(result.logits(), expected, atol=1e-4)


def test_an_empty_prediction_scores_zero():
    model = bundle()
    names = [name for name in model.head if name.startswith("mask_decoder/output_hypernetworks_mlps")]
    model.head.update({name: np.zeros_like(model.head[name]) for name in names})  # all logits are 0
    segmenter = Segmenter(model)
    result = segmenter.predict(random_image(1, 50, 80)[0], segmenter.fit(Example(*random_image(0, 70, 60))))
    assert not result.masks.any()
    assert not result.label_map.any()
    assert result.scores.tolist() == [0]
    assert result.boxes == [None]
    assert result.presence.tolist() == [0]


def test_a_result_is_described_in_a_line():
    assert re.fullmatch(
        r"Result of large.png, 120 x 97: \w+ present \(\d\.\d\d\), .*", repr(blob_result(97, 120))
    )


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("cut", [float("nan"), "high"])
def test_a_cut_is_a_number(segmenter, cut):
    with pytest.raises(ConfigError, match="must be a number"):
        make_result(segmenter).threshold(cut)
    with pytest.raises(ConfigError, match="must be a number"):
        segmenter.predict(random_image(9, 40, 40)[0], segmenter.fit(example(0, "a")), cut=cut)
