"""Compare the ways in which XLA can run the backbone on a CPU, each in a process of its own.

    python -m benchmarks.cpu_routes
    python -m benchmarks.cpu_routes --pythons .venv-jax012/bin/python

Routes differ in the library of the matrix products (YNNPACK, Eigen, oneDNN), in other flags of XLA and in the
cores that threads may use. `--pythons` repeats all of them in other environments, with another version of
JAX. PyTorch's backbone runs beside them where it is installed. A route's features are compared with those of
the default route.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import tyro

ROOT = Path(__file__).parents[1]
YNNPACK = "--xla_cpu_experimental_ynn_fusion_type="
ONEDNN = "--xla_cpu_use_onednn=true"
ONEDNN_TYPE = "--xla_cpu_experimental_onednn_fusion_type="
PRODUCT, PRODUCTS, ELEMENTS, SUMS = (
    f"LIBRARY_FUSION_TYPE_{name}" for name in ("INDIVIDUAL_DOT", "DOT", "ELTWISE", "REDUCE")
)


class Route(NamedTuple):
    """Describe one way: flags of XLA, and the cores of its threads."""

    flags: tuple[str, ...] = ()
    cores: Literal["free", "pinned", "one"] = "free"  # pinned: each thread of XLA's pool to a core


DEFAULT = "default"
ROUTES = {
    DEFAULT: Route(),  # YNNPACK for products
    "Eigen": Route((YNNPACK,)),
    "oneDNN": Route((YNNPACK, ONEDNN, ONEDNN_TYPE + PRODUCT)),
    "oneDNN with fusions": Route((YNNPACK, ONEDNN, f"{ONEDNN_TYPE}{PRODUCTS},{ELEMENTS}")),
    "YNNPACK with fusions": Route((f"{YNNPACK}{PRODUCTS},{ELEMENTS},{SUMS}",)),
    "512-bit vectors": Route(("--xla_cpu_prefer_vector_width=512",)),
    "pinned threads": Route(cores="pinned"),
    "one core": Route(cores="one"),
}
PYTORCH = "PyTorch"


@dataclass
class Args:
    """Print a table of every route, and write it to a folder."""

    vit: Literal["b", "l", "g"] = "b"
    """DINOv2 backbone."""
    canvas: tuple[int, ...] = (448, 896)
    """Sides of the canvas in pixels, multiples of 14."""
    precisions: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """Precisions of the backbone."""
    routes: tuple[str, ...] = tuple(ROUTES)
    """Routes to measure."""
    pythons: tuple[Path, ...] = field(default_factory=tuple)
    """Interpreters of other environments with this project's dependencies."""
    rounds: int = 3
    """Timed runs in a process, after one that is not."""
    repeats: int = 2
    """Processes of each route; all routes run before any runs again."""
    out: Path = Path("outputs/cpu_routes")
    """Folder for routes.json and routes.md."""


def main(args: Args) -> None:
    """Measure, print and write."""
    from benchmarks.conditions import conditions

    args.out.mkdir(parents=True, exist_ok=True)
    about = conditions(None)
    print("".join(f"{name}: {value}\n" for name, value in about.items()), flush=True)
    cells = []
    for canvas in args.canvas:
        for precision in args.precisions:
            cells += _measure(args, canvas, precision)
    text = _table(cells)
    print("\n" + text)
    (args.out / "routes.md").write_text(text)
    (args.out / "routes.json").write_text(json.dumps({"conditions": about, "cells": cells}, indent=1) + "\n")


def _measure(args: Args, canvas: int, precision: str) -> list[dict]:
    """Return a cell for every interpreter and route, and for PyTorch."""
    cells: dict[tuple[str, str], dict] = {}
    with TemporaryDirectory() as folder:
        for _ in range(args.repeats):
            for number, python in enumerate((Path(sys.executable), *args.pythons)):
                for name in args.routes:
                    request = {
                        "vit": args.vit,
                        "canvas": canvas,
                        "precision": precision,
                        "rounds": args.rounds,
                        "cores": ROUTES[name].cores,
                        "save": name == DEFAULT,
                        "expected": f"{folder}/{number}.npy",
                    }
                    answer = _run(python, ROUTES[name], request)
                    _add(cells, (answer.pop("jax", str(python)), name), answer)
            if torch := _pytorch(args, canvas, precision):
                _add(cells, (torch.pop("torch"), PYTORCH), torch)
    done = [
        {"canvas": canvas, "precision": precision, "version": version, "route": name, **cell}
        for (version, name), cell in cells.items()
    ]
    print(_table(done), flush=True)
    return done


