"""Provide fixtures for the tests of data."""

from pathlib import Path

import pytest
from annotated import save_image


@pytest.fixture
def photo(tmp_path) -> Path:
    """Write an image of 120 x 90 pixels."""
    return save_image(tmp_path / "photo.jpg", 90, 120)
