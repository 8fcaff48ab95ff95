"""Test requests that the page never sends: handlers report them, and nothing changes."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from requirements import require_gradio

require_gradio()
import gradio as gr
from fastapi import FastAPI
from starlette.testclient import TestClient

from segic_jax.app.handlers import Page
from segic_jax.app.layout import INSIDE
from segic_jax.app.segmenters import Segmenters
from segic_jax.app.server import Blocks, RequestGuard
from segic_jax.app.session import NamedImage, Session
from segic_jax.errors import DataError
from segic_jax.weights.bundle import load_bundle
from segic_jax.weights.catalog import DEFAULT
from segic_jax.weights.fetch import find

GREY = np.full((60, 80, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def blocks_and_page(tmp_path_factory):
    with Blocks() as blocks:
        page = Page(Segmenters(load_bundle(find(DEFAULT))), tmp_path_factory.mktemp("page"))
    return blocks, page


@pytest.fixture
def page(blocks_and_page):
    return blocks_and_page[1]


def test_values_that_do_not_fit_their_event_are_reported(blocks_and_page):
    blocks, _ = blocks_and_page
    events = [event for event in blocks.fns.values() if event.inputs]
    assert len(events) > 10
    for event in events:
        for values in ([], [{"path": []}] * (len(event.inputs) - 1)):
            with pytest.raises(gr.Error, match="reload the page") as raised:
                asyncio.run(blocks.preprocess_data(event, values, None))
            assert not raised.value.print_exception


def test_malformed_paths_and_indices_are_reported(page):
    session = Session(draft=NamedImage("a", GREY))
    session.add_shot("cat", None, (0, 0, 9, 9))
    session.add_targets([NamedImage("b", GREY)])
    session.draft = NamedImage("a", GREY)
    for path in (None, 5, "", ["x"], {}):
        for handler in (page.upload_image, page.load_context, page.load_mask):
            with pytest.raises(DataError, match="No file arrived"):
                handler(session, path)
    for paths in (None, []):
        with pytest.raises(DataError, match="No file arrived"):
            page.add_targets(session, paths)
    for index in (None, "0", -1, 3, 1.5, [0, 0], True, {}):
        for handler in (page.select_sample, page.select_shot, page.select_target):
            with pytest.raises(DataError, match="on the page"):
                handler(session, gr.SelectData(None, {"index": index, "value": None}))
    for probability in (None, "x", [0.5], {}):
        with pytest.raises(DataError, match="threshold must be a number"):
            page.preview_display(session, probability, False, False)
    for index in (None, "0", 3, [1], [1, None], ["0", "0"], {}):
        with pytest.raises(DataError, match="Click on the image"):
            page.click(session, "cat", INSIDE, gr.SelectData(None, {"index": index, "value": None}))
    assert page.click(session, "cat", "elsewhere", gr.SelectData(None, {"index": None, "value": None})) == {}
    for method in (None, 5, "other", ["segic"]):
        with pytest.raises(DataError, match="one of the methods on the page"):
            page.choose_method(session, method)
    for marks in (None, 5, "[" * 9999, '{"box": [1, 2], "mask": ""}', '{"box": {}, "mask": 1}', "NaN"):
        with pytest.raises(DataError, match=r"cannot be read|four numbers"):
            page.add_example(session, marks, "cat", None)
    for name in (None, 5.5, ""):
        with pytest.raises(DataError):
            page.correct(session, name)
        with pytest.raises(DataError):
            page.change_class(session, name, None)
        with pytest.raises(DataError):
            page.change_class(session, name, "red")
    assert (session.threshold, session.selected_shot, len(session.targets), len(session.shots)) == (
        0.5,
        None,
        1,
        1,
    )
    assert list(Path(page.folder).iterdir()) == []


@pytest.mark.parametrize(
    ("embed_in", "site"), [(None, "'none'"), ("https://example.com", "https://example.com")]
)
def test_only_the_named_site_may_embed_the_page(embed_in, site):
    app = FastAPI()
    app.add_middleware(RequestGuard, embed_in=embed_in)
    policy = TestClient(app).get("/").headers["content-security-policy"]
    assert policy.endswith(f"frame-ancestors {site}")


def test_another_method_drops_the_results_and_keeps_a_loaded_context(page):
    session = Session(shots=[], targets=[])
    session.add_targets([NamedImage("b", GREY)])
    session.draft = NamedImage("a", GREY)
    session.add_shot("cat", None, (0, 0, 40, 40))
    for method in ("training_free", "segic"):
        page.choose_method(session, method)
        session.segment(page.segmenters.of(method), lambda done, total: None)
        assert session.targets[0].result is not None
    session.loaded = session.context
    page.choose_method(session, "segic")
    assert session.targets[0].result is not None
    assert page.choose_method(session, "training_free")[page.target.method] == "segic"
    assert (session.method, session.targets[0].result is not None) == ("segic", True)
    session.loaded = None
    page.choose_method(session, "training_free")
    assert (session.method, session.targets[0].result) == ("training_free", None)
