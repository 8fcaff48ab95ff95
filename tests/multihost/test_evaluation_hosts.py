"""Test evaluations on several hosts and devices, with unreadable images, kills and resuming."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
from layouts_semantic import write_ade20k
from layouts_video import write_davis17

from segic_jax.config import INSTANCE_PROMPT
from segic_jax.data.benchmarks import find_benchmark, open_benchmark
from segic_jax.evaluate.episodes import EpisodeEvaluation
from segic_jax.evaluate.protocols import find_protocol
from segic_jax.evaluate.runner import run_evaluation
from segic_jax.evaluate.semantic import SemanticEvaluation
from segic_jax.evaluate.video import VideoEvaluation

TESTS = Path(__file__).parents[1]
START = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
from segic_jax.runtime import distributed
distributed.initialize()
"""
EVALUATION = """
import time
from pathlib import Path
from segic_jax.data import video
from segic_jax.errors import InputError
from segic_jax.evaluate import episodes
import test_evaluation_hosts as tests

if sys.argv[5] == "block":  # until it is killed: from the fifth episode, and from the video "c"
    score, read = episodes.prediction_row, video.read_rgb
    def blocking_score(prediction, *arguments, **options):
        if prediction.task.index >= 4:
            time.sleep(3600)
        return score(prediction, *arguments, **options)
    def blocking_read(path):
        if path.parent.name in "cd":
            time.sleep(3600)
        return read(path)
    episodes.prediction_row, video.read_rgb = blocking_score, blocking_read
if __name__ == "__main__":
    try:
        tests.run(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), *map(int, sys.argv[6:]))
    except InputError as error:
        sys.exit(print(error, file=sys.stderr) or 2)
"""
LOG = """
from pathlib import Path
from segic_jax.evaluate.run_log import RunLog
out = Path(sys.argv[2]) / (str(jax.process_index()) if sys.argv[3] == "own" else "")
log = RunLog(out, {"run": 1})
print(sorted(log.done), flush=True)
for i in range(jax.process_index(), 6, 2):
    log.add({"index": i, "by": jax.process_index()})
print([(i, row["by"]) for i, row in log.gather().items()], flush=True)
"""


def run(kind, root, out, batch_size=1, workers=0):
    text = {"": np.zeros(4, np.float32), INSTANCE_PROMPT: np.ones(4, np.float32)}
    bundle = dataclasses.replace(tiny.bundle(), text=text)
    if kind == "episodes":
        source = tiny.DiskSource()
        evaluation = EpisodeEvaluation(
            bundle,
            tiny.DISKS,
            source,
            [source.manifest("original", 0, 1)],
            protocol=find_protocol("original"),
            baselines=True,
            batch_size=batch_size,
            workers=workers,
        )
    elif kind == "video":
        benchmark = find_benchmark("davis17")
        evaluation = VideoEvaluation(bundle, benchmark, open_benchmark(benchmark, root), semantics="repaired")
    else:
        benchmark = find_benchmark("ade20k")
        source = open_benchmark(benchmark, root)
        evaluation = SemanticEvaluation(
            bundle, benchmark, source, classes="all", merge="argmax", batch_size=batch_size
        )
    return run_evaluation(evaluation, out)


