"""Check the pages: links resolve, named files exist, commands parse, Python blocks run."""

import argparse
import contextlib
import importlib.util
import os
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import tyro

from segic_jax.commands import command_line
from segic_jax.commands.command_line import COMMANDS, parse

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

PAGES = [ROOT / "README.md", ROOT / "configs/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OWN_IMAGES = "own_images.md"  # tests/inference/test_own_images.py runs its blocks and checks their output
pytestmark = pytest.mark.heavy
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


class Parsed(BaseException):
    """Signal that a script has parsed its arguments; raised instead of starting its work."""


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    """Run in the root of the checkout."""
    monkeypatch.chdir(ROOT)


def code_blocks(page: Path) -> list[tuple[str, str]]:
    """Return the language and the text of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.S | re.M)


def inline_commands(page: Path) -> list[list[str]]:
    """Return the commands with options that stand between backticks in the text."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.S | re.M)
    commands = [shlex.split(code) for code in re.findall(r"`((?:segic|python)\s[^`]+)`", prose)]
    return [command for command in commands if any(word.startswith("-") for word in command)]


def split_commands(lines: str) -> list[list[str]]:
    """Join continued lines, drop comments and variables of the environment, and split commands into words."""
    lines = lines.replace("\\\n", " ").splitlines()
    commands = (shlex.split(re.sub(r"^([A-Z_]+=\S+ +)+", "", line), comments=True) for line in lines)
    return [command for command in commands if command]


def check_script(run: Callable[..., object], arguments: list[str]) -> None:
    """Start a script or module and stop it once it has parsed its arguments."""

    def stop_after(function):
        def parse_and_stop(*args, **options):
            function(*args, **options)
            raise Parsed

        return parse_and_stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["script", *arguments])
        patch.setattr(os, "environ", os.environ.copy())
        patch.setattr(command_line, "run_command", lambda work, *_: work())
        patch.setattr(tyro, "cli", stop_after(tyro.cli))
        patch.setattr(argparse.ArgumentParser, "parse_args", stop_after(argparse.ArgumentParser.parse_args))
        with pytest.raises(Parsed):
            run(run_name="__main__")


def check_command(command: list[str]) -> None:
    """Fail unless the project has this command and it accepts the arguments."""
    match command:
        case ["segic", *arguments]:
            parse(arguments)
        case ["python", ("train.py" | "eval.py" | "finetune.py") as script, *arguments]:
            parse([script.removesuffix(".py"), *arguments])
        case ["python", "-m", "pytest", *_]:
            pass
        case ["python", "-m", module]:
            assert importlib.util.find_spec(module), module
        case ["python", "-m", module, *arguments]:
            check_script(partial(runpy.run_module, module), arguments)
        case ["python", script, *arguments]:
            check_script(partial(runpy.run_path, script), arguments)
        case ["make", target]:
            assert re.search(rf"^{target}:", Path("Makefile").read_text(), re.M), target
        case ["pip", "install", what]:
            assert is_installable(what), what
        case ["srun" | "gcloud", *_]:  # starts one of our commands
            inner = re.search(r"(python train\.py|segic train) .*", " ".join(command)).group()
            check_command(shlex.split(inner))
        case _:
            pytest.fail(f"{' '.join(command)}: not a known command")


def is_installable(what: str) -> bool:
    """Return whether `pip install` gets the package itself or one of its declared extras."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    forms = r"\.|segic_jax @ git\+https://\S+|segic_jax-[\d.]+-py3-none-any\.whl"
    return bool(re.fullmatch(forms, what)) or what in {f"segic_jax[{name}]" for name in extras}


@pages
def test_links_and_anchors_resolve(page):
    text = page.read_text("utf-8")
    for link in [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'src="([^"]+)"', text)]:
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link) or page.parent.name == "api":  # the API's pages are generated
            continue
        path = page.parent / target if target else page
        assert path.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}, link


@pages
def test_named_files_exist(page):
    text = page.read_text("utf-8")
    named = r"`((?:segic_jax|tests|tools|configs|docs|examples|benchmarks|studies)/[\w./]*)`"
    for name in re.findall(named, text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`((?:data|evaluate|inference|models|train|weights)/[\w/]+\.py)`", text):
        assert (ROOT / "segic_jax" / name).exists(), name


@pages
def test_blocks_have_a_known_language(page):
    assert {language for language, _ in code_blocks(page)} <= {"python", "sh", ""}


@pages
def test_commands_in_blocks_parse(page):
    for language, text in code_blocks(page):
        if language == "":  # output of a program; a command in it follows a dollar sign
            text = "\n".join(re.findall(r"^\$ (.*)$", text, re.M))
        if language != "python":
            for command in split_commands(text):
                check_command(command)


@pages
def test_commands_in_the_text_parse(page, capsys):
    for command in inline_commands(page):
        *start, last = command
        if command[0] == "segic" and last.startswith("--"):  # names an option: look for it in the help
            with pytest.raises(SystemExit, match=r"^0$"):
                check_command([*start, "--help"])
            assert re.search(rf"{last}\b", capsys.readouterr().out), " ".join(command)
        else:
            check_command(command)


@pages
def test_python_blocks_run(page, tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    for number, (language, text) in enumerate(code_blocks(page)):
        if language == "python":
            code = compile(text, f"{page.name}, block {number}", "exec")
            if page.name != OWN_IMAGES:
                exec(code, {})


@pytest.mark.parametrize(
    "line",
    [
        "segic predict --target x --out y",
        "python eval.py --benchmrk x",
        "python -m studies.kshot --spilt novel",
        "python -m studies.none",
        "python none.py",
        "pip install segic_jax[none]",
        "curl x",
    ],
)
def test_wrong_commands_are_rejected(line):
    failures = (SystemExit, AssertionError, ImportError, FileNotFoundError, pytest.fail.Exception)
    with pytest.raises(failures), contextlib.redirect_stderr(None):
        check_command(shlex.split(line))


def test_the_readme_links_to_every_page():
    text = (ROOT / "README.md").read_text("utf-8")
    names = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert [name for name in sorted(names) if f"docs/{name}" not in text] == []


def test_every_command_is_documented():
    text = (ROOT / "docs/commands.md").read_text("utf-8")
    assert [name for name in COMMANDS if f"segic {name}" not in text] == []


def test_the_notebook_runs_top_to_bottom():
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(ROOT / "examples/quickstart.ipynb", as_version=4)
    resources = {"metadata": {"path": str(ROOT / "examples")}}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
