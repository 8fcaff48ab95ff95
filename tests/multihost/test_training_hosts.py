"""Test that processes with collectives between them train equally on every topology."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from segic_jax.runtime.metric_writer import read_metrics
from segic_jax.train.checkpoint import load_head

pytestmark = pytest.mark.usefixtures("quick_compilation")
HELPERS = Path(__file__).parents[1] / "helpers"
STEPS = 6


def start(workdir, hosts, devices, *options, python=sys.executable):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        python,
        HELPERS / "tiny_training.py",
        workdir,
        str(STEPS),
        str(devices),
        "gentle",
        *options,
    ]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HELPERS.parents[1]), str(HELPERS)]),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling takes most of the time
    }
    return [
        subprocess.Popen(
            command,
            env=environment
            | (
                {
                    "JAX_COORDINATOR_ADDRESS": address,
                    "JAX_NUM_PROCESSES": str(hosts),
                    "JAX_PROCESS_ID": str(i),
                }
                if hosts > 1
                else {}
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(hosts)
    ]


def finish(processes):
    outputs = [process.communicate(timeout=400) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    return [out for out, _ in outputs]


def curve(workdir):
    return np.array([line["loss"] for line in read_metrics(workdir) if "loss" in line])


def wait_for_steps(workdir, steps):
    """Wait until the log has so many steps."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if (workdir / "metrics.jsonl").exists() and len(curve(workdir)) >= steps:
            return
        time.sleep(0.02)


@pytest.fixture(scope="module")
def single_process(tmp_path_factory):
    """Train in one process with four devices."""
    workdir = tmp_path_factory.mktemp("one")
    finish(start(workdir, 1, 4))
    return workdir


@pytest.mark.parametrize(
    ("hosts", "devices", "options"),
    [
        (2, 2, ()),
        pytest.param(4, 1, ("workers",), marks=pytest.mark.slow),  # two minutes on two cores
        (1, 2, ("accumulate", "split")),
    ],
    ids=["2x2", "4x1, workers", "in parts, the backbone split"],
)
def test_the_loss_curve_equals_that_of_one_process(single_process, tmp_path, hosts, devices, options):
    finish(start(tmp_path, hosts, devices, *options))
    assert len(curve(tmp_path)) == STEPS
    np.testing.assert_allclose(curve(tmp_path), curve(single_process), rtol=2e-6)


def test_a_training_on_eight_devices_resumes_on_two(single_process, tmp_path):
    """Save on eight devices and resume on two; the batch has eight rows."""
    finish(start(tmp_path, 1, 8, "stop=3"))
    assert len(curve(tmp_path)) == 3
    finish(start(tmp_path, 1, 2))
    np.testing.assert_allclose(curve(tmp_path), curve(single_process), rtol=2e-6)


@pytest.mark.slow  # two minutes on two cores
def test_a_training_on_four_processes_resumes_on_two_and_on_one(single_process, tmp_path):
    finish(start(tmp_path, 4, 1, "stop=2"))
    assert len(curve(tmp_path)) == 2
    finish(start(tmp_path, 2, 2, "stop=4"))
    finish(start(tmp_path, 1, 1))
    np.testing.assert_allclose(curve(tmp_path), curve(single_process), rtol=2e-6)


@pytest.mark.slow  # a minute on two cores
def test_a_killed_training_resumes_on_as_many_processes_with_equal_bits(tmp_path):
    complete, killed = tmp_path / "complete", tmp_path / "killed"
    finish(start(complete, 2, 1))
    processes = start(killed, 2, 1, "slow")
    wait_for_steps(killed, 4)  # one beyond the checkpoint of step 3
    for process in processes:
        process.kill()
    for process in processes:
        process.communicate()
    assert 4 <= len(curve(killed)) < STEPS
    finish(start(killed, 2, 1))
    np.testing.assert_array_equal(curve(killed), curve(complete))
    heads = [load_head(workdir)[0] for workdir in (complete, killed)]
    assert heads[0].keys() == heads[1].keys()
    for name, value in heads[0].items():
        np.testing.assert_array_equal(heads[1][name], value, err_msg=name)


def test_sigterm_to_one_host_saves_on_all_and_the_training_resumes(single_process, tmp_path):
    processes = start(tmp_path, 2, 2, "slow")
    wait_for_steps(tmp_path, 1)
    processes[1].send_signal(signal.SIGTERM)
    outputs = finish(processes)
    assert "Stopped and saved after step" in outputs[0]
    assert len(curve(tmp_path)) < STEPS
    finish(start(tmp_path, 2, 2))
    assert [line["step"] for line in read_metrics(tmp_path)] == list(range(1, STEPS + 1))
    np.testing.assert_allclose(curve(tmp_path), curve(single_process), rtol=2e-6)


def test_an_incomplete_configuration_of_hosts_is_reported(tmp_path):
    environment = os.environ | {"JAX_NUM_PROCESSES": "2", "PYTHONPATH": str(HELPERS.parents[1])}
    command = [sys.executable, HELPERS / "tiny_training.py", tmp_path, "1", "1"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "--num-hosts is given but --coordinator (JAX_COORDINATOR_ADDRESS) is not" in process.stderr
