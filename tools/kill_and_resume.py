"""Check that training survives SIGKILL.

    python tools/kill_and_resume.py --config X --workdir DIR --kills 20

Runs `segic train` once without interruption, and once with SIGKILLs at random moments, restarted each time.
Prints where it was killed, and compares the final heads and the logs of the two runs number by number. The
exit code is 0 only if all are equal to the bit.
"""

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from safetensors.numpy import load_file

TIMES = ("pairs_per_second", "step_seconds", "step_seconds_median", "input_wait", "flops_per_second")
MACHINE = ("flops_utilisation", "memory_bytes", "memory_peak_bytes")


@dataclass
class Args:
    config: Path
    """Training configuration."""
    workdir: Path
    """New folder for both runs."""
    kills: int = 2
    """Number of SIGKILLs in the second run."""
    seed: int = 0
    """Seed of their moments."""


def main(args: Args) -> int:
    """Run the check and return the exit code."""
    args.workdir.mkdir(parents=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str((args.workdir / "cache").resolve())
    start, total = _train_uninterrupted(args.config, args.workdir / "uninterrupted")
    print(
        f"Without interruption: {total:.0f} s, {start:.0f} s of them before the first line of the log",
        flush=True,
    )
    moments, killed = random.Random(args.seed), args.workdir / "killed"
    for _ in range(args.kills):
        process = subprocess.Popen(_command(args.config, killed), stdout=subprocess.DEVNULL)
        try:
            # At any moment, even before the first step; about half of the processes make progress.
            process.wait(moments.uniform(0, start + 2 * (total - start) / args.kills))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            lines = _log(killed)
            print(f"Killed at step {lines[-1]['step'] if lines else 0} of the log", flush=True)
        else:
            print("Finished before the next SIGKILL", flush=True)
            break
    subprocess.run(_command(args.config, killed), check=True, stdout=subprocess.DEVNULL)
    heads = [load_file(args.workdir / name / "model.safetensors") for name in ("uninterrupted", "killed")]
    different = [name for name, value in heads[0].items() if not np.array_equal(value, heads[1][name])]
    logs = [_comparable(_log(args.workdir / name)) for name in ("uninterrupted", "killed")]
    same = "the same" if logs[0] == logs[1] else "different"
    print(f"{len(different)} of {len(heads[0])} arrays differ between the two models")
    print(f"logs of {len(logs[0])} and {len(logs[1])} lines: {same}, apart from times")
    return 0 if not different and logs[0] == logs[1] else 1


def _train_uninterrupted(config: Path, workdir: Path) -> tuple[float, float]:
    """Return the seconds to the first line of the log, and in total."""
    begin, first = time.monotonic(), 0.0
    process = subprocess.Popen(_command(config, workdir), stdout=subprocess.DEVNULL)
    while process.poll() is None:
        time.sleep(0.2)
        if not first and _log(workdir):
            first = time.monotonic() - begin
    if process.returncode:
        raise SystemExit(f"segic train ended with {process.returncode}.")
    return first, time.monotonic() - begin


def _command(config: Path, workdir: Path) -> list[str]:
    return [sys.executable, "-m", "segic_jax", "train", "--config", str(config), "--workdir", str(workdir)]


def _log(workdir: Path) -> list[dict]:
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def _comparable(lines: list[dict]) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in (*TIMES, *MACHINE)} for line in lines]


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
