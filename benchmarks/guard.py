"""Count what each compiled stage costs, in numbers that do not depend on the load of the machine.

    python -m benchmarks.guard --renew      writes tests/benchmarks/compiled_stages.json

Operations are counted in the traced program. XLA's own counts of operations and bytes, and the temporary
memory, come from the compiled program. They are equal on one core and two, with AVX2 alone and with AMX,
and with one device and eight, but another version of XLA may compile another program.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import jax
import jaxlib
import tyro

from benchmarks.stages import STAGES, Size
from segic_jax.config import HeadConfig, ModelConfig, ViTConfig
from segic_jax.train.flops import flops_of

FILE = Path(__file__).parents[1] / "tests/benchmarks/compiled_stages.json"
# Small, but with over 1024 tokens, so that attention is cut into parts.
MODEL = ModelConfig(
    backbone=ViTConfig(patch_size=14, width=64, depth=2, num_heads=4, pos_grid=8),
    head=HeadConfig(width=64, num_heads=4, mlp_width=128, iou_width=32),
    text_width=16,
    canvas=14 * 34,
)
SIZES = {
    **{name: (name, Size(MODEL, concepts=3, shots=2)) for name in STAGES if not name.startswith("whole")},
    "backbone, bfloat16": ("backbone", Size(MODEL, precision="bfloat16")),
}


@dataclass
class Args:
    renew: bool = False
    """Write the file instead of printing."""


def main(args: Args) -> None:
    """Count every stage."""
    text = json.dumps(
        {"jaxlib": jaxlib.__version__, "stages": {name: figures(name) for name in SIZES}}, indent=1
    )
    if args.renew:
        FILE.write_text(text + "\n")
    else:
        print(text)


def figures(name: str) -> dict[str, int]:
    """Count one stage in one of the SIZES on a CPU."""
    stage, size = SIZES[name]
    function, arguments = STAGES[stage](size)
    traced = jax.jit(function).trace(*arguments)
    compiled = traced.lower().compile()
    analysis, memory = compiled.cost_analysis(), compiled.memory_analysis()
    assert analysis, "XLA gives no costs of the program"
    assert memory, "XLA gives no memory of the program"
    return {
        "counted_flops": flops_of(traced.jaxpr.jaxpr),
        "flops": int(analysis["flops"]),
        "bytes": int(analysis["bytes accessed"]),
        "temporary_bytes": memory.temp_size_in_bytes,
    }


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
