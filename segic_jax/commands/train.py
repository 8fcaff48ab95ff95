"""Define `segic train`: train a model from a configuration."""

import argparse
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated

import tyro

from segic_jax.config import Config, Hosts


@dataclass
class Train:
    """Train a model from a configuration.

    segic train --config emoji_tiny --workdir DIR [--optim.learning-rate 3e-4 ...]

    --config takes the name of a configuration of this project or the path of a file. Every field of the
    configuration can be overridden. Run the same command again to continue after a stop; the finished model
    is DIR/model.safetensors. On several hosts run the same line on each: SLURM, MPI and TPU pods are
    detected, elsewhere add --coordinator HOST:PORT --num-hosts N --host-id I.
    """

    config: str
    """A name such as emoji_tiny, or the path of a Python file with get_config()."""
    workdir: Path
    """Where checkpoints, the log and the finished model go."""
    hosts: tyro.conf.OmitArgPrefixes[Hosts] = field(default_factory=Hosts)
    overrides: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> "Train":
        """Split off the options of the command; the rest overrides fields of the configuration.

        A wrong option exits with code 2.
        """
        parser = argparse.ArgumentParser(
            prog="segic train",
            usage="segic train --config NAME --workdir DIR [--optim.learning-rate 3e-4 ...]",
            add_help=False,
            allow_abbrev=False,
        )
        parser.add_argument("--config", default="")
        parser.add_argument("--workdir", type=Path)
        parser.add_argument("--coordinator")
        parser.add_argument("--num-hosts", type=int)
        parser.add_argument("--host-id", type=int)
        options, overrides = parser.parse_known_args(arguments)
        if not {"-h", "--help"} & set(overrides) and not (options.config and options.workdir):
            parser.error("--config and --workdir are required.")
        hosts = Hosts(options.coordinator, options.num_hosts, options.host_id)
        command = cls(options.config, options.workdir or Path(), hosts, tuple(overrides))
        _ = command.experiment  # so that a wrong option, or --help, ends here
        return command

    @cached_property
    def experiment(self) -> Config:
        """Load the configuration and apply the overrides; a wrong one exits with code 2."""
        from segic_jax.train.experiment import configure

        return configure(self.config, self.overrides, "segic train", inspect.getdoc(self) or "")

    def run(self) -> int:
        """Train, and return the exit code."""
        from segic_jax.train.run import run

        return run(self.experiment, self.workdir.resolve(), self.hosts)
