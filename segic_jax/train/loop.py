"""Train the head in a loop: from batches to parameters, with a log and checkpoints.

A training is a function of (config, seed, step): stopped at any step and started again with the same work
directory, it gives the same bits as one without a stop.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from segic_jax.config import Config, to_dict
from segic_jax.data.pairs import PairSource
from segic_jax.data.pipeline import training_batches
from segic_jax.errors import TrainingError
from segic_jax.models.backbones import backbone_template
from segic_jax.models.head import head_template
from segic_jax.models.params import Params, check, place
from segic_jax.runtime import distributed
from segic_jax.train.checkpoint import METRIC, Checkpoints, fingerprint
from segic_jax.train.flops import flops_of
from segic_jax.train.forward import SEGIC, Prompting
from segic_jax.train.log import TrainingLog
from segic_jax.train.optim import learning_rate, make_optimizer, trainable_names
from segic_jax.train.step import Frozen, State, check_batch, init_state, make_train_step


@runtime_checkable
class Validation(Protocol):
    """Validate the head every `train.eval_every` steps."""

    def scores(self, head: Params) -> Mapping[str, float]:
        """Return scores by name, `miou` among them; every host calls it."""
        ...

    def draw(self, head: Params, workdir: Path, step: int) -> None:
        """Draw some predictions; the main host calls it."""
        ...


@dataclass(frozen=True)
class Parts:
    """Hold what a training needs beside its configuration."""

    source: PairSource  # training pairs
    backbone: Params  # frozen weights of `config.model.backbone`, in any precision
    text: Mapping[str, np.ndarray]  # prompt -> feature [text_width]; the empty prompt "" is always among them
    head: Params | None = None  # to start from; None: fresh
    validation: Validation | None = None  # every `config.train.eval_every` steps and at the end
    prompting: Prompting = SEGIC


@dataclass(frozen=True)
class Outcome:
    """Hold the result of a call of `train`."""

    head: Params  # all parameters of the head, as numpy arrays
    step: int
    finished: bool  # False when it was asked to stop before the last step
    trained: bool  # False when no step was left to do


def train(config: Config, workdir: Path, parts: Parts) -> Outcome:
    """Train the head from the latest checkpoint of `workdir`, or from the start.

    SIGTERM or Ctrl-C saves a checkpoint and returns.

    Raises:
        ConfigError, ParamsError: the parts do not fit each other or the devices.
        CheckpointError: `workdir` holds another experiment, or the disk is full.
        DataError: the data cannot be used.
        TrainingError: the loss or the gradient is not finite, or too many images cannot be read.
    """
    mesh = distributed.make_mesh()
    settings = config.train
    check_batch(settings, mesh.size)
    check(parts.backbone, backbone_template(config.model.backbone).shapes, "backbone parameters")
    head = head_template(config.model).init(settings.seed) if parts.head is None else parts.head
    check(head, head_template(config.model).shapes, "head parameters")
    prompts = {prompt: row for row, prompt in enumerate(sorted(parts.text))}
    table = np.stack([parts.text[prompt] for prompt in prompts]).astype(np.float32)

    trainable = set(trainable_names(head, score=config.data.negative > 0))
    params = distributed.replicate(mesh, {name: head[name] for name in head if name in trainable})
    untrained = distributed.replicate(mesh, {name: head[name] for name in head if name not in trainable})
    optimizer = make_optimizer(config.optim, settings.steps)
    state = init_state(config, optimizer, params, len(prompts), mesh)

    checkpoints = Checkpoints(workdir)
    meta = {
        "config": to_dict(config),
        "backbone": {"name": config.backbone, "sha256": fingerprint(parts.backbone)},
    }
    start, unreadable = 0, 0
    if restored := checkpoints.restore_latest(_items(state, untrained), meta):
        start, unreadable = restored.step, restored.notes["unreadable"]
        untrained = restored.items.pop("untrained")
        state = state | restored.items | {"step": distributed.replicate(mesh, np.int32(start))}

    frozen = Frozen(
        backbone=_place_backbone(config, mesh, parts.backbone),
        untrained=untrained,
        text_table=distributed.replicate(mesh, table),
    )
    log = TrainingLog(settings, workdir, start=start)
    batches = training_batches(
        parts.source,
        config.data,
        canvas=config.model.canvas,
        prompts=prompts,
        seed=settings.seed,
        global_batch=settings.batch_size,
        start_step=start,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )
    rate = learning_rate(config.optim, settings.steps)
    stop = distributed.StopRequest()

    def current_head() -> Params:
        return jax.device_get({**state["params"], **untrained})

    def validate(validation: Validation, step: int) -> float:
        head = current_head()
        scores = validation.scores(head)
        log.validation(step, scores)
        if distributed.is_main_host():
            validation.draw(head, workdir, step)
        return float(scores[METRIC])

    def due(step: int) -> Validation | None:
        return parts.validation if step % settings.eval_every == 0 or step == settings.steps else None

    step, stopping = start, False
    pending: list[tuple[int, dict]] = []  # metrics on the device since the last line of the log
    try:
        if start and (validation := due(start)) and not log.validated(start):
            validate(validation, start)  # the run was stopped before it could
        train_step, batch = None, {}
        while step < settings.steps and not stopping:
            if train_step is None:
                batch = distributed.shard_batch(mesh, next(batches))
                with jax.set_mesh(mesh):  # kernels split their rows over it
                    step_function = make_train_step(config, optimizer, mesh, prompting=parts.prompting)
                    traced = step_function.trace(state, frozen, batch)
                train_step = traced.lower().compile()  # one program: another shape of batch is an error
                log.begin(*(flops_of(traced.jaxpr.jaxpr, trips) for trips in (0, 1)))
            state, metrics = train_step(state, frozen, batch)
            step += 1
            pending.append((step, metrics))
            # The host makes the next batch while the devices compute.
            with log.waiting():
                rows = next(batches)
            batch = distributed.shard_batch(mesh, rows)
            if len(pending) > 1:
                _check_finite(pending[-2], settings.batch_size, checkpoints)  # at most one step is in flight
            log.stepped()

            stopping = stop.reached(step)
            validation = due(step)
            last = step == settings.steps
            saving = bool(validation) or stopping or last or step % settings.checkpoint_every == 0
            if step % settings.log_every == 0 or saving:
                _check_finite(pending[-1], settings.batch_size, checkpoints)
                values = jax.device_get([values for _, values in pending])
                unreadable += sum(int(step_values.pop("unreadable")) for step_values in values)
                log.steps(step, values, learning_rate=float(rate(step - 1)), unreadable=unreadable)
                pending = []
            if saving:
                # A training that is stopped has no time to validate; the next start does it.
                score = validate(validation, step) if validation and not stopping else None
                notes = {"unreadable": unreadable}
                checkpoints.save(step, _items(state, untrained), meta, score, notes)
                log.restart_clock()
            if unreadable > config.data.max_unreadable:
                raise TrainingError(
                    f"{unreadable} pairs could not be read up to step {step}, more than "
                    f"data.max_unreadable {config.data.max_unreadable}: the messages above name the files; "
                    "fix them, or allow more."
                )
    finally:
        batches.close()
        stop.close()
        log.close()
        checkpoints.close()
    if stopping and distributed.is_main_host():
        print(f"Stopped and saved after step {step}; run the same command again to continue.")
    return Outcome(
        head=current_head(), step=step, finished=step >= settings.steps and not stopping, trained=step > start
    )


def _items(state: State, untrained: Params) -> dict:
    """Return what a checkpoint holds; the step is its name."""
    items = {"params": state["params"], "untrained": untrained, "opt_state": state["opt_state"]}
    return items | ({"queue": state["queue"]} if state["queue"] else {})


def _place_backbone(config: Config, mesh: jax.sharding.Mesh, backbone: Params) -> Params:
    """Place the backbone in bfloat16 on accelerators, in float32 on CPUs, where bfloat16 is rarely fast."""
    dtype = np.float32 if mesh.devices.flat[0].platform == "cpu" else jnp.bfloat16
    split = config.train.split_backbone
    return place(backbone, dtype, partial(distributed.shard if split else distributed.replicate, mesh))


def _check_finite(measured: tuple[int, dict], batch_size: int, checkpoints: Checkpoints) -> None:
    step, metrics = measured
    for name in ("loss", "grad_norm"):
        value = float(metrics[name])
        if not math.isfinite(value):
            latest = checkpoints.latest()
            kept = f"the checkpoint of step {latest} is the last good one" if latest else None
            raise TrainingError(
                f"The {name} of step {step} (pairs {(step - 1) * batch_size} to {step * batch_size - 1}) is "
                f"{value}, so the training stops; {kept or 'no checkpoint was written'}. "
                "Lower optim.learning_rate, or look for images or weights that are not finite."
            )
