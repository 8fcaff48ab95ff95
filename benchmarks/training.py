"""Measure the pairs a second of a training step without input: the same batch is repeated."""

import time
from dataclasses import replace

import jax
import numpy as np
from jax import ShapeDtypeStruct as Shape

from benchmarks.stages import filled
from segic_jax.config import Config
from segic_jax.data.pipeline import CANDIDATES
from segic_jax.models.backbones import backbone_template
from segic_jax.models.head import head_template
from segic_jax.runtime import distributed
from segic_jax.train.optim import make_optimizer, trainable_names
from segic_jax.train.step import Frozen, init_state, make_train_step

STEPS = 5  # timed, after two that are not
PROMPTS = 100  # rows of the text table


def pairs_per_second(config: Config, precision: str) -> tuple[float, int]:
    """Measure one process on all its devices, with random weights and a batch that uses every slot.

    If memory does not suffice, the batch is computed in parts (`train.accumulate`), twice as many each time.

    Returns:
        Pairs a second, and the number of parts.

    Raises:
        MemoryError: a single pair needs too much memory.
    """
    parts = config.train.accumulate
    while parts <= config.train.batch_size:
        try:
            return _measured(replace(config, train=replace(config.train, accumulate=parts)), precision), parts
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
        parts *= 2
    raise MemoryError("One pair at a time needs more memory than the device has.")


def _measured(config: Config, precision: str) -> float:
    step, state, frozen, batch = step_and_arguments(config, precision)
    step = step.lower(state, frozen, batch).compile()
    for _ in range(2):
        state, _ = step(state, frozen, batch)
    jax.block_until_ready(state)
    begin = time.perf_counter()
    for _ in range(STEPS):
        state, _ = step(state, frozen, batch)
    jax.block_until_ready(state)
    return STEPS * config.train.batch_size / (time.perf_counter() - begin)


def step_and_arguments(config: Config, precision: str) -> tuple:
    """Return the training step with its state, frozen parts (in `precision`) and a batch on the devices."""
    mesh = distributed.make_mesh()
    model, rows = config.model, config.train.batch_size
    backbone = filled(
        {n: Shape(s.shape, precision) for n, s in backbone_template(model.backbone).shapes.items()}
    )
    head = filled(dict(head_template(model).shapes))
    trainable = set(trainable_names(head, score=False))
    params = distributed.replicate(mesh, {n: head[n] for n in head if n in trainable})
    optimizer = make_optimizer(config.optim, config.train.steps)
    state = init_state(config, optimizer, params, PROMPTS, mesh)
    frozen = Frozen(
        backbone=distributed.replicate(mesh, backbone),
        untrained=distributed.replicate(mesh, {n: head[n] for n in head if n not in trainable}),
        text_table=distributed.replicate(mesh, np.zeros((PROMPTS, model.text_width), np.float32)),
    )
    batch = distributed.shard_batch(mesh, _batch(config, rows))
    return make_train_step(config, optimizer, mesh), state, frozen, batch


def _batch(config: Config, rows: int) -> dict[str, np.ndarray]:
    """Return a batch as `segic_jax.data.pipeline` makes it; masks are strips of the image."""
    side, slots = config.model.canvas, config.data.max_concepts
    masks = np.zeros((rows, slots, side, side), bool)
    for slot in range(slots):
        masks[:, slot, slot * side // slots : (slot + 1) * side // slots] = True
    packed = np.packbits(masks, axis=-1)
    images = np.random.default_rng(0).integers(0, 256, (rows, side, side, 3), np.uint8)
    one_each = {
        **{name: np.zeros(rows, np.int32) for name in ("target_prompt", "reference_prompt", "unreadable")},
        "class_row": np.full(rows, -1, np.int32),
        "negative_rows": np.full((rows, CANDIDATES), -1, np.int32),
        "valid": np.ones((rows, slots), bool),
        "use_box": np.ones((rows, 2), bool),
        "use_cross": np.ones((rows, 2), bool),
    }
    for name in ("target", "reference"):
        one_each |= {
            f"{name}_image": images,
            f"{name}_size": np.full((rows, 2), side, np.int32),
            f"{name}_masks": packed,
        }
    return one_each
