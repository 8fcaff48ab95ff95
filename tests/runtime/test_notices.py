"""Test that doubts about uploads reach the visitor whose uploads they are."""

import threading
import warnings

import numpy as np
import pytest
from PIL import Image

from segic_jax.app.uploads import read_mask_upload, read_upload
from segic_jax.errors import InputWarning
from segic_jax.runtime.notices import collect_warnings, route_warnings


@pytest.fixture
def shown(monkeypatch):
    """Route warnings, and return those that are shown as usual."""
    shown = []
    with warnings.catch_warnings():
        monkeypatch.setattr(warnings, "showwarning", lambda message, *_, **__: shown.append(str(message)))
        route_warnings()
        yield shown


def test_doubts_about_a_mask_name_the_uploaded_file(shown, tmp_path):
    Image.fromarray(np.full((20, 20), 255, np.uint8)).save(tmp_path / "x1.png")
    with collect_warnings() as doubts:
        read_mask_upload(tmp_path / "x1.png", "cat.png", (20, 20))
    assert doubts == ["cat.png covers 100.0 % of the image: is it inverted? Mark the object in white."]


def test_doubts_about_an_image_name_the_uploaded_file(shown, tmp_path):
    Image.fromarray(np.full((20, 20), 1000, np.uint16)).save(tmp_path / "x1.png")
    with collect_warnings() as doubts:
        read_upload(tmp_path / "x1.png", "scan.png")
    assert doubts == ["scan.png: its values of 16 bits end at 1000: they are read as 10 bits, 0 to 1023."]


def test_doubts_of_other_threads_and_other_warnings_are_shown_as_before(shown):
    other = threading.Thread(target=lambda: warnings.warn("elsewhere", InputWarning, stacklevel=1))
    with collect_warnings() as doubts:
        other.start()
        other.join()
        warnings.warn("not about inputs", UserWarning, stacklevel=1)
    assert doubts == []
    assert shown == ["elsewhere", "not about inputs"]
