"""Test that contexts are merged, reduced, extended, saved and read back."""

import errno
from pathlib import Path

import numpy as np
import pytest
from tiny import bundle, random_image

from segic_jax import Example
from segic_jax.errors import DataError
from segic_jax.inference.matching import PATCHES
from segic_jax.inference.references import MANY, patch_limit
from segic_jax.inference.segmenter import Segmenter


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(bundle())


def example(seed: int, name: str | None, **fields) -> Example:
    return Example(*random_image(seed, 60 + seed, 70), name=name, **fields)


def test_contexts_are_added_and_dropped(segmenter):
    """Check that merging equals fitting together, and that a dropped class leaves no trace."""
    first = segmenter.fit([example(0, "a"), example(1, "b"), example(2, "b", negative=True)])
    second = segmenter.fit([example(3, "c"), example(4, "a")])
    merged = first + second
    assert merged.names == ("a", "b", "c")
    assert merged.shots == {"a": 2, "b": 1, "c": 1}
    assert len(merged.references) == 5
    fitted_together = segmenter.fit(
        [example(0, "a"), example(1, "b"), example(2, "b", negative=True), example(3, "c"), example(4, "a")]
    )
    target = random_image(9, 50, 80)[0]
    for added, fitted in (
        (merged, fitted_together),
        (merged.drop("c", "b"), segmenter.fit([example(0, "a"), example(4, "a")])),
        (merged.drop("a"), fitted_together.drop("a")),
    ):
        assert added.names == fitted.names
        assert len(added.references) == len(fitted.references)
        results = [segmenter.predict(target, context) for context in (added, fitted)]
        np.testing.assert_allclose(results[0].small_logits, results[1].small_logits, atol=1e-4)
        np.testing.assert_allclose(results[0].presence, results[1].presence, atol=1e-4)
    assert merged.drop("b").negatives == ()
    with pytest.raises(DataError, match=r"no class 'd' in the context; it has a, b, c"):
        merged.drop("d")
    with pytest.raises(DataError, match="no class"):
        segmenter.predict(target, merged.drop("a", "b", "c"))
    with pytest.raises(DataError, match="different models"):
        first + Segmenter(bundle(seed=3)).fit(example(0, "a"))


def test_many_examples_of_a_class_keep_fewer_patches_each():
    assert patch_limit(1) == patch_limit(MANY) == PATCHES
    assert [count * patch_limit(count) for count in (100, 1000, 10**6)] == [1000, 1000, 10**6]


def test_examples_that_cannot_be_used_may_be_left_out(segmenter):
    examples = [example(0, "a"), Example("gone.png", "gone.png", name="b"), example(1, "b", negative=True)]
    errors = []
    context = segmenter.fit(examples, on_error=lambda image, error: errors.append((image, str(error))))
    assert errors == [("gone.png", "gone.png: there is no such file.")]
    images = []
    segmenter.fit([example(0, "a"), *examples], on_error=lambda *_: None, on_image=lambda: images.append(1))
    assert len(images) == 4
    assert context.names == ("a",)
    assert context.negatives == ()
    with pytest.raises(DataError, match="there is no such file"):
        segmenter.fit(examples)
    with pytest.raises(DataError, match="No example can be used"):
        segmenter.fit(examples[1:], on_error=lambda *_: None)


def test_examples_are_added_to_a_context(segmenter):
    """Check also a negative example of a class that is already in the context."""
    first = segmenter.fit([example(0, "a"), example(1, "b")])
    extended = segmenter.fit(
        [example(2, "c"), example(3, "a", negative=True), example(4, None, negative=True)], first
    )
    assert extended.names == ("a", "b", "c")
    assert [negative.against for negative in extended.negatives] == [("a",), ("a", "b", "c")]
    assert [int(negative.place[0, 0]) for negative in extended.negatives] == [3, 4]
    with_negative = segmenter.fit(example(3, "a", negative=True), first)
    assert with_negative.names == ("a", "b")
    with pytest.raises(DataError, match="'x', which has no positive one"):
        segmenter.fit(example(3, "x", negative=True), first)


def test_a_context_is_saved_and_loaded(segmenter, tmp_path):
    examples = [
        Example(*random_image(0, 70, 60), name="disk"),
        Example(*random_image(1, 64, 64), name="ring"),
    ]
    context = segmenter.fit(examples)
    context.save(tmp_path / "c.segic")
    loaded = segmenter.load_context(tmp_path / "c.segic")
    assert loaded.names == context.names
    assert loaded.references == context.references
    for concept, expected in zip(loaded.concepts, context.concepts, strict=True):
        for key in ("visual", "text", "patches", "kind", "place"):
            np.testing.assert_array_equal(getattr(concept, key), getattr(expected, key))
    with pytest.raises(DataError, match="another model"):
        Segmenter(bundle(seed=3)).load_context(tmp_path / "c.segic")
    with pytest.raises(DataError, match="another model"):
        Segmenter(bundle(seed=3)).predict(random_image(0, 70, 60)[0], context)
    with pytest.raises(DataError, match="no such file"):
        segmenter.load_context(tmp_path / "d.segic")
    (tmp_path / "d.segic").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="not a saved context"):
        segmenter.load_context(tmp_path / "d.segic")


def raise_disk_full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def raise_interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("stop", "error"), [(raise_disk_full, DataError), (raise_interrupt, KeyboardInterrupt)]
)
def test_a_failed_save_keeps_the_old_file(segmenter, tmp_path, monkeypatch, stop, error):
    """Check that a full disk and Ctrl-C leave the old file and no other."""
    context = segmenter.fit(example(0, "a"))
    context.save(tmp_path / "c.segic")

    def files():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = files()
    for method in ("write_bytes", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, stop)
            for name in ("c.segic", "new"):
                with pytest.raises(error):
                    context.save(tmp_path / name)
    assert files() == before
    with pytest.raises(DataError, match="cannot be written to"):
        context.save(tmp_path / "no folder" / "c.segic")
    context.drop("a").save(tmp_path / "nothing")
    with pytest.raises(DataError, match="nothing has no class"):
        segmenter.load_context(tmp_path / "nothing")


def test_damaged_contexts_are_refused(segmenter, tmp_path):
    """Change or remove bytes: the result is an error, or a context that still predicts."""
    context = segmenter.fit([example(0, "a"), example(1, "b"), example(2, "b", negative=True)])
    context.save(tmp_path / "complete")
    content = (tmp_path / "complete").read_bytes()
    random = np.random.default_rng(0)
    target, messages = random_image(9, 30, 30)[0], []
    for number in range(60):
        damaged = bytearray(content)
        if number % 3 == 0:
            damaged = damaged[: random.integers(len(content))]
        else:
            position = random.integers(len(content))
            damaged[position : position + 4] = random.integers(0, 256, 4, np.uint8).tobytes()
        (tmp_path / "damaged").write_bytes(damaged)
        try:
            segmenter.predict(target, segmenter.load_context(tmp_path / "damaged"))
        except DataError as error:
            messages.append(str(error))
    assert len(messages) > 20
    assert all("is damaged" in sentence for sentence in messages)
