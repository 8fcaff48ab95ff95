"""`python -m segic_jax.parity DIR`: replay a folder of goldens through the production code; prints a table.

The format is that of the README in such a folder. Exit code 0: every array of the format is there and within
its tolerance; 1: some array is not; 2: something could not be read, or the arguments are wrong.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import jax
import tyro

from segic_jax.errors import GoldensError, InputError
from segic_jax.parity.data import replay_preprocess
from segic_jax.parity.decoder import replay_prompt_decoder
from segic_jax.parity.encoders import replay_backbone, replay_text
from segic_jax.parity.goldens import Goldens
from segic_jax.parity.inference import replay_inference, replay_semseg
from segic_jax.parity.metrics import replay_metrics
from segic_jax.parity.official import replay_checkpoint
from segic_jax.parity.table import Checker, MissingArray, Row, text_table
from segic_jax.parity.training import replay_losses, replay_optim, replay_training
from segic_jax.parity.video import replay_vos
from segic_jax.runtime.command_line import run_command

CHECKPOINT = "segic_official"  # no .npz, and not needed by any other file: checked where it is there
REPLAYS: dict[str, Callable[[Goldens, Checker, jax.typing.DTypeLike], None]] = {
    "backbone_mlp": replay_backbone,
    "backbone_reg": replay_backbone,
    "backbone_swiglu": replay_backbone,
    "backbone_swiglu_reg": replay_backbone,
    "text": replay_text,
    "prompt_decoder": replay_prompt_decoder,
    "segic_infer_semantic": replay_inference,
    "segic_infer_instances": replay_inference,
    "segic_infer_empty_reference": replay_inference,
    "segic_train_ragged": replay_training,
    "loss_masks": replay_losses,
    "segic_vos": replay_vos,
    "segic_semseg": replay_semseg,
    "preprocess": replay_preprocess,
    "metrics": replay_metrics,
    "optim": replay_optim,
    CHECKPOINT: replay_checkpoint,
}


@dataclass
class Arguments:
    """Replay a folder of goldens of the official code through this project."""

    folder: tyro.conf.Positional[Path]
    """A folder of .npz and .safetensors files; the README in it is the format."""
    only: tuple[str, ...] = ()
    """Files to replay, without their ending; all of the format otherwise."""
    json: Path | None = None
    """File for the rows as JSON."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the frozen encoders. No tolerance is defined for bfloat16: it is a measurement."""


@dataclass
class Outcome:
    """Of any number of files."""

    rows: list[Row] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)  # arrays that the format does not have
    notes: list[str] = field(default_factory=list)  # what a reader of the rows must know
    problems: list[str] = field(default_factory=list)  # files that could not be replayed, a sentence each

    @property
    def passed(self) -> bool:
        """Every array of the format is there and within its tolerance."""
        return bool(self.rows) and not self.problems and all(row.passed for row in self.rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program; the exit codes are those of the module's docstring."""
    options = tyro.cli(Arguments, prog="python -m segic_jax.parity", args=arguments)
    sys.exit(run_command(lambda: run(options)))


def run(options: Arguments) -> int:
    """Replay, print, write; returns the exit code.

    Raises:
        GoldensError: no folder with goldens, or an unknown name in `only`.
    """
    unknown = [name for name in options.only if name not in REPLAYS]
    if unknown:
        raise GoldensError(f"--only {' '.join(unknown)}: the files of the format are {', '.join(REPLAYS)}.")
    jax.config.update("jax_default_matmul_precision", "highest")  # accelerators round products otherwise
    golden, outcome = Goldens(options.folder), Outcome()
    for name in options.only or REPLAYS:
        begin = time.perf_counter()
        _replay(name, golden, outcome, options)
        print(f"{name}: {time.perf_counter() - begin:.1f} s", file=sys.stderr)
    print(text_table(outcome.rows))
    failed = sum(not row.passed for row in outcome.rows)
    print(f"{len(outcome.rows)} arrays, {len(outcome.rows) - failed} passed, {failed} failed")
    if outcome.unknown:
        print(f"not in the format, and not read: {', '.join(outcome.unknown)}")
    if options.dtype != "float32":
        print(f"The frozen encoders ran in {options.dtype}; the tolerances are those of float32.")
    for note in outcome.notes:
        print(note)
    for problem in outcome.problems:
        print(problem, file=sys.stderr)
    if options.json:
        rows = [row.to_json() for row in outcome.rows]
        report = {"passed": outcome.passed, "rows": rows, "notes": outcome.notes}
        options.json.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", "utf-8")
    return 2 if outcome.problems else 0 if outcome.passed else 1


def _replay(name: str, golden: Goldens, outcome: Outcome, options: Arguments) -> None:
    """Add the rows of one file to `outcome`."""
    asked = name in options.only
    if name == CHECKPOINT and not (asked or golden.has_weights(name)):
        return
    if name != CHECKPOINT and name not in golden.names and not asked:
        outcome.rows.append(Row(name, "the whole file", float("nan"), 0.0, False))
        return
    check = Checker(name, {})
    try:
        if name != CHECKPOINT:
            check = Checker(name, golden.arrays(name))
        REPLAYS[name](golden, check, options.dtype)
        outcome.unknown += [f"{name} {array}" for array in check.unread]
    except MissingArray:
        _fail_the_rest(check)
    except InputError as error:
        outcome.problems.append(f"{name}: {error}")
        _fail_the_rest(check)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        # A shape that is not the format's stops numpy and jax in many ways.
        first_line = str(error).partition("\n")[0]
        outcome.problems.append(f"{golden.folder / name}.npz does not have the format's shapes: {first_line}")
        _fail_the_rest(check)
    outcome.rows += check.rows
    outcome.notes += [f"{name}: {note}" for note in check.notes]


def _fail_the_rest(check: Checker) -> None:
    """Rows for what the replay did not reach."""
    for array in check.unread:
        if not array.startswith("in."):
            check.fail(array)
    if all(row.passed for row in check.rows):
        check.fail("the whole file")


if __name__ == "__main__":
    main()
