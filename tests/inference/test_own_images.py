"""Test that every Python block in docs/own_images.md runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/own_images.md").read_text(), re.DOTALL)


@pytest.mark.parametrize(
    ("number", "files_written"),
    [
        (0, {"out/labels/kitten.png", "out/overlays/kitten.png", "out/annotations/kitten.json"}),
        (1, {"mine.segic"}),
        (2, set()),
        (3, set()),
    ],
)
def test_a_block_runs_and_writes(number, files_written, tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[number], f"block {number}", "exec"), {})
    files = (path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert {str(path) for path in files if path.parts[0] != "examples"} == files_written


def test_every_block_is_tested():
    assert len(BLOCKS) == 4
