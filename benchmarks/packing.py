"""Measure how much faster a training step is when it decodes only the concept slots that are used.

    python -m benchmarks.packing
    python -m benchmarks.packing --curve 200 --batch-size 4

Runs the same batches through the step as it is and through one that decodes every slot at once, in turn, with
random weights, and prints the median times and their ratio. Targets that are not here are compiled for by
`segic plan`. With `--curve`, the head is also trained in both forms on the backbone of the model in the
package, and the two loss curves are compared; `segic runs plot` draws them.
"""

import json
import shutil
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.training import step_and_arguments
from segic_jax.config import EMPTY_PROMPT, Config
from segic_jax.data.pipeline import training_batches
from segic_jax.data.training_sources import open_pairs
from segic_jax.runtime import distributed
from segic_jax.runtime.metric_writer import read_metrics
from segic_jax.train import step
from segic_jax.train.experiment import load_config
from segic_jax.train.forward import SEGIC, train_forward
from segic_jax.train.loop import Parts, train
from segic_jax.train.losses import train_loss
from segic_jax.train.packing import CHUNK, PackedLoss
from segic_jax.weights.bundle import load_bundle
from segic_jax.weights.fetch import find


@dataclass
class Args:
    config: str = "emoji_tiny"
    """Training configuration with one source whose pairs need no class names."""
    steps: int = 20
    """Timed steps of each form, after two that are not."""
    batch_size: int | None = None
    """Pairs of a step; the configuration's by default."""
    curve: int = 0
    """Steps of the trainings whose loss curves are compared; the configuration's model is the package's."""
    out: Path = Path("outputs/packing")
    """Folder for the work directories of these trainings; the new ones replace those in it."""


def main(args: Args) -> None:
    """Measure and print."""
    config = load_config(args.config)
    config = replace(
        config, train=replace(config.train, batch_size=args.batch_size or config.train.batch_size)
    )
    if args.steps:
        print_times(config, args.steps)
    if args.curve:
        print_curves(config, args.curve, args.out)


def print_times(config: Config, steps: int) -> None:
    """Time both forms in turn."""
    batches = _batches(config, steps + 2)
    used = [int(batch["valid"].sum()) for batch in batches[2:]]
    runs = {name: _run(config, function) for name, function in FORMS.items()}
    seconds = {name: [] for name in FORMS}
    for batch in batches:
        for name, run in runs.items():
            seconds[name].append(run(batch))
    medians = {name: float(np.median(values[2:])) for name, values in seconds.items()}
    for name, value in medians.items():
        print(f"{name:<11} {value:.3f} s a step")
    slots = config.train.batch_size * config.data.max_concepts
    print(f"{np.mean(used):.1f} of {slots} slots are used, {CHUNK} at a time.")
    print(json.dumps({"ratio": round(medians["every slot"] / medians["packed"], 3)}))


def print_curves(config: Config, steps: int, folder: Path) -> None:
    """Train in both forms, and print the losses of some steps and how far the curves are apart."""
    curves = {name: _curve(config, steps, folder / name.replace(" ", "_"), name) for name in FORMS}
    packed, every_slot = curves.values()
    apart = np.abs(packed - every_slot) / every_slot
    last = max(1, steps // 10)
    print(f"{'step':>6} {'packed':>9} {'every slot':>11}")
    for number in sorted({1, 2, 5, *range(10, steps, max(1, steps // 10)), steps}):
        if number <= steps:
            print(f"{number:>6} {packed[number - 1]:>9.4f} {every_slot[number - 1]:>11.4f}")
    results = {
        "first_steps_apart": float(apart[:10].max()),
        "steps_apart": float(apart.max()),
        "packed_last": float(packed[-last:].mean()),
        "every_slot_last": float(every_slot[-last:].mean()),
    }
    print(json.dumps({name: float(f"{value:.4g}") for name, value in results.items()}))


def _curve(config: Config, steps: int, workdir: Path, form: str) -> np.ndarray:
    """Train the head for some steps in one form; return the loss of each step."""
    shutil.rmtree(workdir, ignore_errors=True)
    bundle, (source,) = load_bundle(find("emoji-tiny")), config.sources
    schedule = {"steps": steps, "eval_every": steps, "checkpoint_every": steps, "log_every": 1}
    config = replace(config, model=bundle.config, train=replace(config.train, **schedule))
    pairs = open_pairs(source, config.model.canvas)
    with mock.patch.object(step, "loss_and_gradients", FORMS[form]):
        train(config, workdir, Parts(pairs, bundle.backbone, bundle.text))
    return np.array([line["loss"] for line in read_metrics(workdir)])


def loss_of_every_slot(
    config,
    params,
    untrained,
    batch,
    text_table,
    points,
    totals,
    negatives=None,
    *,
    negative_weight=0.1,
    prompting=SEGIC,
    reversal=True,
    remat=False,
) -> PackedLoss:
    """Do as `train.packing.loss_and_gradients` on one device, with every slot decoded at once."""

    def loss(params):
        forward = partial(train_forward, config, prompting=prompting, reversal=reversal)
        passes = (jax.checkpoint(forward) if remat else forward)(
            {**params, **untrained}, batch, text_table, negatives
        )
        value, parts = train_loss(passes, batch, points, negatives=negatives, negative_weight=negative_weight)
        return value, (parts, passes[0].inputs.pooled)

    (value, (parts, pooled)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    return PackedLoss({"loss": value, **parts}, gradients, pooled, jnp.zeros(()))


FORMS = {"packed": step.loss_and_gradients, "every slot": loss_of_every_slot}


def _batches(config: Config, count: int) -> list[dict]:
    (source,) = config.sources
    rows = training_batches(
        open_pairs(source, config.model.canvas),
        config.data,
        canvas=config.model.canvas,
        prompts={EMPTY_PROMPT: 0},
        seed=config.train.seed,
        global_batch=config.train.batch_size,
    )
    try:
        return [next(rows) for _ in range(count)]
    finally:
        rows.close()


def _run(config: Config, function):
    """Return a function that runs one step on a batch and returns its seconds."""
    with mock.patch.object(step, "loss_and_gradients", function):
        train_step, state, frozen, batch = step_and_arguments(config, "float32")
        compiled = train_step.lower(state, frozen, batch).compile()
    mesh = distributed.make_mesh()

    def run(batch: dict) -> float:
        nonlocal state
        rows = distributed.shard_batch(mesh, batch)
        begin = time.perf_counter()
        state, _ = compiled(state, frozen, rows)
        jax.block_until_ready(state)
        return time.perf_counter() - begin

    return run


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
