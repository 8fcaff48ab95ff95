"""Provide files to work on, and the command itself in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import command_files

from segic_jax.commands.command_line import main


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Return a folder with weights, a reference with its mask, and targets."""
    return command_files(tmp_path_factory.mktemp("commands"))


@pytest.fixture
def segic(files, monkeypatch) -> Callable[..., int]:
    """Return a function that runs `segic` in the folder of `files` and returns the exit code."""
    monkeypatch.chdir(files)

    def run(*arguments) -> int:
        with pytest.raises(SystemExit) as stopped:
            main(list(map(str, arguments)))
        return stopped.value.code

    return run
