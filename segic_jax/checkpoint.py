"""Checkpoints of a training run under `workdir/checkpoints`, one directory a step.

Items: `params` (trained part of the head), `untrained` (its fixed arrays, so that a checkpoint and a
backbone make a model), `opt_state`, and `meta` (configuration, name and SHA-256 of the backbone).
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from segic_jax.config import InputError
from segic_jax.params import Params

FOLDER = "checkpoints"
METRIC = "miou"  # what "best" means; higher is better
# Settings that may change when a run goes on: they do not change what a step computes, or (steps) are
# meant to be changed; the backbone may have moved, its hash is checked.
_FREE = {
    "backbone",
    "validation",
    "data.threads",
    "data.workers",
    "train.steps",
    "train.log_every",
    "train.eval_every",
    "train.eval_episodes",
    "train.checkpoint_every",
    "train.tensorboard",
    "train.split_backbone",
}


class CheckpointError(InputError):
    """A checkpoint that cannot be used here; the message says which and why."""


def fingerprint(params: Mapping[str, jax.Array]) -> str:
    """SHA-256 of names, shapes and values (as float32), in any order of the dictionary."""
    digest = hashlib.sha256()
    for name in sorted(params):
        value = np.ascontiguousarray(np.asarray(params[name]), dtype=np.float32)
        digest.update(f"{name} {value.shape};".encode())
        digest.update(value.data)
    return digest.hexdigest()


class Checkpoints:
    """Saves and restores; keeps the latest two and the one with the best validation score."""

    def __init__(self, workdir: str | os.PathLike):
        """Creates `workdir/checkpoints` if needed. A relative path is resolved: orbax would lose the save."""
        self.directory = Path(workdir).resolve() / FOLDER
        best = BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                best_fn=_score,  # so that the scores are read again when a run goes on
                preservation_policy=AnyPreservationPolicy([LatestN(2), best]),
                cleanup_tmp_directories=True,
            ),
        )

    def latest(self) -> int | None:
        """The newest step, or None."""
        return self._manager.latest_step()

    def save(
        self, step: int, params: Params, untrained: Params, opt_state, meta: dict, score: float | None
    ) -> None:
        """Start writing (in the background); `score` is the validation mIoU at this step, if measured.

        A step that is already there is left as it is.
        """
        if step in self._manager.all_steps():
            return
        scored = score is not None and math.isfinite(score)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(params),
                untrained=ocp.args.StandardSave(untrained),
                opt_state=ocp.args.StandardSave(opt_state),
                meta=ocp.args.JsonSave(meta),
            ),
            metrics={METRIC: score} if scored else None,
        )

    def meta(self, step: int) -> dict:
        """Configuration and backbone of the run."""
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def restore(
        self, step: int, params: Params, untrained: Params, opt_state
    ) -> tuple[Params, Params, object]:
        """Arrays like the given ones (shapes, types, shardings), with the values saved at `step`."""
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(_like(params)),
                untrained=ocp.args.StandardRestore(_like(untrained)),
                opt_state=ocp.args.StandardRestore(_like(opt_state)),
            ),
        )
        return restored["params"], restored["untrained"], restored["opt_state"]

    def close(self) -> None:
        """Wait until everything is on disk."""
        self._manager.close()


def _like(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def check_meta(found: dict, expected: dict, where: Path) -> None:
    """Refuse to go on with another experiment than the one that wrote the checkpoint.

    Raises:
        CheckpointError: naming the first setting that differs, or the backbone.
    """
    if found["backbone"]["sha256"] != expected["backbone"]["sha256"]:
        raise CheckpointError(
            f"{where} was trained on the backbone {found['backbone']['name']} "
            f"(SHA-256 {found['backbone']['sha256'][:12]}), but {expected['backbone']['name']} "
            f"({expected['backbone']['sha256'][:12]}) was given: use that backbone or another --workdir."
        )
    # Through JSON, so that tuples and lists compare equal.
    old, new = _flat(found["config"]), _flat(json.loads(json.dumps(expected["config"])))
    for name in sorted((old.keys() | new.keys()) - _FREE):
        if old.get(name) != new.get(name):
            raise CheckpointError(
                f"{where} was trained with {name} = {old.get(name)}, but it is {new.get(name)} now: "
                "set it back, or give another --workdir to start afresh."
            )


def _flat(values: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def load_head(workdir: str | os.PathLike, *, best: bool = False) -> tuple[dict[str, np.ndarray], dict]:
    """The whole head (trained and untrained arrays) and the meta item, from the latest or the best step.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    directory = Path(workdir).resolve() / FOLDER
    if not directory.is_dir():
        raise CheckpointError(
            f"There is no checkpoint in {directory.parent}: give the --workdir of a training."
        )
    options = ocp.CheckpointManagerOptions(best_fn=_score, read_only=True)
    trees = {name: ocp.PyTreeCheckpointHandler() for name in ("params", "untrained")}
    handlers = trees | {"meta": ocp.JsonCheckpointHandler()}
    with ocp.CheckpointManager(directory, item_handlers=handlers, options=options) as manager:
        if not manager.all_steps():
            raise CheckpointError(f"There is no checkpoint in {directory} yet.")
        step = max(manager.all_steps())
        if best and manager.best_step() is not None:
            step = manager.best_step()
        shapes = manager.item_metadata(step)
        # As numpy, whatever devices it was trained on.
        restored = manager.restore(
            step,
            args=ocp.args.Composite(
                params=_as_numpy(shapes["params"]),
                untrained=_as_numpy(shapes["untrained"]),
                meta=ocp.args.JsonRestore(),
            ),
        )
    return {**restored["params"], **restored["untrained"]}, restored["meta"]


def _as_numpy(shapes) -> ocp.args.PyTreeRestore:
    return ocp.args.PyTreeRestore(
        restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), dict(shapes))
    )


def _score(metrics: dict[str, float]) -> float:
    return metrics[METRIC]
