"""Find and load experiments: Python files with `get_config() -> Config`, by name or by path."""

import os
import runpy
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segic_jax.config import Config
from segic_jax.errors import ConfigError, InputError
from segic_jax.runtime.project_folder import project_folder


def configure(name: str, overrides: Sequence[str], program: str, description: str) -> Config:
    """Load an experiment and override its fields from the command line; a wrong option exits with code 2.

    Args:
        name: as for `load_config`; "" where only the help is asked for.
        program, description: of the command, for its help.
    """
    import tyro

    options: dict[str, Any] = {"default": load_config(name)} if name else {}
    return tyro.cli(
        Config,
        args=overrides,
        prog=program,
        description=description,
        config=(tyro.conf.AvoidSubcommands,),  # the file decides which backbone it is
        **options,
    )


def config_names() -> list[str]:
    """Return the names of the project's experiments."""
    return sorted(path.stem for path in project_folder("configs").glob("*.py"))


def find_config(name: str | os.PathLike) -> Path:
    """Return the file of an experiment.

    Args:
        name: a path, or a name of `config_names`.

    Raises:
        ConfigError: there is neither such a file nor such a name.
    """
    for place in (Path(name), project_folder("configs") / f"{name}.py"):
        if place.is_file():
            return place
    raise ConfigError(
        f"{name}: there is no such configuration file; give a path, or a name: {', '.join(config_names())}."
    )


def load_config(name: str | os.PathLike) -> Config:
    """Run the file of an experiment and return its configuration.

    Args:
        name: a path, or a name of `config_names`.

    Raises:
        ConfigError: there is no such file, it cannot be run, it has no `get_config`, or that returns
            something else.
    """
    path = find_config(name)
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        if not callable(get_config):
            raise ConfigError(f"{path} has no function get_config(); see configs/README.md.")
        config = get_config()
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # it is a program: anything may go wrong in it
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
        where = f", line {line}" if line else ""
        raise ConfigError(
            f"{path}{where} cannot be run ({type(error).__name__}: {' '.join(str(error).split())[:200]}): "
            "fix it; see configs/README.md."
        ) from error
    if not isinstance(config, Config):
        raise ConfigError(f"get_config() of {path} returned {type(config).__name__}; it must be a Config.")
    return config
