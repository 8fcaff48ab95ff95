"""What the API may not do twice: compile, read a reference, wait for one image before it reads the next."""

import time

import jax
import numpy as np
import pytest
from tiny import bundle, picture

from segic_jax import Example
from segic_jax.inference import engine
from segic_jax.inference.engine import chunk_sizes
from segic_jax.inference.matching import PATCHES
from segic_jax.inference.segmenter import Segmenter

COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **more: COMPILED.append(event) if event.endswith("backend_compile_duration") else None
)


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(bundle())


def classes(count: int) -> list[Example]:
    return [Example(*picture(i, 40 + i, 64), name=str(i)) for i in range(count)]


def counted(monkeypatch, name: str) -> list:
    calls, program = [], getattr(engine, name)
    monkeypatch.setattr(engine, name, lambda *inputs: calls.append(1) or program(*inputs))
    return calls


def test_sizes_classes_and_shots_compile_nothing_new(segmenter):
    for count in (1, 4, 16):
        segmenter.predict(picture(0, 50, 60)[0], segmenter.fit(classes(count)))
    before = len(COMPILED)
    assert before > 0  # the listener hears something
    examples = classes(20)
    more = [Example(*picture(30 + i, 50, 50 + i), name="0", negative=i % 2 > 0) for i in range(5)]
    for i in range(50):
        context = segmenter.fit([*examples[: 1 + i % 20], *more[: i % 6]])
        segmenter.predict(picture(i, 30 + 3 * i, 150 - 2 * i)[0], context)
    assert len(COMPILED) == before


def test_chunks_hold_all_concepts():
    for concepts in range(1, 200):
        sizes = chunk_sizes(concepts)
        assert set(sizes) <= {1, 4, 16}
        assert sum(sizes[:-1]) < concepts <= sum(sizes) <= concepts + 3


def test_a_context_is_encoded_once_for_many_targets(segmenter, monkeypatch):
    context = segmenter.fit(classes(3))
    encoded, referred = counted(monkeypatch, "extract"), counted(monkeypatch, "_pool_reference")
    results = list(segmenter.predict_many((picture(i, 40, 50)[0] for i in range(100)), context))
    assert (len(results), len(encoded), len(referred)) == (100, 100, 0)


def test_examples_on_one_image_are_encoded_once(segmenter, monkeypatch):
    image, mask = picture(0, 70, 60)
    encoded = counted(monkeypatch, "extract")
    context = segmenter.fit(
        [Example(image, mask, name="a"), Example(image, ~mask, name="b"), Example(image, box=(0, 0, 9, 9))]
    )
    assert len(encoded) == 1
    assert len(context.references) == 1


def test_300_references(segmenter):
    examples = [Example(*picture(i, 30, 40), name=f"class {i % 3}") for i in range(300)]
    context = segmenter.fit(examples)
    assert context.shots == {"class 0": 100, "class 1": 100, "class 2": 100}
    assert segmenter.predict(picture(3, 60, 60)[0], context).masks.shape == (3, 60, 60)
    assert all(len(concept.patches) <= 2 * PATCHES for concept in context.concepts)  # no more for more shots


def test_many_targets_give_what_one_by_one_gives(segmenter, monkeypatch):
    """In order, also in padded batches as on an accelerator, and with a target that cannot be read."""
    context = segmenter.fit(classes(3))
    targets = [picture(i, 30 + 7 * i, 64)[0] for i in range(11)]
    alone = [segmenter.predict(target, context) for target in targets]
    failed = []
    for rows in (1, engine.ACCELERATOR_ROWS):
        monkeypatch.setattr(segmenter.engine, "rows", rows)
        mixed = [*targets[:4], "gone.jpg", *targets[4:]]
        results = segmenter.predict_many(mixed, context, on_error=lambda target, _: failed.append(target))
        for result, expected in zip(results, alone, strict=True):
            assert result.image is expected.image
            np.testing.assert_allclose(result.small_logits, expected.small_logits, atol=1e-4)
            np.testing.assert_allclose(result.presence, expected.presence, atol=1e-5)
    assert failed == ["gone.jpg"] * 2


def test_reading_and_finishing_overlap(segmenter, monkeypatch):
    """Twelve images of which each takes 50 ms to read take less than twelve times that."""
    context = segmenter.fit(classes(1))
    placed = segmenter._read_target

    def slowly(target):
        time.sleep(0.05)
        return placed(target)

    segmenter.predict(picture(0, 50, 50)[0], context)
    monkeypatch.setattr(segmenter, "_read_target", slowly)
    begin = time.perf_counter()
    list(segmenter.predict_many([picture(0, 50, 50)[0]] * 12, context))
    assert time.perf_counter() - begin < 0.8 * 12 * 0.05


def test_the_rest_is_left_when_nobody_wants_it(segmenter, monkeypatch):
    context = segmenter.fit(classes(1))
    read = []
    placed = segmenter._read_target
    monkeypatch.setattr(segmenter, "_read_target", lambda target: read.append(1) or placed(target))
    results = segmenter.predict_many((picture(0, 40, 40)[0] for _ in range(1000)), context)
    next(results)
    results.close()
    assert len(read) < 20
