"""Replay a folder of goldens, arrays that the official code computed, through this project."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax

from segic_jax.errors import GoldensError, InputError, MissingArray
from segic_jax.parity.checker import Checker, Row, format_rows
from segic_jax.parity.golden_files import Goldens
from segic_jax.parity.replays.inference import replay_inference, replay_semseg
from segic_jax.parity.replays.modules import (
    replay_backbone,
    replay_checkpoint,
    replay_prompt_decoder,
    replay_text,
)
from segic_jax.parity.replays.preprocess_and_metrics import replay_metrics, replay_preprocess
from segic_jax.parity.replays.training import replay_losses, replay_optim, replay_training
from segic_jax.parity.replays.video import replay_vos
from segic_jax.runtime.atomic_write import atomic_write

CHECKPOINT = "segic_official"  # has no .npz, and no other file needs it: it is checked if it is present
# A replay reads one file of the format, and hands a Checker what this project computes from its inputs. The
# last argument is the precision of the frozen encoders.
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
class Outcome:
    """Collect what the replays of some files found."""

    rows: list[Row] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)  # arrays that are not in the format
    notes: list[str] = field(default_factory=list)  # remarks that the reader of the rows needs
    problems: list[str] = field(default_factory=list)  # one sentence for each file that cannot be replayed

    @property
    def passed(self) -> bool:
        """Return whether every array of the format is present and within its tolerance."""
        return bool(self.rows) and not self.problems and all(row.passed for row in self.rows)


def replay_goldens(
    folder: Path, only: Sequence[str] = (), report: Path | None = None, dtype: str = "float32"
) -> int:
    """Replay the files of a folder, and print a table with a row for each array.

    Args:
        folder: .npz and .safetensors files in the format of the README among them.
        only: the files to replay, without suffix; all files of the format if empty.
        report: a JSON file to write the rows to.
        dtype: the precision of the frozen encoders.

    Returns:
        An exit code: 0 if every array of the format is present and within its tolerance, 1 if not, 2 if a
        file cannot be read.

    Raises:
        GoldensError: the folder has no goldens, or `only` has an unknown name.
    """
    unknown = [name for name in only if name not in REPLAYS]
    if unknown:
        raise GoldensError(f"--only {' '.join(unknown)}: the files of the format are {', '.join(REPLAYS)}.")
    jax.config.update("jax_default_matmul_precision", "highest")  # accelerators round by default
    goldens, outcome = Goldens(folder), Outcome()
    for name in only or REPLAYS:
        start = time.perf_counter()
        _replay(name, goldens, outcome, dtype, requested=name in only)
        print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
    print(format_rows(outcome.rows))
    failed = sum(not row.passed for row in outcome.rows)
    print(f"{len(outcome.rows)} arrays, {len(outcome.rows) - failed} passed, {failed} failed")
    if outcome.unknown:
        print(f"not in the format, and not read: {', '.join(outcome.unknown)}")
    if dtype != "float32":
        print(f"The frozen encoders ran in {dtype}; the tolerances are those of float32.")
    for note in outcome.notes:
        print(note)
    for problem in outcome.problems:
        print(problem, file=sys.stderr)
    if report:
        rows = [row.to_json() for row in outcome.rows]
        content = {"passed": outcome.passed, "rows": rows, "notes": outcome.notes}
        atomic_write(report, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return 2 if outcome.problems else 0 if outcome.passed else 1


def _replay(name: str, goldens: Goldens, outcome: Outcome, dtype: str, requested: bool) -> None:
    """Add the rows of one file to `outcome`.

    A file that is missing fails, unless it is the optional checkpoint. If it was requested by name, its
    absence is a problem as well.
    """
    check = Checker(name, {})
    if not requested:
        if name == CHECKPOINT and not goldens.has_weights(name):
            return
        if name != CHECKPOINT and name not in goldens.names:
            check.fail("the whole file")
            outcome.rows += check.rows
            return
    try:
        if name != CHECKPOINT:
            check = Checker(name, goldens.arrays(name))
        REPLAYS[name](goldens, check, dtype)
        outcome.unknown += [f"{name} {array}" for array in check.unread]
    except MissingArray:
        _fail_unread(check)
    except InputError as error:
        outcome.problems.append(f"{name}: {error}")
        _fail_unread(check)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        # Arrays of a wrong shape make numpy and JAX raise various errors.
        first_line = str(error).partition("\n")[0]
        outcome.problems.append(
            f"{goldens.folder / name}.npz does not have the format's shapes: {first_line}"
        )
        _fail_unread(check)
    outcome.rows += check.rows
    outcome.notes += [f"{name}: {note}" for note in check.notes]


def _fail_unread(check: Checker) -> None:
    """Add failed rows for the arrays that the replay did not reach."""
    for array in check.unread:
        if not array.startswith("in."):
            check.fail(array)
    if all(row.passed for row in check.rows):
        check.fail("the whole file")