def _run(python: Path, route: Route, request: dict) -> dict[str, Any]:
    """Run a worker; return its answer, or its error in one line."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "0",  # the times of compiling are reported, too
        "XLA_FLAGS": " ".join(route.flags),
        "OMP_NUM_THREADS": "1",  # no pool beside XLA's
    }
    command = [str(python), "-m", "benchmarks.cpu_routes", "--worker", json.dumps(request)]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if process.returncode == 0:
        return json.loads(process.stdout.splitlines()[-1])
    lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
    return {"error": lines[-1][:200]}


def _worker(request: dict) -> None:
    """Time the backbone in this process; print the answer as JSON."""
    if request["cores"] == "one":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import jax
    import numpy as np

    from benchmarks import stages

    size = stages.Size(stages.model(request["vit"], request["canvas"]), precision=request["precision"])
    stage = stages.STAGES["backbone"](size)
    begin = time.perf_counter()
    program = jax.jit(stage.function).lower(*stage.arguments).compile()
    compile_seconds = time.perf_counter() - begin
    arrays = jax.block_until_ready(jax.device_put(stages.filled(stage.arguments)))
    if request["cores"] == "pinned":
        _pin_threads()
    features = np.asarray(program(*arrays).patches, np.float32)
    if request["save"]:
        np.save(request["expected"], features)
    expected = np.load(request["expected"]) if os.path.exists(request["expected"]) else features
    seconds, cpu_seconds = [], []
    for _ in range(request["rounds"]):
        begin, cpu_begin = time.perf_counter(), time.process_time()
        jax.block_until_ready(program(*arrays))
        seconds.append(time.perf_counter() - begin)
        cpu_seconds.append(time.process_time() - cpu_begin)
    text = program.as_text() or ""
    answer = {
        "jax": f"jax {jax.__version__}",
        "seconds": seconds,
        "cpu_seconds": min(cpu_seconds),
        "compile_seconds": compile_seconds,
        "fusions": {name: text.count(f'"kind":"__{name}_fusion"') for name in ("ynn", "onednn")},
        "difference": float(np.abs(features - expected).max() / np.abs(expected).max()),
    }
    print(json.dumps(answer))


def _pin_threads() -> None:
    """Give every thread of XLA's pool a core of its own; Linux only."""
    cores = sorted(os.sched_getaffinity(0))
    pool = [
        int(task.name)
        for task in Path("/proc/self/task").iterdir()
        if (task / "comm").read_text().startswith("tf_XLA")
    ]
    for number, thread in enumerate(sorted(pool)):
        os.sched_setaffinity(thread, {cores[number % len(cores)]})


def _pytorch(args: Args, canvas: int, precision: str) -> dict[str, Any] | None:
    from benchmarks import stages
    from benchmarks.torch_side import TorchSide, has_torch, request_for

    if not has_torch():
        return None
    size = stages.Size(stages.model(args.vit, canvas), precision=precision)
    request = request_for("backbone", size)
    assert request
    with TorchSide("cpu") as torch:
        torch.build(**request)
        torch.run()
        seconds = [torch.run() for _ in range(args.rounds)]
        return {"torch": f"torch {torch.about['version']}", "seconds": seconds}


def _add(cells: dict[tuple[str, str], dict], key: tuple[str, str], answer: dict) -> None:
    """Add the times of another process of the same route."""
    cell = cells.setdefault(key, answer | {"seconds": []})
    cell["seconds"] = cell["seconds"] + answer.get("seconds", [])


def _table(cells: list[dict]) -> str:
    """Format the cells in Markdown; ratios are to PyTorch's time of the same canvas and precision."""
    from benchmarks.tables import markdown, milliseconds

    def median(cell: dict) -> float:
        return sorted(cell["seconds"])[len(cell["seconds"]) // 2]

    torch = {(cell["canvas"], cell["precision"]): median(cell) for cell in cells if cell["route"] == PYTORCH}
    rows = []
    for cell in cells:
        row = [str(cell["canvas"]), cell["precision"], cell["version"], cell["route"]]
        if cell["seconds"]:
            theirs = torch.get((cell["canvas"], cell["precision"]))
            library = [f"{name} {count}" for name, count in cell.get("fusions", {}).items() if count]
            row += [
                milliseconds(median(cell)),
                f"{milliseconds(min(cell['seconds']))} - {milliseconds(max(cell['seconds']))}",
                f"{median(cell) / theirs:.2f}" if theirs else "",
                milliseconds(cell["cpu_seconds"]) if "cpu_seconds" in cell else "",
                f"{cell['compile_seconds']:.1f}" if "compile_seconds" in cell else "",
                ", ".join(library),
                f"{cell['difference']:.1e}" if "difference" in cell else "",
            ]
        else:
            row += [f"fails: {cell['error']}", *[""] * 6]
        rows.append(row)
    columns = ["canvas", "precision", "version", "route", "ms", "spread", "over PyTorch", "all cores, ms"]
    return markdown([*columns, "compile, s", "library fusions", "difference"], rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _worker(json.loads(sys.argv[2]))
    else:
        main(tyro.cli(Args, description=__doc__))
