"""Test that the log of a run has each step once, even if the run is killed at any moment."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segic_jax.errors import ConfigError, InputError
from segic_jax.runtime.metric_writer import FILE, MetricWriter, read_metrics

STEPS, SAVE = 12, 4
# Simulate a training: a line for each step, and a validation line and a checkpoint every few steps.
PROGRAM = """
import os, sys, time
from pathlib import Path
from segic_jax.runtime.metric_writer import MetricWriter

workdir, steps, save, pause = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
saved = workdir / "saved"
start = int(saved.read_text()) if saved.exists() else 0
writer = MetricWriter(workdir, start_step=start)
for step in range(start + 1, steps + 1):
    time.sleep(pause)
    writer.write(step, {"loss": 1 / step})
    if step % save == 0:
        writer.write(step, {"validation/miou": step})
        part = workdir / "saved.part"
        part.write_text(str(step))
        part.replace(saved)
"""


def train(workdir: Path, start: int, steps: int = STEPS) -> None:
    writer = MetricWriter(workdir, start_step=start)
    for step in range(start + 1, steps + 1):
        writer.write(step, {"loss": 1 / step})
        if step % SAVE == 0:
            writer.write(step, {"validation/miou": step})
    writer.close()


def test_lines_are_json_and_bad_numbers_are_null(tmp_path):
    writer = MetricWriter(tmp_path / "new" / "run")
    writer.write(1, {"loss": 0.5, "miou": float("nan")})
    # The line is on disk before the writer is closed.
    assert read_metrics(tmp_path / "new" / "run") == [{"step": 1, "loss": 0.5, "miou": None}]
    writer.close()


def test_a_resumed_run_drops_lines_after_its_checkpoint(tmp_path):
    writer = MetricWriter(tmp_path)
    for step in (1, 2, 3, 4):
        writer.write(step, {"loss": step})
    writer.close()
    with open(tmp_path / FILE, "a") as file:
        file.write('{"step": 5, "lo')  # cut short by a crash

    resumed = MetricWriter(tmp_path, start_step=2)
    resumed.write(3, {"loss": 30})
    resumed.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [(1, 1), (2, 2), (3, 30)]
    for line in (tmp_path / FILE).read_text().splitlines():
        json.loads(line)


def test_a_log_truncated_at_any_byte_is_completed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # some 2000 times
    train(tmp_path, 0)
    complete = (tmp_path / FILE).read_bytes()
    for length in range(len(complete)):
        (tmp_path / FILE).write_bytes(complete[:length])
        # A checkpoint exists only if the line of its validation does.
        validated = [line["step"] for line in read_metrics(tmp_path) if "validation/miou" in line]
        for start in {0, *validated[-2:]}:  # the latest checkpoint, or the previous one if that is damaged
            (tmp_path / FILE).write_bytes(complete[:length])
            train(tmp_path, start)
            assert (tmp_path / FILE).read_bytes() == complete


def test_ten_kills_neither_lose_nor_repeat_a_step(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    rng = random.Random(1)

    def command(folder: Path, pause: float):
        folder.mkdir(exist_ok=True)
        return [sys.executable, "-c", PROGRAM, str(folder), "60", "7", str(pause)]

    subprocess.run(command(tmp_path / "uninterrupted", 0), env=environment, check=True)
    for _ in range(10):
        process = subprocess.Popen(command(tmp_path / "killed", 0.003), env=environment)
        log, deadline = tmp_path / "killed" / FILE, time.monotonic() + 60
        before = log.stat().st_size if log.exists() else 0
        while process.poll() is None and time.monotonic() < deadline:
            if log.exists() and log.stat().st_size != before:
                break  # it has started to write
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.wait()
    subprocess.run(command(tmp_path / "killed", 0), env=environment, check=True)
    assert (tmp_path / "killed" / FILE).read_bytes() == (tmp_path / "uninterrupted" / FILE).read_bytes()


def test_a_kill_during_opening_leaves_the_log_complete(tmp_path, monkeypatch):
    train(tmp_path, 0)
    complete = (tmp_path / FILE).read_bytes()
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        MetricWriter(tmp_path, start_step=4)
    assert (tmp_path / FILE).read_bytes() == complete


def test_a_damaged_line_is_named_and_the_others_are_kept(tmp_path, capsys):
    train(tmp_path, 0)
    lines = (tmp_path / FILE).read_bytes().splitlines(keepends=True)
    (tmp_path / FILE).write_bytes(b"".join([*lines[:1], b"\x00\xff\x00\n", *lines[2:]]))
    with pytest.raises(InputError, match=r"metrics\.jsonl is damaged: .* cannot be read \(2\)"):
        read_metrics(tmp_path)
    MetricWriter(tmp_path, start_step=STEPS).close()
    assert "dropped lines that cannot be read: 2." in capsys.readouterr().err
    assert (tmp_path / FILE).read_bytes().splitlines(keepends=True) == [*lines[:1], *lines[2:]]


def test_a_folder_without_a_log_is_reported(tmp_path):
    with pytest.raises(InputError, match=r"has no metrics\.jsonl: give the work directory"):
        read_metrics(tmp_path)


def test_tensorboard_is_optional(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match="pip install tensorboardX"):
        MetricWriter(tmp_path, tensorboard=True)


def test_tensorboard_drops_what_the_log_drops(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    writer = MetricWriter(tmp_path, start_step=2, tensorboard=True)
    writer.write(3, {"loss": 0.5})
    writer.close()
    (file,) = tmp_path.glob("events*")
    content, events = file.read_bytes(), []
    while content:  # length, its checksum, the event, its checksum
        length = int.from_bytes(content[:8], "little")
        events.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    starts = [event.step for event in events if event.session_log.status == SessionLog.START]
    assert starts == [3]
    scalars = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert scalars == [(3, "loss", 0.5)]
