"""What a Context keeps, how it is joined, saved and refused; negatives; presence; results in files."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from tiny import bundle, picture

from segic_jax import Example
from segic_jax.errors import BundleError, ConfigError, DataError
from segic_jax.inference.presence import EVIDENCE, GAP, MARGIN, apply_negative
from segic_jax.inference.result import merge_coco_files
from segic_jax.inference.segmenter import Segmenter


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(bundle())


def example(seed: int, name: str | None, **more) -> Example:
    return Example(*picture(seed, 60 + seed, 70), name=name, **more)


def test_contexts_are_added_and_dropped(segmenter):
    """Joining is fitting together, and a dropped class leaves no trace."""
    one = segmenter.fit([example(0, "a"), example(1, "b"), example(2, "b", negative=True)])
    two = segmenter.fit([example(3, "c"), example(4, "a")])
    both = one + two
    assert both.names == ("a", "b", "c")
    assert both.shots == {"a": 2, "b": 1, "c": 1}
    assert len(both.references) == 5
    together = segmenter.fit(
        [example(0, "a"), example(1, "b"), example(2, "b", negative=True), example(3, "c"), example(4, "a")]
    )
    target = picture(9, 50, 80)[0]
    for added, fitted in (
        (both, together),
        (both.drop("c", "b"), segmenter.fit([example(0, "a"), example(4, "a")])),
        (both.drop("a"), together.drop("a")),
    ):
        assert added.names == fitted.names
        assert len(added.references) == len(fitted.references)
        results = [segmenter.predict(target, context) for context in (added, fitted)]
        np.testing.assert_allclose(results[0].small_logits, results[1].small_logits, atol=1e-4)
        np.testing.assert_allclose(results[0].presence, results[1].presence, atol=1e-4)
    assert both.drop("b").negatives == ()
    with pytest.raises(DataError, match=r"no class 'd' in the context; it has a, b, c"):
        both.drop("d")
    with pytest.raises(DataError, match="no class"):
        segmenter.predict(target, both.drop("a", "b", "c"))
    with pytest.raises(DataError, match="different models"):
        one + Segmenter(bundle(seed=3)).fit(example(0, "a"))


def test_one_class_more_changes_no_other_mask(segmenter):
    target = picture(9, 50, 80)[0]
    alone = segmenter.predict(target, segmenter.fit(example(0, "a")))
    among = segmenter.predict(target, segmenter.fit([example(i, "abcdef"[i]) for i in range(6)]))
    np.testing.assert_allclose(among.small_logits[0], alone.small_logits[0], atol=1e-4)


@pytest.mark.usefixtures("unchecked_types")
def test_examples_that_fit_refuses(segmenter):
    with pytest.raises(DataError, match="negative example of 'x', which has no positive one"):
        segmenter.fit([example(0, "a"), example(1, "x", negative=True)])
    with pytest.raises(DataError, match="at least one positive"):
        segmenter.fit([example(0, "a", negative=True)])
    with pytest.raises(DataError, match="fit takes examples"):
        segmenter.fit(["cat.jpg"])
    context = segmenter.fit([example(0, "a"), example(1, "b"), example(2, None, negative=True)])
    assert [one.against for one in context.negatives] == [("a", "b")]


def test_class_names_as_text(segmenter):
    context = segmenter.fit(example(0, "disk"), class_names=True)
    assert context.concepts[0].text.tolist() == [1] * 4
    with pytest.raises(BundleError, match="no text feature for 'a photo of a ring'"):
        segmenter.fit(example(0, "ring"), class_names=True)


def test_a_negative_takes_what_is_rather_its_own():
    random = np.random.default_rng(0)
    logits, negative = random.normal(size=(2, 16, 16)) * 5
    no_gap = np.zeros((4, 4), np.float32)
    result = apply_negative(logits, negative, no_gap)
    wins = (negative > 0) & (negative > logits + MARGIN)
    assert (result[wins] < 0).all()
    assert np.array_equal(result[~wins], logits[~wins])
    assert (result <= logits).all()
    better = apply_negative(logits, negative, no_gap + 1)  # its cells match better as well
    taken = (negative > 0) & (negative - logits - MARGIN + GAP > 0)
    assert np.array_equal(better > 0, (logits > 0) & ~taken)
    assert np.array_equal(apply_negative(logits, negative, no_gap - 9), logits)


def test_an_example_and_its_negative_leave_nothing(segmenter):
    """What looks exactly like the negative as well is not claimed more than without it."""
    target, mask = picture(0, 60, 70)
    without = segmenter.predict(target, segmenter.fit(example(0, "a")))
    negative = Example(target, mask, name="a", negative=True)
    with_it = segmenter.predict(target, segmenter.fit([example(0, "a"), negative]))
    assert (with_it.small_logits <= without.small_logits + 1e-5).all()


def test_absent_classes_have_no_mask(segmenter):
    context = segmenter.fit([example(0, "a"), example(1, "b")])
    target = picture(9, 50, 80)[0]
    plain = segmenter.predict(target, context)
    assert plain.present.all()  # never calibrated: nothing is called absent
    assert not segmenter.calibrated
    calibration = {"weights": dict.fromkeys(EVIDENCE, 0.0), "bias": 0.0, "least": 0.6}
    model = bundle()
    model.notes["presence"] = calibration
    judge = Segmenter(model)
    assert judge.calibrated
    result = judge.predict(target, context)
    assert result.presence.tolist() == [0.5, 0.5]
    assert not result.present.any()
    assert not result.masks.any()
    assert not result.label_map.any()
    assert result.to_coco() == []
    np.testing.assert_array_equal(result.logits(), plain.logits())
    kept = judge.predict(target, context, keep_absent=True)
    assert np.array_equal(kept.masks, plain.masks)
    model.notes["presence"] = {"weights": {"old": 1.0}, "bias": 0.0, "least": 0.6}
    with pytest.raises(ConfigError, match=r"segic calibrate --weights FILE --save"):
        Segmenter(model)


def found(segmenter):
    """A Result with something in it."""
    context = segmenter.fit([example(0, "a"), example(1, "b")])
    result = segmenter.predict(picture(9, 50, 80)[0], context)
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
    assert result.threshold(9).boxes == [None, None]
    assert result.threshold(9).instances(0) == []


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
    with pytest.raises(DataError, match="cannot be made"):
        result.save(tmp_path / "file")
    with pytest.raises(DataError, match="not a valid file name"):
        result.save("a\0b")


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupted(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(("stop", "error"), [(full, DataError), (interrupted, KeyboardInterrupt)])
def test_nothing_is_left_half_written(segmenter, tmp_path, monkeypatch, stop, error):
    """A full disk and Ctrl-C: the older file stays, and no other appears."""
    result, context = found(segmenter), segmenter.fit(example(0, "a"))
    context.save(tmp_path / "c.segic")
    result.save(tmp_path)

    def files():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = files()
    for method in ("write_bytes", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, stop)
            for save, name in ((context.save, "c.segic"), (result.save, ""), (context.save, "new")):
                with pytest.raises(error):
                    save(tmp_path / name)
    assert files() == before
    with pytest.raises(DataError, match="cannot be written to"):
        context.save(tmp_path / "no folder" / "c.segic")
    context.drop("a").save(tmp_path / "nothing")
    with pytest.raises(DataError, match="nothing has no class"):
        segmenter.load_context(tmp_path / "nothing")


def test_fitting_onto_a_context_goes_on(segmenter):
    """A negative may speak against a class of the context."""
    first = segmenter.fit([example(0, "a"), example(1, "b")])
    more = segmenter.fit(
        [example(2, "c"), example(3, "a", negative=True), example(4, None, negative=True)], first
    )
    assert more.names == ("a", "b", "c")
    assert [one.against for one in more.negatives] == [("a",), ("a", "b", "c")]
    assert [int(one.place[0, 0]) for one in more.negatives] == [3, 4]
    only = segmenter.fit(example(3, "a", negative=True), first)
    assert only.names == ("a", "b")
    with pytest.raises(DataError, match="'x', which has no positive one"):
        segmenter.fit(example(3, "x", negative=True), first)


def test_damaged_contexts_are_refused(segmenter, tmp_path):
    """Whatever byte is changed or missing: a sentence, or a context that still predicts."""
    context = segmenter.fit([example(0, "a"), example(1, "b"), example(2, "b", negative=True)])
    context.save(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    random = np.random.default_rng(0)
    target, said = picture(9, 30, 30)[0], []
    for number in range(60):
        damaged = bytearray(whole)
        if number % 3 == 0:
            damaged = damaged[: random.integers(len(whole))]
        else:
            at = random.integers(len(whole))
            damaged[at : at + 4] = random.integers(0, 256, 4, np.uint8).tobytes()
        (tmp_path / "damaged").write_bytes(damaged)
        try:
            segmenter.predict(target, segmenter.load_context(tmp_path / "damaged"))
        except DataError as error:
            said.append(str(error))
    assert len(said) > 20
    assert all("is damaged" in sentence for sentence in said)


def test_explanations_point_at_pixels_of_both_images(segmenter):
    context = segmenter.fit([example(0, "a"), example(1, "b"), example(2, "b", negative=True)])
    target = picture(9, 50, 80)[0]
    explained = segmenter.explain(target, context, matches=5)
    assert [one.name for one in explained] == ["a", "b"]
    for row, one in enumerate(explained):
        assert one.heat.shape == (50, 80)
        assert np.abs(one.heat).max() <= 1 + 1e-5
        strengths = [match.similarity for match in one.matches]
        assert len(strengths) == 5
        assert strengths == sorted(strengths, reverse=True)
        for match in one.matches:
            assert match.reference == row
            height, width = context.references[row].size
            assert 0 <= match.point[0] < width
            assert 0 <= match.point[1] < height
            assert 0 <= match.target[0] <= 80
            assert 0 <= match.target[1] <= 50


def test_a_reference_explains_itself(segmenter):
    """On the reference itself, the strongest matches are of a cell with itself."""
    image, mask = picture(0, 64, 64)
    context = segmenter.fit(Example(image, mask))
    for match in segmenter.explain(image, context)[0].matches[:5]:
        assert match.similarity == pytest.approx(1, abs=2e-3)
        assert np.abs(np.subtract(match.target, match.point)).max() <= 1
