"""Build the documentation site strictly: broken links, anchors and docstring fields are errors."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import segic_jax

pytestmark = pytest.mark.heavy
ROOT = Path(__file__).parents[1]
INSTALLED = all(importlib.util.find_spec(name) for name in ("mkdocs", "material", "mkdocstrings"))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Return the folder of the built site. Under CI the docs extra must be installed."""
    if not INSTALLED and os.environ.get("CI") != "true":
        pytest.skip("needs pip install 'segic_jax[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_the_public_api_is_documented(site):
    page = (site / "api/index.html").read_text("utf-8")
    documented = [name for name in segic_jax.__all__ if f">{name}<" in page or f".{name}<" in page]
    assert documented == list(segic_jax.__all__)


def test_pages_load_nothing_from_other_machines(site):
    tags = re.compile(r'<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)="?https?:[^>]*>')
    remote = {tag for page in site.rglob("*.html") for tag in tags.findall(page.read_text("utf-8"))}
    assert remote == set()


def test_images_exist(site):
    for page in site.glob("*.html"):
        for source in re.findall(r'<img\b[^>]*\bsrc="([^"]+)"', page.read_text("utf-8")):
            assert (page.parent / source).is_file(), f"{page.name}: {source}"


def test_the_search_index_covers_pages_and_api(site):
    index = json.loads((site / "search/search_index.json").read_text("utf-8"))
    locations = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert {"own_images.html", "benchmarks.html", "api/index.html", "api/models/vit.html"} <= locations
