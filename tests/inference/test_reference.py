"""Test that the masks of references are kept and shown as they were read."""

import re
from dataclasses import replace

import numpy as np
import pytest
from tiny import blob_result, random_image

from segic_jax import Context, Example
from segic_jax.errors import InputWarning
from segic_jax.inference.context import Concept
from segic_jax.inference.output_folder import make_card, render_page
from segic_jax.inference.overlay import OKABE_ITO
from segic_jax.inference.reference import (
    NEGATIVE,
    Reference,
    describe_references,
    draw_marks,
    make_mark,
    make_preview,
)

IMAGE, MASK = random_image(0, 70, 60)


def reference(*marks, source: str = "cat.jpg") -> Reference:
    return Reference(source, (70, 60), make_preview(IMAGE), marks)


def concept(name: str, against: tuple[str, ...] = ()) -> Concept:
    one = np.ones(1, np.int32)
    return Concept(
        name,
        np.ones((2, 4), np.float32),
        np.zeros(0, np.float32),
        np.ones((1, 4), np.float16),
        np.zeros(1, np.uint8),
        np.stack([0 * one, one, one], -1),
        against,
    )


def test_marks_are_described_and_drawn():
    marks = make_mark("cat", False, MASK), make_mark("cat", True, ~MASK), make_mark(None, True, MASK)
    share = 100 * MASK.mean()
    assert list(describe_references([reference(*marks)])) == [
        f"reference: cat, {share:.1f} % of the image (cat.jpg)",
        f"reference: not cat, {100 - share:.1f} % of the image (cat.jpg)",
        f"reference: negative, {share:.1f} % of the image (cat.jpg)",
    ]
    drawn = draw_marks(IMAGE, marks[:1], {"cat": OKABE_ITO[1]})
    assert (drawn[MASK] == OKABE_ITO[1]).all(-1).any()
    assert (draw_marks(IMAGE, marks[2:], {}) == NEGATIVE).all(-1).any()
    assert draw_marks(np.zeros((700, 600, 3), np.uint8), marks, {}).any()  # at another size


def test_a_large_mask_is_kept_small_and_never_empty():
    mask = np.zeros((3000, 2000), bool)
    mask[1500, 700] = True
    mark = make_mark("cat", False, mask)
    assert mark.mask["size"] == [480, 320]
    assert "covers only 1 of 6000000 pixels" in mark.question
    assert str(mark) == "cat, 0.0000 % of the image"
    assert draw_marks(np.zeros((480, 320, 3), np.uint8), [mark], {}).any()


def test_an_example_shows_what_was_read():
    preview = Example(IMAGE, MASK, name="cat").preview()
    assert (preview.dtype, preview.shape) == (np.uint8, IMAGE.shape)
    assert (preview != IMAGE).any(-1)[MASK].mean() > 0.9
    assert Example(np.repeat(IMAGE, 20, 0), np.repeat(MASK, 20, 0)).preview(200).shape[0] == 200
    with pytest.warns(InputWarning, match="covers 100.0 % of the image: is it inverted"):
        Example(IMAGE, MASK | True).preview()


def test_a_context_describes_itself_in_a_few_lines():
    context = Context(
        "model", (concept("cat"), concept("dog")), (concept("", ("cat",)),), (reference(), reference())
    )
    assert repr(context) == (
        "Context of 2 classes, 2 reference images:\n  cat: 2 examples, 1 negative\n  dog: 2 examples"
    )
    many = Context("model", tuple(concept(str(i)) for i in range(30)), (), ())
    assert repr(many).count("\n") == 11


def test_a_dropped_class_leaves_no_mark():
    marks = make_mark("cat", False, MASK), make_mark("dog", False, MASK), make_mark("cat", True, MASK)
    context = Context("model", (concept("cat"), concept("dog")), (), (reference(*marks),))
    (kept,) = context.drop("cat").references
    assert [mark.name for mark in kept.marks] == ["dog"]


def test_the_contact_sheet_shows_the_masks_of_the_references():
    context = Context("model", (concept("cat"),), (), (reference(make_mark("cat", False, MASK)),))
    result = blob_result(60, 80)
    coco = result.coco_file("a.jpg")
    page = render_page(context, [make_card("a", coco, result.overlay())], [coco], [], {})
    assert re.search(r"with its mask.*cat, \d+\.\d % of the image", page, re.DOTALL)


def test_one_meaning_of_absent():
    result = blob_result(60, 80)
    assert [result.status(i) for i in range(len(result.names))] == ["present"] * len(result.names)
    absent = replace(result, present=np.zeros(len(result.names), bool))
    assert absent.status(0) == "absent"
    assert replace(absent, keep_absent=True).status(0) == "absent, mask kept"
    emptied = result.threshold(60.0)
    assert emptied.status(0) == "present, no pixel above the threshold"
    assert emptied.coco_file()["images"][0]["status"][result.names[0]] == emptied.status(0)
    card = make_card("a", emptied.coco_file("a.jpg"), emptied.overlay())
    assert card.classes[0].status == emptied.status(0)
