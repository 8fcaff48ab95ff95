"""Save and restore the checkpoints of a training under `workdir/checkpoints`, one directory per step.

Items: `params` (trained part of the head), `untrained` (its fixed arrays, so that a checkpoint and a
backbone make a model), whatever else the training keeps (`opt_state`, `queue`), and `meta` (configuration,
name and SHA-256 of the backbone, SHA-256 of all arrays).
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from segic_jax.errors import CheckpointError
from segic_jax.runtime import distributed

FOLDER = "checkpoints"
METRIC = "miou"  # what "best" means; higher is better
# Settings that may differ when a training continues: they do not change what a step computes, or (steps) are
# meant to be changed; the backbone may have moved, its hash is checked.
_FREE = {
    "backbone",
    "validations",
    "data.threads",
    "data.workers",
    "train.steps",
    "train.log_every",
    "train.eval_every",
    "train.eval_episodes",
    "train.checkpoint_every",
    "train.tensorboard",
    "train.split_backbone",
    "train.accumulate",
    "train.remat",
    "data.max_unreadable",
}


def fingerprint(params: Mapping[str, jax.Array | np.ndarray]) -> str:
    """Return the SHA-256 of names, shapes and values (as float32), whatever the order of the dictionary."""
    digest = hashlib.sha256()
    for name in sorted(params):
        value = np.ascontiguousarray(np.asarray(params[name]), dtype=np.float32)
        digest.update(f"{name} {value.shape};".encode())
        digest.update(value.data)
    return digest.hexdigest()


Items = Mapping[str, Any]  # name -> pytree of arrays


class Restored(NamedTuple):
    """Hold a checkpoint that was read."""

    step: int
    items: dict[str, Any]
    notes: dict[str, Any]


class Checkpoints:
    """Save and restore; keep the latest two and the one with the best validation score."""

    def __init__(self, workdir: str | os.PathLike):
        """Create `workdir/checkpoints` if needed. A relative path is resolved: orbax would lose the save."""
        self.directory = Path(workdir).resolve() / FOLDER
        self._set_aside(_without_score(self.directory))  # orbax reads all scores at once
        best = BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                best_fn=_score,  # so that a run that continues reads the scores again
                preservation_policy=AnyPreservationPolicy([LatestN(2), best]),
                cleanup_tmp_directories=True,
            ),
        )

    def latest(self) -> int | None:
        """Return the newest step, or None."""
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        items: Items,
        meta: dict,
        score: float | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Start writing (in the background); `score` is the validation mIoU at this step, if measured.

        A step that has been saved before is left as it is.

        Args:
            notes: further state that is needed to continue; JSON.

        Raises:
            CheckpointError: this one, or the one before it, cannot be written.
        """
        if step in self._manager.all_steps():
            return
        scored = score is not None and math.isfinite(score)
        saved = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        content = meta | {"sha256": fingerprint(_named(items)), "notes": dict(notes or {})}
        with self._writing(step):
            self._manager.save(
                step,
                args=ocp.args.Composite(**saved, meta=ocp.args.JsonSave(content)),
                metrics={METRIC: score} if scored else None,
            )

    def restore_latest(self, like: Items, meta: dict) -> "Restored | None":
        """Return the newest intact step; None where there is none at all.

        Damaged newer ones are moved to `workdir/damaged`, and named. All processes decide the same.

        Args:
            like: arrays of the same shapes and types, on the devices where the result is to be.
            meta: what the checkpoint must be of (`check_meta`).

        Raises:
            CheckpointError: it is another training's, or every checkpoint is damaged.
        """
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            restored, problem = self._try(step, like, meta)
            problems = [text for text in distributed.gather_json(problem) if text]
            if not problems:
                if damaged:
                    self._set_aside(damaged)
                    self._manager.reload()
                return restored
            damaged[step] = problems[0]
        if damaged:
            raise CheckpointError(
                f"No checkpoint in {self.directory} can be read ({next(iter(damaged.values()))}): give "
                "another --workdir to start afresh."
            )
        return None

    def _try(self, step: int, like: Items, meta: dict) -> tuple["Restored | None", str]:
        """Return what was saved, or what is wrong with it."""
        arrays = {name: ocp.args.StandardRestore(_like(tree)) for name, tree in like.items()}
        try:
            stored = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
            check_meta(stored, meta, self.directory / str(step))
            items = dict(self._manager.restore(step, args=ocp.args.Composite(**arrays)))
            intact = fingerprint(_named(items)) == stored["sha256"]
            problem = "" if intact else "its arrays are not those that were written"
            return Restored(step, items, stored["notes"]), problem
        except CheckpointError:
            raise
        except Exception as error:  # orbax, tensorstore and JSON have no common error
            return None, f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"

    def _set_aside(self, damaged: Mapping[int, str]) -> None:
        for step, problem in damaged.items():
            place = self.directory.parent / "damaged" / str(step)
            if distributed.is_main_host():
                place.parent.mkdir(exist_ok=True)
                shutil.rmtree(place, ignore_errors=True)
                (self.directory / str(step)).rename(place)
                print(f"The checkpoint of step {step} is damaged ({problem}): moved to {place}.", flush=True)
        distributed.barrier("damaged checkpoints")

    def close(self) -> None:
        """Wait until everything is on disk.

        Raises:
            CheckpointError: the last one cannot be written.
        """
        try:
            with self._writing(self.latest()):
                self._manager.wait_until_finished()
        finally:
            self._manager.close()

    @contextmanager
    def _writing(self, step: int | None) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a full disk arrives as OSError, ValueError or tensorstore's own
            raise CheckpointError(
                f"The checkpoint of step {step} cannot be written to {self.directory} "
                f"({str(error).splitlines()[0][:200]}): earlier ones are kept; make room and run again."
            ) from error


