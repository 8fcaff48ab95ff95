"""Define `segic plan`: compile the programs of a configuration for an accelerator that is not here."""

import argparse
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Literal

import tyro

from segic_jax.config import Config
from segic_jax.errors import InputError


@dataclass
class Plan:
    """Estimate memory and speed of a configuration on an accelerator, by compiling for it.

    segic plan --config segic_dinov2_l --target v5e:4x4 [--batch-size 64 --program train --json ...]

    --target is v5e:AxB, v6e:AxB, v5p:AxBxC (TPUs) or h100:N. No accelerator is needed or used; a compiler is:
    pip install 'segic_jax[plan]'. The training step is compiled for all devices, prediction for one, as
    `segic predict` runs it. --batch-size gives the pairs of a training step, and with --program predict the
    images of a program. Every field of the configuration can be overridden, as for `segic train`. Large
    models take minutes; with --quick only one and two layers of the backbone are compiled, and the rest is
    extrapolated. The exit code is 1 if a program does not fit into the memory.
    """

    config: str
    """A name such as segic_dinov2_l, or the path of a Python file with get_config()."""
    target: str
    """What to compile for, such as v5e:4x4, v5p:2x2x2 or h100:8."""
    batch_size: int | None = None
    """Pairs of a training step, or images of a prediction with --program predict."""
    program: Literal["train", "predict", "both"] = "both"
    """Which programs to compile."""
    quick: bool = False
    """Compile backbones of one and two layers only, and extrapolate."""
    json: bool = False
    """Print JSON instead of a table."""
    overrides: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> "Plan":
        """Split off the options of the command; the rest overrides fields of the configuration.

        A wrong option exits with code 2.
        """
        parser = argparse.ArgumentParser(
            prog="segic plan",
            usage="segic plan --config NAME --target v5e:4x4 [--batch-size N] [--program train|predict|both] "
            "[--quick] [--json] [--train.remat ...]",
            add_help=False,
            allow_abbrev=False,
        )
        parser.add_argument("--config", default="")
        parser.add_argument("--target", default="")
        parser.add_argument("--batch-size", type=int)
        parser.add_argument("--program", choices=("train", "predict", "both"), default="both")
        parser.add_argument("--quick", action="store_true")
        parser.add_argument("--json", action="store_true")
        options, overrides = parser.parse_known_args(arguments)
        if not {"-h", "--help"} & set(overrides) and not (options.config and options.target):
            parser.error("--config and --target are required.")
        command = cls(**vars(options), overrides=tuple(overrides))
        _ = command.experiment  # so that a wrong option, or --help, ends here
        return command

    @cached_property
    def experiment(self) -> Config:
        """Load the configuration and apply the overrides; a wrong one exits with code 2."""
        from segic_jax.train.experiment import configure

        return configure(self.config, self.overrides, "segic plan", inspect.getdoc(self) or "")

    def run(self) -> int:
        """Compile, print, and return the exit code."""
        from segic_jax.runtime import topology

        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size} must be at least 1.")
        target = topology.parse_target(self.target)
        topology.require_compiler(target)
        config = self.experiment
        topology.start_compilers()
        from segic_jax.inference.engine import ACCELERATOR_ROWS
        from segic_jax.train.plan import Plan as Program
        from segic_jax.train.plan import plan_prediction, plan_training
        from segic_jax.train.plan_quick import quick_plans
        from segic_jax.train.plan_table import table, to_json

        images = ACCELERATOR_ROWS
        if self.program == "predict":
            images = self.batch_size or images
        elif self.batch_size:
            config = replace(config, train=replace(config.train, batch_size=self.batch_size))

        def compile_plans(config: Config) -> list[Program]:
            plans = [plan_training(config, target)] if self.program != "predict" else []
            return plans + (plan_prediction(config, target, images) if self.program != "train" else [])

        plans = quick_plans(config, compile_plans) if self.quick else compile_plans(config)
        print(json.dumps(to_json(plans), indent=1) if self.json else table(plans))
        return 0 if all(plan.fits for plan in plans) else 1
