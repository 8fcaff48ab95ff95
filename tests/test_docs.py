"""Links lead somewhere, and the commands in code blocks are ones that the command line takes."""

import re
import shlex
from pathlib import Path

import pytest

from segic_jax.cli import parse

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
names = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def commands(text: str) -> list[str]:
    """The lines of shell blocks that start with segic, continued lines joined, comments cut."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip().startswith("segic ")]


@names
def test_links(page):
    text = page.read_text("utf-8")
    for link in [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'src="([^"]+)"', text)]:
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        there = page.parent / target if target else page
        assert there.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", there.read_text("utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}, link


@names
def test_commands_parse(page):
    for line in commands(page.read_text("utf-8")):
        parse(shlex.split(line, comments=True)[1:])


def test_a_wrong_command_is_noticed():
    with pytest.raises(SystemExit):
        parse(shlex.split(commands("```sh\nsegic predict --target x --out y\n```")[0])[1:])


def test_commands_are_in_the_docs():
    from segic_jax.cli import COMMANDS

    text = (ROOT / "docs/commands.md").read_text("utf-8")
    assert [name for name in COMMANDS if f"segic {name}" not in text] == []


def test_the_notebook_runs_top_to_bottom():
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(ROOT / "examples/quickstart.ipynb", as_version=4)
    resources = {"metadata": {"path": str(ROOT / "examples")}}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", ())]
    assert sum("image/png" in one.get("data", {}) for one in outputs) == 2
