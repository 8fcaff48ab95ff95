"""Links lead somewhere, code runs, and every command line is one that the program takes."""

import contextlib
import importlib.util
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import tyro

from segic_jax.commands.parser import COMMANDS, parse

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import eval as evaluation
import finetune
import train

PAGES = [ROOT / "README.md", ROOT / "configs/README.md", *sorted((ROOT / "docs").glob("*.md"))]
WRITING = "own_images.md"  # test_own_images.py runs its blocks and looks at the files
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of every block of code."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.S | re.M)


def inline(page: Path) -> list[list[str]]:
    """The commands with options that stand in the text, between backticks."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.S | re.M)
    commands = [shlex.split(code) for code in re.findall(r"`((?:segic|python)\s[^`]+)`", prose)]
    return [words for words in commands if any(word.startswith("-") for word in words)]


def words_of(lines: str) -> list[list[str]]:
    """Continued lines joined, comments cut."""
    lines = lines.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def check(words: list[str]) -> None:
    """Whether the project has this command, and takes these arguments where it can say so without work."""
    match words:
        case ["segic", *arguments]:
            parse(arguments)
        case ["python", "train.py", *arguments]:
            train.parse(arguments)
        case ["python", "eval.py", *arguments]:
            tyro.cli(evaluation.Args, args=arguments)
        case ["python", "finetune.py", *arguments]:
            tyro.cli(finetune.Args, args=arguments)
        case ["python", "-m", module, *_]:
            assert importlib.util.find_spec(module), module
        case ["python", script, *_]:
            assert Path(script).is_file(), script
        case ["make", target]:
            assert re.search(rf"^{target}:", Path("Makefile").read_text(), re.M), target
        case ["pip", "install", what]:
            extras = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert re.fullmatch(
                r"\.|segic_jax @ git\+https://\S+|segic_jax-[\d.]+-py3-none-any\.whl", what
            ) or what in {f"segic_jax[{name}]" for name in extras}
        case ["srun" | "gcloud", *_]:  # a command of ours, started by another one
            inner = re.search(r"python train\.py .*", " ".join(words)).group()
            check(shlex.split(inner))
        case _:
            pytest.fail(f"{' '.join(words)}: no command that this test knows")


@pages
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


@pages
def test_files_that_are_named_exist(page):
    named = r"`((?:segic_jax|tests|tools|configs|docs|examples|benchmarks)/[\w./]*)`"
    for name in re.findall(named, page.read_text("utf-8")):
        assert (ROOT / name).exists(), name


@pages
def test_every_block_is_known(page):
    assert {language for language, _ in blocks(page)} <= {"python", "sh", ""}


@pages
def test_commands(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for language, text in blocks(page):
        if language == "":  # what a program prints; a command there stands behind a dollar
            text = "\n".join(re.findall(r"^\$ (.*)$", text, re.M))
        if language != "python":
            for words in words_of(text):
                check(words)


@pages
def test_commands_in_the_text(page, monkeypatch, capsys):
    """Whole ones as in the blocks; of one that ends with an option, whether the command has this option."""
    monkeypatch.chdir(ROOT)
    for words in inline(page):
        *command, last = words
        if words[0] == "segic" and last.startswith("--"):
            with pytest.raises(SystemExit, match=r"^0$"):
                check([*command, "--help"])
            assert re.search(rf"{last}\b", capsys.readouterr().out), " ".join(words)
        else:
            check(words)


@pages
def test_python_runs(page, tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    for number, (language, text) in enumerate(blocks(page)):
        if language == "python":
            code = compile(text, f"{page.name}, block {number}", "exec")
            if page.name != WRITING:
                exec(code, {})


@pytest.mark.parametrize(
    "line", ["segic predict --target x --out y", "python eval.py --benchmrk x", "python none.py", "curl x"]
)
def test_a_wrong_command_is_noticed(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises((SystemExit, AssertionError, pytest.fail.Exception)), contextlib.redirect_stderr(None):
        check(shlex.split(line))


def test_the_readme_leads_to_every_page():
    text = (ROOT / "README.md").read_text("utf-8")
    names = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert [name for name in sorted(names) if f"docs/{name}" not in text] == []


def test_commands_are_in_the_docs():
    text = (ROOT / "docs/commands.md").read_text("utf-8")
    assert [name for name in COMMANDS if f"segic {name}" not in text] == []


def test_the_notebook_runs_top_to_bottom():
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(ROOT / "examples/quickstart.ipynb", as_version=4)
    resources = {"metadata": {"path": str(ROOT / "examples")}}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", ())]
    assert sum("image/png" in one.get("data", {}) for one in outputs) == 2
