"""Results are computed once, in strips: the same for any strip, and in little memory."""

import errno
import json
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
from segic_jax.errors import DataError
from segic_jax.inference import result as results
from segic_jax.inference.overlay import draw_masks, rgb_png
from segic_jax.inference.result import merge_coco_files
from segic_jax.inference.segmenter import Segmenter


def test_strips_change_nothing(monkeypatch):
    whole = blob_result(611, 420)
    expected = whole.label_map, whole.masks, whole.overlay(), whole.logits()
    assert whole.areas.min() > 1000
    np.testing.assert_array_equal(expected[2], draw_masks(whole.image, whole.masks, whole.colours))
    monkeypatch.setattr(results, "STRIP", 420 * 40)
    strips = replace(whole)
    for one, other in zip(
        expected, (strips.label_map, strips.masks, strips.overlay(), strips.logits()), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert strips.areas.tolist() == whole.areas.tolist()
    assert strips.boxes == whole.boxes
    np.testing.assert_allclose(strips.scores, whole.scores, rtol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 1), (1, 9), (50, 33)])
def test_a_png_of_strips_holds_the_image(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    file = b"".join(rgb_png(width, height, (image[i : i + 4] for i in range(0, height, 4))))
    assert np.array_equal(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB), image)


def test_a_large_result_needs_little_more_than_its_image(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "STRIP", 1 << 17)
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
    monkeypatch.setattr(results, "STRIP", 1 << 14)
    result, resampled = blob_result(300, 400), np.zeros((3, 300), int)
    logit_rows = results.Result._logit_rows

    def counted(self, concept, start, stop):
        resampled[concept, start:stop] += 1
        return logit_rows(self, concept, start, stop)

    monkeypatch.setattr(results.Result, "_logit_rows", counted)
    result.save(tmp_path)
    result.coco_file()
    result.overlay(100)
    assert result.masks.any((1, 2)).all()
    assert result.threshold(0.0) is result
    assert resampled.max() == 1


def test_measures_are_those_of_the_logits():
    """A mask, its measures and the label map follow from the logits, whatever the threshold."""
    for cut in (-0.1, 0.0, 0.125):
        result = blob_result(97, 120).threshold(cut)
        logits = result.logits()
        np.testing.assert_array_equal(result.masks, logits > cut)
        np.testing.assert_array_equal(result.areas, (logits > cut).sum((1, 2)))
        np.testing.assert_array_equal(
            result.label_map, np.where(logits.max(0) > cut, logits.argmax(0) + 1, 0)
        )
        for mask, values, score, box in zip(result.masks, logits, result.scores, result.boxes, strict=True):
            assert score == pytest.approx((1 / (1 + np.exp(-values[mask]))).mean(), abs=1e-6)
            y, x = np.nonzero(mask)
            assert box == (x.min(), y.min(), x.max() + 1, y.max() + 1)


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(bundle())


def example(seed: int, name: str | None, **more) -> Example:
    return Example(*random_image(seed, 60 + seed, 70), name=name, **more)


def found(segmenter):
    """A Result with something in it."""
    context = segmenter.fit([example(0, "a"), example(1, "b")])
    result = segmenter.predict(random_image(9, 50, 80)[0], context)
    logits = np.full((2, 32, 32), -1.0, np.float32)
    logits[0, 2:8, 3:9], logits[0, 12:15, 20:30], logits[1, 6:14, 5:12] = 3, 2, 4
    return replace(result, small_logits=logits, source="street.jpg")


def test_thresholds_boxes_areas_and_instances(segmenter):
    result = found(segmenter)
    for cut in (0.0, 2.5):
        other = result.threshold(cut)
        assert np.array_equal(other.masks, result.logits() > cut)
        assert other.areas.tolist() == other.masks.sum((1, 2)).tolist()
        for mask, box in zip(other.masks, other.boxes, strict=True):
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


def test_results_in_files(segmenter, tmp_path):
    result = found(segmenter)
    written = result.save(tmp_path / "out")
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(written)
    assert [path.parent.name for path in written] == ["overlays", "labels", "annotations"]
    assert [path.name for path in written] == ["street.png", "street.png", "street.json"]
    assert np.array_equal(cv2.imread(str(written[0]), cv2.IMREAD_COLOR_RGB), result.overlay())
    labels = Image.open(written[1])
    assert np.array_equal(np.asarray(labels), result.label_map)
    assert tuple(labels.getpalette()[3:9]) == result.colours[0] + result.colours[1]
    content = json.loads(written[2].read_text())
    assert [one["name"] for one in content["categories"]] == ["a", "b"]
    for one, mask in zip(content["annotations"], result.masks, strict=True):
        assert np.array_equal(coco.decode(one["segmentation"]), mask)
        assert one["area"] == mask.sum()
        assert one["bbox"] == coco.toBbox(one["segmentation"]).tolist()
    assert content["images"][0]["presence"].keys() == {"a", "b"}
    both = merge_coco_files([content, content])
    assert [one["image_id"] for one in both["annotations"]] == [1, 1, 2, 2]
    assert [one["id"] for one in both["annotations"]] == [1, 2, 3, 4]
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be created"):
        result.save(tmp_path / "file")
    with pytest.raises(DataError, match="not a valid file name"):
        result.save("a\0b")


@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_result_is_never_half_written(segmenter, tmp_path, monkeypatch, stop):
    """A full disk and Ctrl-C: the older files stay, and no other appears."""
    result = found(segmenter)
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


def test_logits_are_those_of_the_evaluation(segmenter):
    """Small map -> canvas -> crop -> own size, in strips, equals the two steps on whole maps."""
    context = segmenter.fit(
        [Example(*random_image(0, 70, 60)), Example(*random_image(3, 60, 60), name="other")]
    )
    result = segmenter.predict(random_image(1, 131, 90)[0], context)
    h, w = result.placed
    whole = resize(resize(result.small_logits, (64, 64))[:, :h, :w], (131, 90))
    np.testing.assert_allclose(result.logits(), whole, atol=1e-4)


def test_nothing_found_scores_zero():
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
