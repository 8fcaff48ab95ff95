"""Check the list of heavy tests in conftest.py."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_heavy_files_exist():
    text = (TESTS / "conftest.py").read_text("utf-8")
    names = ast.literal_eval(re.search(r"^HEAVY = (\(.*?\n\))", text, re.S | re.M)[1])
    assert [name for name in names if not (TESTS / name).exists()] == []
