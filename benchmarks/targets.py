"""Compare the rows of one run with the targets."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.measure import Bench, Row
from benchmarks.stages import Size, model
from benchmarks.torch_side import request_for
from benchmarks.training import pairs_per_second
from segic_jax.config import ViTConfig
from segic_jax.train.recipe import official

SIDE = 8192  # of the large matrix product
NO_GPU = "not measured: no GPU is available"


class Target(NamedTuple):
    """Hold one line of the table."""

    what: str
    requirement: str
    measurement: str
    met: bool | None  # None: not measured in this run


def cpu_targets(rows: Sequence[Row]) -> list[Target]:
    """Compare rows of ViT-B in float32 on a CPU with the targets."""
    targets = []
    plain = [r for r in rows if r.batch == 1 and r.shots == 1 and r.precision == "float32" and r.ours]
    for row in (r for r in plain if r.stage == "backbone"):
        text = f"backbone, float32, {row.tokens} tokens: our time over PyTorch's"
        met = row.ratio <= 1 if row.ratio else None
        targets.append(Target(text, "at most 1.0", f"{row.ratio:.2f}" if row.ratio else "no PyTorch", met))
    for row in (r for r in plain if r.stage == "backbone" and r.tokens == 4097):
        if row.resident is not None:
            text = "backbone, 4097 tokens: memory over the weights"
            targets.append(
                Target(text, "at most 1.2 GB", f"{row.resident / 1e9:.2f} GB", row.resident <= 1.2e9)
            )
    for stage in ("head", "head, each alone"):
        heads = {
            (r.canvas, r.concepts): (r.ours.median, r.flops)
            for r in plain
            if r.stage == stage and r.ours and r.flops
        }
        for canvas in sorted({canvas for canvas, _ in heads}):
            if (canvas, 1) in heads and (canvas, 20) in heads:
                twenty_concepts, single_concept = heads[canvas, 20], heads[canvas, 1]
                times, work = (a / b for a, b in zip(twenty_concepts, single_concept, strict=True))
                text = f"{stage}, {canvas} px: 20 concepts over 1"
                measurement = f"{times:.1f} times; operations {work:.1f}"
                targets.append(Target(text, "at most 5 times", measurement, times <= 5))
    return targets


def gpu_targets(bench: Bench) -> tuple[list[Target], list[Row]]:
    """Measure the targets of ViT-L on a GPU, if there is one; return them with their rows."""
    texts = (
        ("ViT-L, 896 px, batch 8, bfloat16: share of a large matrix product's rate", "at least 55 %"),
        ("the same: our time over torch.compile's", "at most 1.0"),
        ("training on ViT-L, 896 px: pairs a second", "at least 40"),
    )
    if jax.default_backend() != "gpu":
        return [Target(*text, NO_GPU, None) for text in texts], []
    peak = product_rate()
    size = Size(model("l", 896), batch=8, precision="bfloat16")
    row = bench.row("backbone", size, request_for("backbone", size))
    share = row.flops / row.ours.median / peak if row.ours and row.flops else None
    config = official(ViTConfig.dinov2("l"), "")
    pairs, parts = pairs_per_second(replace(config, train=replace(config.train, batch_size=8)), "bfloat16")
    measurement = (
        (f"{100 * share:.0f} % of {peak / 1e12:.0f} TFLOP/s" if share else row.note, share and share >= 0.55),
        (f"{row.ratio:.2f}" if row.ratio else row.note or "no PyTorch", row.ratio and row.ratio <= 1),
        (f"{pairs:.1f}, 8 pairs in {parts} parts", pairs >= 40),
    )
    return [Target(*text, *value) for text, value in zip(texts, measurement, strict=True)], [row]


def product_rate(side: int = SIDE) -> float:
    """Return operations a second of a bfloat16 matrix product [side, side], the best of ten."""
    matrix = jnp.ones((side, side), jnp.bfloat16)
    product = jax.jit(lambda a, b: a @ b)
    product(matrix, matrix).block_until_ready()
    seconds = []
    for _ in range(10):
        begin = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        seconds.append(time.perf_counter() - begin)
    return 2 * side**3 / min(seconds)
