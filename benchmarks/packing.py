"""Measure how much faster a training step is when it decodes only the concept slots that are used.

    python -m benchmarks.packing

Runs the same batches through the step as it is and through one that decodes every slot at once, in turn, with
random weights, and prints the median times and their ratio. Targets that are not here are compiled for by
`segic plan`.
"""

import json
import time
from dataclasses import dataclass
from functools import partial
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
from segic_jax.train import step
from segic_jax.train.experiment import load_config
from segic_jax.train.forward import SEGIC, train_forward
from segic_jax.train.losses import train_loss
from segic_jax.train.packing import CHUNK, PackedLoss


@dataclass
class Args:
    config: str = "emoji_tiny"
    """Training configuration with one source whose pairs need no class names."""
    steps: int = 20
    """Timed steps of each form, after two that are not."""


def main(args: Args) -> None:
    """Measure and print."""
    config = load_config(args.config)
    batches = _batches(config, args.steps + 2)
    used = [int(batch["valid"].sum()) for batch in batches[2:]]
    forms = {"packed": step.loss_and_gradients, "every slot": loss_of_every_slot}
    runs = {name: _run(config, function) for name, function in forms.items()}
    seconds = {name: [] for name in forms}
    for batch in batches:
        for name, run in runs.items():
            seconds[name].append(run(batch))
    medians = {name: float(np.median(values[2:])) for name, values in seconds.items()}
    for name, value in medians.items():
        print(f"{name:<11} {value:.3f} s a step")
    slots = config.train.batch_size * config.data.max_concepts
    print(f"{np.mean(used):.1f} of {slots} slots are used, {CHUNK} at a time.")
    print(json.dumps({"ratio": round(medians["every slot"] / medians["packed"], 3)}))


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
