"""How long the stages of inference take, and how that compares with PyTorch where it is installed.

    python -m benchmarks.run [--quick] [--out FILE]

Both sides are timed in turn, in one run, on the same arrays' shapes: the backbone against Hugging Face's
Dinov2Model with scaled-dot-product attention. Random weights of DINOv2-B's shapes; nothing is downloaded.
A ratio below 1 means that ours takes less time.
"""

import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from segic_jax.config import HeadConfig, ModelConfig, ViTConfig
from segic_jax.models import segic

VIT = ViTConfig(patch_size=14, width=768, depth=12, num_heads=12, pos_grid=37)


@dataclass
class Args:
    quick: bool = False
    """Canvas 448 alone, and fewer rounds."""
    rounds: int = 5
    """Of both sides, in turn; after one that does not count."""
    out: Path | None = None
    """JSON file for the figures."""


@dataclass
class Case:
    """A stage in one size."""

    stage: str
    size: str
    precision: str
    ours: Callable[[], object]  # ends when the result is there
    theirs: Callable[[], object] | None
    compile_seconds: float
    memory: int  # bytes beside arguments and results


def main(args: Args) -> None:
    """Measure, print a table, write the figures."""
    rounds = min(args.rounds, 3) if args.quick else args.rounds
    print(conditions(), "\n")
    print("| stage | size | precision | ours, ms | spread | torch, ms | ratio | compile, s | memory, MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    rows = []
    for case in cases((448,) if args.quick else (448, 896)):
        row = measured(case, rounds)
        rows.append(row)
        torch_ms, ratio = (
            f"{row[name]:.{n}f}" if row[name] else "" for name, n in (("theirs", 0), ("ratio", 2))
        )
        print(
            f"| {case.stage} | {case.size} | {case.precision} | {row['ours']:.0f} | "
            f"{row['least']:.0f} - {row['most']:.0f} | {torch_ms} | {ratio} | "
            f"{case.compile_seconds:.1f} | {case.memory / 2**20:.0f} |",
            flush=True,
        )
    if args.out:
        args.out.write_text(json.dumps({"conditions": conditions(), "rows": rows}, indent=1) + "\n")


def conditions() -> str:
    """Device, versions and threads."""
    device = jax.devices()[0]
    text = f"{device.platform} ({device.device_kind}, {platform.machine()}), {os.cpu_count()} cores, "
    text += f"jax {jax.__version__}"
    if find_spec("torch"):
        import torch

        text += f", torch {torch.__version__} with {torch.get_num_threads()} threads"
    return text


def cases(canvases: tuple[int, ...]) -> Iterator[Case]:
    """Every stage, one at a time: the arrays of one are dropped before the next."""
    for canvas in canvases:
        config = ModelConfig(vit=VIT, head=HeadConfig(), canvas=canvas)
        for precision in ("float32", "bfloat16"):
            yield backbone(config, precision)
        for concepts in (1, 5, 20):
            yield decoder(config, concepts)


def backbone(config: ModelConfig, precision: str) -> Case:
    """Pictures to patch features, batch 1."""
    params = segic.backbone_template(VIT).init(0)
    params = {name: value.astype(precision) for name, value in params.items()}
    images = np.full((1, config.canvas, config.canvas, 3), 100, np.uint8)
    sizes = np.full((1, 2), config.canvas, np.int32)
    program = jax.jit(lambda *arrays: segic.extract(config, *arrays))
    size = f"{config.canvas} px, {config.grid**2 + 1} tokens"
    return case(
        "backbone", size, precision, program, (params, images, sizes), torch_backbone(config, precision)
    )


def decoder(config: ModelConfig, concepts: int) -> Case:
    """Features and a Context to mask logits at the canvas."""
    rng = np.random.default_rng(0)
    head = segic.head_template(config).init(0)
    width = config.vit.width
    features = rng.normal(size=(1, config.grid, config.grid, width)).astype(np.float32)
    pooled = rng.normal(size=(1, concepts, width)).astype(np.float32)
    context = segic.Context(
        pooled=jnp.asarray(pooled),
        visual=jnp.asarray(pooled[:, :, None]),
        visual_valid=jnp.ones((1, concepts, 1), bool),
        text=jnp.zeros((1, concepts, config.text_width)),
    )

    def decoded(head, features, context):
        return segic.upsample(segic.decode(config, head, features, context)[0], config.canvas)

    size = f"{config.canvas} px, {concepts} concepts"
    return case("decoder", size, "float32", jax.jit(decoded), (head, features, context), None)


def case(stage, size, precision, program, arguments, theirs) -> Case:
    """Compile `program` for `arguments`."""
    arguments = jax.device_put(arguments)
    start = time.perf_counter()
    compiled = program.lower(*arguments).compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis().temp_size_in_bytes
    return Case(
        stage, size, precision, lambda: jax.block_until_ready(compiled(*arguments)), theirs, seconds, memory
    )


def torch_backbone(config: ModelConfig, precision: str) -> Callable[[], object] | None:
    """The same work in PyTorch, on the CPU or the GPU that JAX uses."""
    if not (find_spec("torch") and find_spec("transformers")):
        return None
    import torch
    from transformers import Dinov2Config, Dinov2Model

    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    model = Dinov2Model._from_config(Dinov2Config(), attn_implementation="sdpa").eval()
    model = model.to(device, getattr(torch, precision))
    if device == "cuda":
        model = torch.compile(model)
    pixels = torch.zeros(1, 3, config.canvas, config.canvas, device=device, dtype=getattr(torch, precision))

    def run():
        with torch.inference_mode():
            found = model(pixels).last_hidden_state
        if device == "cuda":
            torch.cuda.synchronize()
        return found

    return run


def measured(case: Case, rounds: int) -> dict:
    """Median milliseconds of both sides, timed in turn."""
    sides = {"ours": case.ours} | ({"theirs": case.theirs} if case.theirs else {})
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            times[name].append(1000 * (time.perf_counter() - start))
    medians = {name: float(np.median(values[1:])) for name, values in times.items()}
    theirs = medians.get("theirs")
    described = {
        field.name: getattr(case, field.name)
        for field in dataclasses.fields(case)
        if field.name not in ("ours", "theirs")
    }
    return described | {
        "ours": medians["ours"],
        "least": min(times["ours"][1:]),
        "most": max(times["ours"][1:]),
        "theirs": theirs,
        "ratio": medians["ours"] / theirs if theirs else None,
    }


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