def _without_score(directory: Path) -> dict[int, str]:
    """Return the steps whose score cannot be read, and why."""
    problems = {}
    for path in directory.glob("*/metrics/metrics"):
        try:
            json.loads(path.read_bytes())[METRIC]
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems[int(path.parts[-3])] = f"its score: {type(error).__name__}"
    return problems if distributed.is_main_host() else {}


def _named(items: Items) -> dict[str, jax.Array]:
    """Return every array of all items by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(dict(items))
    return {jax.tree_util.keystr(path): value for path, value in leaves}


def _like(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def check_meta(stored: dict, expected: dict, where: Path) -> None:
    """Refuse to continue with another experiment than the one that wrote the checkpoint.

    Raises:
        CheckpointError: naming the first setting that differs, or the backbone.
    """
    if stored["backbone"]["sha256"] != expected["backbone"]["sha256"]:
        raise CheckpointError(
            f"{where} was trained on the backbone {stored['backbone']['name']} "
            f"(SHA-256 {stored['backbone']['sha256'][:12]}), but {expected['backbone']['name']} "
            f"({expected['backbone']['sha256'][:12]}) was given: use that backbone or another --workdir."
        )
    # Through JSON, so that tuples and lists compare equal.
    old, new = _flat(stored["config"]), _flat(json.loads(json.dumps(expected["config"])))
    for name in sorted(old.keys() | new.keys()):
        free = name in _FREE or name.split(".")[0] in _FREE
        if not free and old.get(name) != new.get(name):
            raise CheckpointError(
                f"{where} was trained with {name} = {old.get(name)}, but it is {new.get(name)} now: "
                "set it back, or give another --workdir to start afresh."
            )


def _flat(values: dict, prefix: str = "") -> dict:
    """Return settings by their path; folders of data are left out, for they may move."""
    flat = {}
    for name, value in values.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = {str(i): item for i, item in enumerate(value)}
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif name != "root":
            flat[prefix + name] = value
    return flat


def load_head(workdir: str | os.PathLike, *, best: bool = False) -> tuple[dict[str, np.ndarray], dict]:
    """Return the head (trained and untrained arrays) and the meta item of the latest or the best step.

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
