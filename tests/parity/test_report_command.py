"""Test where the parity report writes its files; test_dump_torch.py tests its content."""

import json
from types import SimpleNamespace

import pytest

from segic_jax.errors import DumpError
from segic_jax.parity import report


@pytest.fixture
def no_pairs(monkeypatch):
    """Replace the dump by one without pairs, and the page by a line."""
    monkeypatch.setattr(report, "read_dump", lambda folder: SimpleNamespace(manifest={"pairs": []}))
    monkeypatch.setattr(report, "summarise", lambda dump, pairs, cases: {"passed": True})
    monkeypatch.setattr(report, "render_page", lambda content, images: "a page")


def test_the_page_and_its_values_are_written(tmp_path, no_pairs):
    assert report.write_report(tmp_path, tmp_path / "new/report.html")
    assert (tmp_path / "new/report.html").read_text() == "a page"
    assert json.loads((tmp_path / "new/report.json").read_text()) == {"passed": True}


def test_a_failed_report_leaves_the_older_one(tmp_path, no_pairs, monkeypatch):
    page = tmp_path / "report.html"
    page.write_text("an older page")
    monkeypatch.setattr(report, "render_page", lambda content, images: "half a page \ud800")  # not UTF-8
    with pytest.raises(UnicodeEncodeError):
        report.write_report(tmp_path, page)
    assert page.read_text() == "an older page"


def test_a_path_that_cannot_be_written_is_named_before_the_dump_is_read(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DumpError, match=r"The folder .*file cannot be created"):
        report.write_report(tmp_path / "no dump", tmp_path / "file/report.html")


def test_a_folder_under_the_name_of_the_page_is_refused(tmp_path, no_pairs):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(DumpError, match="is a folder"):
        report.write_report(tmp_path, tmp_path / "report.html")