def start(folder, program, *arguments, devices=1, hosts=1):
    """Start the program on each host, from a file, since worker processes import it again."""
    path = folder / "program.py"
    path.write_text(START + program)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS / "helpers", TESTS / "multihost")))
    }
    if hosts > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        environment |= {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(hosts)}
    return [
        subprocess.Popen(
            [sys.executable, str(path), str(devices), *map(str, arguments)],
            env=environment | ({"JAX_PROCESS_ID": str(host)} if hosts > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for host in range(hosts)
    ]


def finish(processes, code=0):
    outputs = [process.communicate(timeout=400) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == code, errors
    return outputs


def wait_for_rows(parts, rows=1):
    deadline = time.monotonic() + 240
    while not all(part.exists() and part.read_text().count("\n") >= rows for part in parts):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def files(out):
    """Return the files of a run, without times and paths."""
    result = json.loads((out / "result.json").read_text())
    for name in ("seconds", "frames_per_second", "environment"):
        result.pop(name, None)
    paths = [path for pattern in ("*.jsonl", "*.csv") for path in out.glob(pattern)]
    paths += (out / "predictions").rglob("*.png")
    return result, {path.relative_to(out): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    """Return the files of a run in this process."""
    out = tmp_path_factory.mktemp("episodes")
    run("episodes", None, out)
    return files(out)


@pytest.mark.parametrize(
    ("hosts", "devices", "batch_size", "workers"), [(1, 8, 7, 0), (1, 2, 1, 2), (2, 2, 3, 0)]
)
def test_results_do_not_depend_on_devices_batches_workers_and_hosts(
    episodes, tmp_path, hosts, devices, batch_size, workers
):
    arguments = ("episodes", "-", tmp_path / "out", "-", batch_size, workers)
    finish(start(tmp_path, EVALUATION, *arguments, devices=devices, hosts=hosts))
    assert files(tmp_path / "out") == episodes


def test_a_killed_run_ends_with_the_same_result(episodes, tmp_path):
    out = tmp_path / "out"
    (process,) = start(tmp_path, EVALUATION, "episodes", "-", out, "block", 1)
    part = out / "parts/00000.jsonl"
    wait_for_rows([part], rows=4)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert part.read_text().count("\n") == 4
    assert not (out / "result.json").exists()
    run("episodes", None, out)
    assert part.read_text().count("\n") == 8  # no row is repeated
    assert files(out) == episodes


def test_an_unreadable_image_on_one_host_stops_both(tmp_path):
    root, out = write_ade20k(tmp_path / "data"), tmp_path / "out"
    complete = run("semantic", root, tmp_path / "complete")
    image = root / "ade20k/images/validation/ADE_val_2.jpg"
    content = image.read_bytes()
    image.write_bytes(content[:-40])
    processes = start(tmp_path, EVALUATION, "semantic", root, out, "-", 7, devices=2, hosts=2)
    for _, errors in finish(processes, code=2):
        assert errors.splitlines()[-1].startswith(f"{image} is cut off or damaged")
    assert sum(path.read_text().count("\n") for path in out.glob("parts/*")) == complete["images"] - 1
    image.write_bytes(content)
    run("semantic", root, out)
    assert files(out) == files(tmp_path / "complete")


def test_one_host_continues_what_two_began(tmp_path):
    root, out = tmp_path / "data", tmp_path / "out"
    write_davis17(root / "DAVIS", videos=(("a", (1, 2)), ("b", (3,)), ("c", (1,)), ("d", (2, 9))))
    run("video", root, tmp_path / "complete")
    processes = start(tmp_path, EVALUATION, "video", root, out, "block", devices=2, hosts=2)
    parts = [out / f"parts/0000{host}.jsonl" for host in range(2)]
    wait_for_rows(parts)
    for process in processes:
        process.kill()
        process.communicate()
    indices = [json.loads(path.read_text().splitlines()[0])["index"] for path in parts]
    assert sorted(indices) == [0, 1]
    assert not (out / "result.json").exists()
    run("video", root, out)
    assert files(out) == files(tmp_path / "complete")


@pytest.mark.parametrize("disk", ["shared", "own"])
def test_two_hosts_gather_their_rows(tmp_path, disk):
    def rows():
        processes = start(tmp_path, LOG, tmp_path / "out", disk, hosts=2)
        return [output.splitlines()[-2:] for output, _ in finish(processes)]

    all_rows = str([(i, i % 2) for i in range(6)])
    assert rows() == [["[]", all_rows]] * 2
    assert rows() == [[str(list(range(6))), all_rows]] * 2
    path = tmp_path / "out" / ("0" if disk == "own" else "") / "run.json"
    assert json.loads(path.read_text()) == {"run": 1}
