"""Requests made by hand: handlers that get what the page never sends say so, and nothing changes."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("gradio")
import gradio as gr

from segic_jax.app.events import Page
from segic_jax.app.server import Blocks
from segic_jax.app.session import Picture, Session
from segic_jax.errors import DataError

GREY = np.full((60, 80, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with Blocks() as blocks:
        page = Page(None, tmp_path_factory.mktemp("page"))
    return blocks, page


@pytest.fixture
def page(made):
    return made[1]


def test_values_that_an_event_cannot_take_are_said(made):
    events = [event for event in made[0].fns.values() if event.inputs]
    assert len(events) > 10
    for event in events:
        for values in ([], [{"path": []}] * (len(event.inputs) - 1)):
            with pytest.raises(gr.Error, match="reload the page") as said:
                asyncio.run(made[0].preprocess_data(event, values, None))
            assert not said.value.print_exception


def test_what_is_no_file_and_no_index_is_said(page):
    visitor = Session(draft=Picture("a", GREY))
    visitor.take("cat", None, (0, 0, 9, 9))
    visitor.add_targets([Picture("b", GREY)])
    visitor.draft = Picture("a", GREY)
    for path in (None, 5, "", ["x"], {}):
        for handler in (page.bring, page.load_context, page.load_mask):
            with pytest.raises(DataError, match="No file arrived"):
                handler(visitor, path)
    for paths in (None, []):
        with pytest.raises(DataError, match="No file arrived"):
            page.add_targets(visitor, paths)
    for index in (None, "0", -1, 3, 1.5, [0, 0], True, {}):
        for handler in (page.bring_scene, page.choose_shot, page.choose_target):
            with pytest.raises(DataError, match="that are shown"):
                handler(visitor, SimpleNamespace(index=index))
    for probability in (None, "x", [0.5], {}):
        with pytest.raises(DataError, match="threshold is a number"):
            page.cut(visitor, probability, False)
    for marks in (None, 5, "[" * 9999, '{"box": [1, 2], "mask": ""}', '{"box": {}, "mask": 1}', "NaN"):
        with pytest.raises(DataError, match=r"could not be read|four numbers"):
            page.add(visitor, marks, "cat", None)
    for name in (None, 5.5, ""):
        with pytest.raises(DataError):
            page.correct(visitor, name)
        with pytest.raises(DataError):
            page.change_class(visitor, name, None)
        with pytest.raises(DataError):
            page.change_class(visitor, name, "red")
    assert (visitor.probability, visitor.chosen_shot, len(visitor.targets), len(visitor.shots)) == (
        0.5,
        None,
        1,
        1,
    )
    assert list(Path(page.folder).iterdir()) == []
