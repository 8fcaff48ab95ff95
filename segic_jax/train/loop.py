"""The training loop: batches in, the head's parameters out; `metrics.jsonl` and checkpoints on the way.

A training is a function of (config, seed, step): stopped at any step and started again with the same
work directory, it gives the same bits as one that ran through.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from segic_jax import distributed
from segic_jax.checkpoint import METRIC, Checkpoints, check_meta, fingerprint
from segic_jax.config import Config, ConfigError, to_dict
from segic_jax.data.episodes import PairSource
from segic_jax.data.pipeline import training_batches
from segic_jax.metric_writer import MetricWriter
from segic_jax.models.segic import backbone_template, head_template
from segic_jax.params import Params, check
from segic_jax.train.optim import learning_rate, make_optimizer, trainable_names
from segic_jax.train.step import Frozen, init_state, make_train_step

Evaluate = Callable[[Params], Mapping[str, float]]  # whole head -> scores, "miou" among them


class TrainingError(RuntimeError):
    """The training cannot go on; the message says why and what is kept."""


@dataclass(frozen=True)
class Parts:
    """What a training is made of, beside its configuration."""

    source: PairSource  # training pairs
    backbone: Params  # frozen weights of `config.model.vit`, float32
    text: Mapping[str, np.ndarray]  # prompt -> feature [text_width]; the empty prompt "" is always there
    head: Params | None = None  # to start from; None: fresh
    evaluate: Evaluate | None = None  # called every `config.train.eval_every` steps and at the end


@dataclass(frozen=True)
class Outcome:
    """What a call of `train` ended with."""

    head: Params  # all parameters of the head, as numpy arrays
    step: int
    finished: bool  # False when it was asked to stop before the last step


def train(config: Config, workdir: Path, parts: Parts) -> Outcome:
    """Train the head from the latest checkpoint of `workdir`, or from the start.

    SIGTERM or Ctrl-C saves and returns.

    Raises:
        ConfigError, ParamsError: the parts do not fit each other.
        CheckpointError: `workdir` holds another experiment.
        TrainingError: the loss or the gradient is not finite.
    """
    mesh = distributed.make_mesh()
    settings = config.train
    if settings.batch_size % mesh.size:
        raise ConfigError(
            f"train.batch_size {settings.batch_size} must be divisible by the number of devices, {mesh.size}."
        )
    check(parts.backbone, backbone_template(config.model.vit).shapes, "backbone parameters")
    head = head_template(config.model).init(settings.seed) if parts.head is None else parts.head
    check(head, head_template(config.model).shapes, "head parameters")
    meta = {
        "config": to_dict(config),
        "backbone": {"name": config.backbone, "sha256": fingerprint(parts.backbone)},
    }

    trainable = set(trainable_names(head))
    params = distributed.replicate(mesh, {name: head[name] for name in head if name in trainable})
    untrained = distributed.replicate(mesh, {name: head[name] for name in head if name not in trainable})
    optimizer = make_optimizer(config.optim, settings.steps)
    state = init_state(optimizer, params, mesh)

    checkpoints = Checkpoints(workdir)
    start = checkpoints.latest() or 0
    if start:
        check_meta(checkpoints.meta(start), meta, checkpoints.directory / str(start))
        params, untrained, opt_state = checkpoints.restore(start, params, untrained, state["opt_state"])
        step = distributed.replicate(mesh, np.int32(start))
        state = {"step": step, "params": params, "opt_state": opt_state}

    prompts = {prompt: row for row, prompt in enumerate(sorted(parts.text))}
    table = np.stack([parts.text[prompt] for prompt in prompts]).astype(np.float32)
    frozen = Frozen(
        backbone=_place_backbone(config, mesh, parts.backbone),
        untrained=untrained,
        text_table=distributed.replicate(mesh, table),
    )
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
    train_step = make_train_step(config, optimizer, mesh)
    rate = learning_rate(config.optim, settings.steps)
    log = _Log(config, workdir, start) if distributed.is_main() else None
    stop = distributed.StopRequest()

    def whole_head() -> Params:
        return jax.device_get({**state["params"], **untrained})

    step, stopping = start, False
    pending: list[tuple[int, dict]] = []  # metrics on the device since the last line of the log
    try:
        batch = distributed.shard_batch(mesh, next(batches))
        while step < settings.steps and not stopping:
            state, metrics = train_step(state, frozen, batch)
            step += 1
            if log and step == start + 1:
                log.restart_clock()  # leave out the compilation
            pending.append((step, metrics))
            # The host makes the next batch while the devices compute.
            batch = distributed.shard_batch(mesh, next(batches))
            if len(pending) > 1:
                _check_finite(pending[-2], checkpoints)  # waits, so that at most one step is in flight

            last = step == settings.steps
            stopping = stop.reached(step)
            evaluating = parts.evaluate is not None and (step % settings.eval_every == 0 or last)
            saving = evaluating or stopping or last or step % settings.checkpoint_every == 0
            if step % settings.log_every == 0 or saving:
                _check_finite(pending[-1], checkpoints)
                if log:
                    log.steps(step, jax.device_get([values for _, values in pending]), float(rate(step - 1)))
                pending = []
            score = None
            if parts.evaluate is not None and evaluating and not stopping:
                scores = parts.evaluate(whole_head())
                score = float(scores[METRIC])
                if log:
                    log.validation(step, scores)
            if saving:
                checkpoints.save(step, state["params"], untrained, state["opt_state"], meta, score)
                if log:
                    log.restart_clock()
    finally:
        checkpoints.close()
        batches.close()
        stop.close()
        if log:
            log.close()
    if stopping and log:
        print(f"Stopped and saved after step {step}; run again with the same arguments to go on.")
    return Outcome(head=whole_head(), step=step, finished=step >= settings.steps)


def _place_backbone(config: Config, mesh: jax.sharding.Mesh, backbone: Params) -> Params:
    """Half precision on accelerators, float32 on a CPU (which has no fast bfloat16)."""
    dtype = np.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    backbone = {name: np.asarray(value, dtype) for name, value in backbone.items()}
    place = distributed.split_parameters if config.train.split_backbone else distributed.replicate
    return place(mesh, backbone)


def _check_finite(measured: tuple[int, dict], checkpoints: Checkpoints) -> None:
    step, metrics = measured
    for name in ("loss", "grad_norm"):
        value = float(metrics[name])
        if not math.isfinite(value):
            kept = checkpoints.latest()
            kept = (
                f"the checkpoint of step {kept} is the last good one" if kept else "no checkpoint was written"
            )
            raise TrainingError(
                f"The {name} of step {step} is {value}, so the training stops; {kept}. "
                "Lower optim.learning_rate, or look for pictures or weights that are not finite."
            )


class _Log:
    """One line of text and one of JSON for each report."""

    def __init__(self, config: Config, workdir: Path, start: int):
        self._config = config.train
        self._writer = MetricWriter(workdir, start_step=start, tensorboard=config.train.tensorboard)
        self._from = start
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave out the time since the last report (validation, writing)."""
        self._since = time.monotonic()

    def steps(self, step: int, metrics: list[dict[str, np.ndarray]], rate: float) -> None:
        """Means over the steps since the last report."""
        means = {name: float(np.mean([values[name] for values in metrics])) for name in metrics[0]}
        per_second = (step - self._from) / max(time.monotonic() - self._since, 1e-9)
        self._from = step
        self.restart_clock()
        pairs = per_second * self._config.batch_size
        self._writer.write(
            step,
            {**means, "learning_rate": rate, "steps_per_second": per_second, "pairs_per_second": pairs},
        )
        left = timedelta(seconds=round((self._config.steps - step) / per_second))
        print(
            f"step {step}/{self._config.steps}  loss {means['loss']:.4f}  "
            f"learning rate {rate:.1e}  {per_second:.2f} steps/s  {pairs:.1f} pairs/s  {left} left",
            flush=True,
        )

    def validation(self, step: int, scores: Mapping[str, float]) -> None:
        """Scores of the validation."""
        self._writer.write(step, {f"validation/{name}": value for name, value in scores.items()})
        print(f"step {step}/{self._config.steps}  validation mIoU {scores[METRIC]:.4f}", flush=True)

    def close(self) -> None:
        """End the log file."""
        self._writer.close()
