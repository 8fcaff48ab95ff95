"""Test the Segmenter's fit, predict and predict_many, and that nothing is read or encoded twice."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from tiny import bundle, random_image

from segic_jax import Example
from segic_jax.config import INSTANCE_PROMPT
from segic_jax.errors import BundleError, ConfigError, DataError
from segic_jax.inference import engine
from segic_jax.inference.matching import PATCHES
from segic_jax.inference.segmenter import Segmenter


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(bundle())


def example(seed: int, name: str | None, **fields) -> Example:
    return Example(*random_image(seed, 60 + seed, 70), name=name, **fields)


def test_importing_the_package_does_not_import_jax():
    code = "import segic_jax, sys; assert 'jax' not in sys.modules; segic_jax.Segmenter"
    code += "; assert not {'orbax', 'grain', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("size", [(50, 80), (131, 64), (64, 64), (1, 1), (3, 900)])
def test_results_have_the_targets_size(segmenter, size):
    context = segmenter.fit(Example(*random_image(0, 70, 60)))
    result = segmenter.predict(
        random_image(1, *size)[0] if min(size) > 2 else np.zeros((*size, 3), np.uint8), context
    )
    logits = result.logits()
    assert result.names == ("object",)
    assert result.masks.shape == logits.shape == (1, *size)
    assert np.array_equal(result.masks, logits > 0)
    assert np.array_equal(result.label_map, result.masks[0])
    inside = logits[result.masks]
    expected = (1 / (1 + np.exp(-inside))).mean() if inside.size else 0
    assert result.scores[0] == pytest.approx(expected, abs=1e-5)
    assert result.areas.tolist() == [inside.size]


def test_several_classes_and_shots(segmenter):
    examples = [
        ("disk", random_image(0, 70, 60)),
        ("ring", random_image(1, 64, 64)),
        ("disk", random_image(2, 50, 90)),
    ]
    context = segmenter.fit([Example(*pixels, name=name) for name, pixels in examples])
    assert context.names == ("disk", "ring")
    assert context.shots == {"disk": 2, "ring": 1}
    pooled = [segmenter.fit(Example(*pixels)).concepts[0].visual[0] for _, pixels in examples]
    np.testing.assert_allclose(context.concepts[0].visual, [pooled[0], pooled[2]], atol=1e-6)
    result = segmenter.predict(random_image(3, 60, 80)[0], context)
    for row in range(2):
        assert not (result.label_map[~result.masks[row]] == row + 1).any()
    assert np.array_equal(result.label_map > 0, result.masks.any(0))
    overlap = result.masks.all(0)
    assert np.array_equal(result.label_map[overlap], 1 + result.logits().argmax(0)[overlap])


def test_masks_do_not_depend_on_other_classes(segmenter):
    target = random_image(9, 50, 80)[0]
    single = segmenter.predict(target, segmenter.fit(example(0, "a")))
    several = segmenter.predict(target, segmenter.fit([example(i, "abcdef"[i]) for i in range(6)]))
    np.testing.assert_allclose(several.small_logits[0], single.small_logits[0], atol=1e-4)


@pytest.mark.usefixtures("unchecked_types")
def test_fit_refuses_invalid_examples(segmenter):
    with pytest.raises(DataError, match="negative example of 'x', which has no positive one"):
        segmenter.fit([example(0, "a"), example(1, "x", negative=True)])
    with pytest.raises(DataError, match="at least one positive"):
        segmenter.fit([example(0, "a", negative=True)])
    with pytest.raises(DataError, match="fit takes examples"):
        segmenter.fit(["cat.jpg"])
    context = segmenter.fit([example(0, "a"), example(1, "b"), example(2, None, negative=True)])
    assert [negative.against for negative in context.negatives] == [("a", "b")]


def test_class_names_are_used_as_text_prompts(segmenter):
    context = segmenter.fit(example(0, "disk"), class_names=True)
    assert context.concepts[0].text.tolist() == [1] * 4
    with pytest.raises(BundleError, match="no text feature for 'a photo of a ring'"):
        segmenter.fit(example(0, "ring"), class_names=True)


def classes(count: int) -> list[Example]:
    return [Example(*random_image(i, 40 + i, 64), name=str(i)) for i in range(count)]


def count_calls(monkeypatch, name: str) -> list:
    """Return a list to which every call of a program of the engine adds an entry."""
    calls, program = [], getattr(engine, name)
    monkeypatch.setattr(engine, name, lambda *inputs: calls.append(1) or program(*inputs))
    return calls


def test_a_context_is_encoded_once_for_many_targets(segmenter, monkeypatch):
    context = segmenter.fit(classes(3))
    encoded, pooled = count_calls(monkeypatch, "extract"), count_calls(monkeypatch, "_pool_reference")
    results = list(segmenter.predict_many((random_image(i, 40, 50)[0] for i in range(100)), context))
    assert (len(results), len(encoded), len(pooled)) == (100, 100, 0)


def test_examples_on_one_image_are_encoded_once(segmenter, monkeypatch):
    image, mask = random_image(0, 70, 60)
    encoded = count_calls(monkeypatch, "extract")
    context = segmenter.fit(
        [Example(image, mask, name="a"), Example(image, ~mask, name="b"), Example(image, box=(0, 0, 9, 9))]
    )
    assert len(encoded) == 1
    assert len(context.references) == 1


def test_300_references_are_fitted(segmenter):
    examples = [Example(*random_image(i, 30, 40), name=f"class {i % 3}") for i in range(300)]
    context = segmenter.fit(examples)
    assert context.shots == {"class 0": 100, "class 1": 100, "class 2": 100}
    assert segmenter.predict(random_image(3, 60, 60)[0], context).masks.shape == (3, 60, 60)
    assert all(
        len(concept.patches) <= 2 * PATCHES for concept in context.concepts
    )  # does not grow with the shots


def test_predict_many_equals_predict(segmenter, monkeypatch):
    """Compare in order, also in padded batches as on an accelerator, with an unreadable target."""
    context = segmenter.fit(classes(3))
    targets = [random_image(i, 30 + 7 * i, 64)[0] for i in range(11)]
    expected_results = [segmenter.predict(target, context) for target in targets]
    failed = []
    for rows in (1, engine.ACCELERATOR_ROWS):
        monkeypatch.setattr(segmenter.engine, "rows", rows)
        mixed = [*targets[:4], "gone.jpg", *targets[4:]]
        results = segmenter.predict_many(mixed, context, on_error=lambda target, _: failed.append(target))
        for result, expected in zip(results, expected_results, strict=True):
            assert result.image is expected.image
            np.testing.assert_allclose(result.small_logits, expected.small_logits, atol=1e-4)
            np.testing.assert_allclose(result.presence, expected.presence, atol=1e-5)
    assert failed == ["gone.jpg"] * 2


def test_targets_are_read_ahead_of_the_results(segmenter, monkeypatch):
    """Check that the second target is read while the consumer still handles the first result."""
    context = segmenter.fit(classes(1))
    read_target, reads, second_read = segmenter._predictor.read, [], threading.Event()

    def read(target):
        reads.append(1)
        if len(reads) == 2:
            second_read.set()
        return read_target(target)

    monkeypatch.setattr(segmenter._predictor, "read", read)
    results = segmenter.predict_many([random_image(0, 50, 50)[0]] * 12, context)
    next(results)
    assert second_read.wait(timeout=60)
    results.close()


def test_closing_predict_many_stops_reading(segmenter, monkeypatch):
    context = segmenter.fit(classes(1))
    reads = []
    read_target = segmenter._predictor.read
    monkeypatch.setattr(segmenter._predictor, "read", lambda target: reads.append(1) or read_target(target))
    results = segmenter.predict_many((random_image(0, 40, 40)[0] for _ in range(1000)), context)
    next(results)
    results.close()
    assert len(reads) < 20


def test_instances_have_the_official_sentence():
    model = bundle()
    model.text[INSTANCE_PROMPT] = np.full(4, 7, np.float32)
    segmenter = Segmenter(model)
    context = segmenter.fit([example(0, "disk"), example(1, "ring")], instances=True)
    for concept in context.concepts:
        np.testing.assert_array_equal(concept.text, model.text[INSTANCE_PROMPT])
    with pytest.raises(ConfigError, match="choose one"):
        segmenter.fit(example(0, "disk"), instances=True, class_names=True)
    with pytest.raises(BundleError, match="please segment the instances"):
        Segmenter(bundle()).fit(example(0, "disk"), instances=True)


def test_a_canvas_that_is_not_rounded_is_that_of_the_official_code():
    """Compare features of the float canvas with those of the resized image itself."""
    exact = Segmenter(bundle(), rounded_canvas=False)
    image, mask = random_image(1, 50, 90)
    placed = exact._predictor.read(image).placed
    assert placed.image.dtype == np.float32
    assert (placed.image != np.rint(placed.image)).any()
    rounded = Segmenter(bundle())
    np.testing.assert_array_equal(rounded._predictor.read(image).placed.image, np.rint(placed.image))
    results = [s.predict(image, s.fit(Example(image, mask)), keep_absent=True) for s in (exact, rounded)]
    assert (results[0].masks != results[1].masks).mean() < 0.01
