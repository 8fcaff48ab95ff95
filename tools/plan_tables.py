"""Make the tables of docs/planning.md: run `segic plan` for every line and print what fits how fast.

python -m tools.plan_tables --folder outputs/plans          # with what is there
python -m tools.plan_tables --folder outputs/plans --run    # with one and two layers of what is missing
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.tables import digits, markdown

GIB = 2**30
RECIPE = 960_000  # pairs: 12 epochs of 80 000
# (configuration, target, pairs of a step): the batch of 32 of the paper, or two pairs a chip.
TRAININGS = [
    (f"segic_dinov2_{size}", target, batch)
    for target, batch in (
        ("v5e:4x4", 32),
        ("v5e:8x8", 128),
        ("v5p:2x2x2", 32),
        ("v6e:4x4", 32),
        ("h100:8", 32),
    )
    for size in "blg"
]
# (configuration, target, images of a program)
PREDICTIONS = [
    (f"segic_dinov2_{size}", target, 8) for target in ("v5e:1x1", "v6e:1x1", "h100:1") for size in "blg"
]


@dataclass
class Args:
    folder: Path
    """Where the JSON files of the command lie or go."""
    run: bool = False
    """Estimate what is missing with `segic plan --quick`."""


def main(args: Args) -> None:
    """Print both tables in Markdown."""
    for program, runs in (("train", TRAININGS), ("predict", PREDICTIONS)):
        plans = []
        for config, target, batch in runs:
            path = args.folder / f"{config}_{target.replace(':', '_')}_{program}_{batch}.json"
            if args.run and not path.exists():
                compile_plan(path, config, target, program, batch)
            if path.exists():
                plans.append((config.rpartition("_")[2], json.loads(path.read_text())))
        if plans:
            print(training_table(plans) if program == "train" else prediction_table(plans))


def compile_plan(path: Path, config: str, target: str, program: str, batch: int) -> None:
    """Run the command, which exits with 1 if the program does not fit."""
    what = ["--config", config, "--target", target, "--program", program, "--batch-size", str(batch)]
    print("segic plan", *what, file=sys.stderr)
    command = [sys.executable, "-m", "segic_jax", "plan", *what, "--quick", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode not in (0, 1):
        sys.exit(ran.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(ran.stdout)


def training_table(plans: list[tuple[str, dict]]) -> str:
    """Return a row a training step."""
    columns = ["target", "backbone", "pairs", "GiB left", "TFLOP", "traffic, GB"]
    columns += ["compute, ms", "memory, ms", "network, ms", "pairs/s", "hours"]
    rows = []
    for name, plan in plans:
        (step,) = plan["programs"]
        cells = [plan["target"], size(name), str(step["pairs"]), left(plan, step)]
        if step["fits"]:
            cells += [
                digits(step["flops"] / 1e12),
                digits(step["traffic_bytes_per_device"] / 1e9),
                *(digits(1000 * step["seconds"][kind]) for kind in ("compute", "memory", "network")),
                digits(step["pairs_per_second"]),
                digits(RECIPE / step["pairs_per_second"] / 3600),
            ]
        rows.append(cells + [""] * (len(columns) - len(cells)))
    return markdown(columns, rows)


def prediction_table(plans: list[tuple[str, dict]]) -> str:
    """Return a row a chip and backbone, with both programs."""
    columns = ["target", "backbone", "images", "GiB left", "backbone, TFLOP", "traffic, GB"]
    columns += ["compute, ms", "memory, ms", "head, ms", "images/s"]
    rows = []
    for name, plan in plans:
        backbone, head = plan["programs"]
        seconds = backbone["roofline_seconds"] + head["roofline_seconds"]
        cells = [
            plan["target"],
            size(name),
            str(backbone["images"]),
            left(plan, backbone),
            digits(backbone["flops"] / 1e12),
            digits(backbone["traffic_bytes_per_device"] / 1e9),
            *(digits(1000 * backbone["seconds"][kind]) for kind in ("compute", "memory")),
            digits(1000 * head["roofline_seconds"]),
            digits(backbone["images"] / seconds),
        ]
        rows.append(cells)
    return markdown(columns, rows)


def size(name: str) -> str:
    """Return the usual letter of a backbone."""
    return name if name == "g" else name.upper()


def left(plan: dict, program: dict) -> str:
    """Return the free memory of a device and its share."""
    if program["failure"]:
        return "does not fit"
    free = program["memory_bytes_left"]
    text = f"{free / GIB:.1f} ({100 * free / plan['chip']['memory_bytes']:.0f} %)"
    return text if program["fits"] else f"does not fit: {text}"


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
