"""docs/api.md is what its command makes of today's docstrings."""

import runpy
from pathlib import Path

import segic_jax

ROOT = Path(__file__).parents[1]


def test_the_page_is_up_to_date():
    made = runpy.run_path(str(ROOT / "tools/api_page.py"))["page"]()
    assert (ROOT / "docs/api.md").read_text("utf-8") == made, "docs/api.md is old: python tools/api_page.py"


def test_the_public_names_are_on_the_page():
    text = (ROOT / "docs/api.md").read_text("utf-8")
    there = {name for name in segic_jax.__all__ if f"### {name}\n" in text or f".{name}` |" in text}
    assert there == set(segic_jax.__all__)
