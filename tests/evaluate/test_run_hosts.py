"""Semantic segmentation and videos on two hosts that fail or are killed, then to the end on one."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tiny
from layouts_semantic import write_ade20k
from layouts_video import write_davis17

from segic_jax.config import INSTANCE_PROMPT
from segic_jax.data.benchmarks import find_benchmark, open_benchmark
from segic_jax.evaluate.semantic import evaluate_semseg
from segic_jax.evaluate.video import evaluate_video

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
import time
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 2)
from segic_jax.runtime import distributed
distributed.initialize()
import test_run_hosts as tests
from segic_jax.config import InputError
from segic_jax.data import image_files, semantic, video
read = image_files.read_rgb
def slow(path):
    time.sleep(float(sys.argv[4]))
    return read(path)
semantic.read_rgb = video.read_rgb = slow
try:
    tests.run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), batch_size=7)
except InputError as error:
    sys.exit(print(error, file=sys.stderr) or 2)
"""


def run(kind, root, out, *, batch_size=1):
    bundle = dataclasses.replace(
        tiny.bundle(), text={"": np.zeros(4, np.float32), INSTANCE_PROMPT: np.ones(4)}
    )
    if kind == "video":
        benchmark = find_benchmark("davis17")
        source = open_benchmark(benchmark, root)
        return evaluate_video(bundle, source, benchmark=benchmark, semantics="repaired", out=out)
    benchmark = find_benchmark("ade20k")
    options = {"classes": "all", "merge": "argmax", "bank": "train", "class_names": None, "limit": None}
    source = open_benchmark(benchmark, root)
    return evaluate_semseg(bundle, source, benchmark=benchmark, out=out, batch_size=batch_size, **options)


def two_hosts(kind, root, out, pause):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
    }
    return [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, kind, root, out, str(pause)],
            env=environment | {"JAX_PROCESS_ID": str(i)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]


def files(out):
    """All that a run leaves but times and places."""
    result = json.loads((out / "result.json").read_text())
    for name in ("seconds", "frames_per_second", "environment"):
        result.pop(name, None)
    paths = [path for ending in ("*.jsonl", "*.csv") for path in out.glob(ending)]
    paths += (out / "predictions").rglob("*.png")
    return result, {path.relative_to(out): path.read_bytes() for path in paths}


def test_a_broken_image_of_one_host_ends_both(tmp_path):
    root, out = write_ade20k(tmp_path / "data"), tmp_path / "out"
    whole = run("semseg", root, tmp_path / "whole")
    picture = root / "ade20k/images/validation/ADE_val_2.jpg"
    content = picture.read_bytes()
    picture.write_bytes(content[:-40])
    for process in two_hosts("semseg", root, out, 0):
        _, errors = process.communicate(timeout=400)
        assert process.returncode == 2, errors
        assert errors.splitlines()[-1] == f"{picture} is cut off or damaged; get the whole file again."
    assert sum(path.read_text().count("\n") for path in out.glob("parts/*")) == whole["pictures"] - 1
    picture.write_bytes(content)
    run("semseg", root, out)
    assert files(out) == files(tmp_path / "whole")


def test_two_hosts_killed_and_one_goes_on(tmp_path):
    root, out = tmp_path / "data", tmp_path / "out"
    write_davis17(root / "DAVIS", videos=(("a", (1, 2)), ("b", (3,)), ("c", (1,)), ("d", (2, 9))))
    run("video", root, tmp_path / "whole")
    processes = two_hosts("video", root, out, 0.1)
    deadline = time.monotonic() + 240
    parts = [out / f"parts/0000{i}.jsonl" for i in range(2)]
    while time.monotonic() < deadline and not all(p.exists() and p.read_text() for p in parts):
        time.sleep(0.02)
    for process in processes:
        process.kill()
        process.communicate()
    kept = [json.loads(path.read_text().splitlines()[0])["index"] for path in parts]
    assert sorted(kept) == [0, 1]
    assert not (out / "result.json").exists()
    run("video", root, out)
    assert files(out) == files(tmp_path / "whole")
