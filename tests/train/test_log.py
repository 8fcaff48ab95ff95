"""Test the log of a training on the screen and in the file."""

import io
import itertools
import sys

import cv2
import numpy as np
import pytest
from tiny import DiskSource, bundle

from segic_jax.config import TrainConfig
from segic_jax.errors import DataError
from segic_jax.evaluate.report import CAPTION, TILE
from segic_jax.inference.engine import Engine
from segic_jax.runtime.metric_writer import FILE, read_metrics
from segic_jax.runtime.topology import peak_flops
from segic_jax.train import log as log_module
from segic_jax.train import validation
from segic_jax.train.log import TrainingLog
from segic_jax.train.validation import draw_samples

CONFIG = TrainConfig(steps=10, batch_size=4, log_every=2)


class Device:
    """Provide what a TrainingLog reads of an accelerator."""

    def __init__(self, kind: str, used: int | None = None):
        self.device_kind, self.used = kind, used

    def memory_stats(self):
        return None if self.used is None else {"bytes_in_use": self.used, "peak_bytes_in_use": 2 * self.used}


def use_devices(monkeypatch, every, local) -> None:
    monkeypatch.setattr(log_module.jax, "devices", lambda: every)
    monkeypatch.setattr(log_module.jax, "device_count", lambda: len(every))
    monkeypatch.setattr(log_module.jax, "local_devices", lambda: local)


class Clock:
    """Replace the clock by one that only `spend` advances."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(log_module.time, "monotonic", lambda: self.now)

    def spend(self, seconds: float) -> None:
        self.now += seconds


def metrics(*losses):
    return [{"loss": np.float32(loss), "grad_norm": np.float32(2 * loss), "chunks": 1.5} for loss in losses]


def interval(clock: Clock, log: TrainingLog, seconds, waits: float) -> None:
    """Report steps like the loop, in which a step ends while the next one is under way."""
    for previous in (0, *seconds[:-1]):
        with log.waiting():
            clock.spend(waits)
        clock.spend(max(previous - waits, 0))
        log.stepped()
    clock.spend(seconds[-1])


def test_times_and_means_of_an_interval_are_logged(tmp_path, monkeypatch, capsys):
    use_devices(monkeypatch, [Device("cpu")], [Device("cpu")])
    clock = Clock(monkeypatch)
    log = TrainingLog(CONFIG, tmp_path, start=0)
    clock.spend(50)  # compiling
    log.restart_clock()
    interval(clock, log, [1.0, 1.0, 4.0, 1.0, 1.0], waits=0.0)
    log.steps(5, metrics(1, 2, 3, 4, 5), learning_rate=1e-4, unreadable=0)
    clock.spend(30)  # validation
    log.validation(5, {"miou": 41.256, "fb_iou": 60.0, "coco20i_fold0/miou": 30.0})
    log.restart_clock()
    interval(clock, log, [2.0, 2.0], waits=0.5)
    log.steps(7, metrics(1, 3), learning_rate=1e-5, unreadable=3)
    log.close()

    first, scores, second = read_metrics(tmp_path)
    assert first == {
        "step": 5, "loss": 3, "grad_norm": 6, "chunks": 1.5, "learning_rate": 1e-4, "pairs_per_second": 2.5,
        "step_seconds": 1.6, "step_seconds_median": 1, "input_wait": 0, "unreadable": 0,
    }  # fmt: skip
    assert scores == {
        "step": 5, "validation/miou": 41.256, "validation/fb_iou": 60, "validation/coco20i_fold0/miou": 30,
    }  # fmt: skip
    # The device waits for the first batch of an interval; the second one arrives while it works.
    assert second["step_seconds"] == pytest.approx(4.5 / 2)
    assert second["input_wait"] == pytest.approx(1 / 4.5)
    assert second["unreadable"] == 3
    assert capsys.readouterr().out.splitlines() == [
        "step 5/10  loss 3.0000  learning rate 1.0e-04  2.5 pairs/s  1.6 s a step  "
        "0% waiting for input  0:00:08 left",
        "step 5/10  validation miou 41.26, coco20i_fold0/miou 30.00",
        "step 7/10  loss 2.0000  learning rate 1.0e-05  1.8 pairs/s  2.25 s a step  "
        "22% waiting for input  3 images unreadable  0:00:07 left",
    ]


def test_flops_and_memory_are_logged_for_known_devices(tmp_path, monkeypatch, capsys):
    clock = Clock(monkeypatch)
    log = TrainingLog(CONFIG, tmp_path, start=0)
    log.begin(0.7e12, 0.9e12)  # 1.5 chunks take 1e12 operations
    use_devices(monkeypatch, [Device("cpu")], [Device("cpu")])
    clock.spend(2)
    log.stepped()
    log.steps(1, metrics(1), learning_rate=1e-4, unreadable=0)
    card = "NVIDIA H100 80GB HBM3"
    use_devices(monkeypatch, [Device(card)] * 16, [Device(card, 7), Device(card, 9)])
    clock.spend(0.001)
    log.stepped()
    log.steps(2, metrics(1), learning_rate=1e-4, unreadable=0)
    log.close()
    cpu, gpus = read_metrics(tmp_path)
    assert cpu["flops_per_second"] == pytest.approx(5e11)
    assert not {"flops_utilisation", "memory_bytes", "memory_peak_bytes"} & cpu.keys()
    assert gpus["flops_utilisation"] == pytest.approx(1e15 / (16 * 989e12))
    assert (gpus["memory_bytes"], gpus["memory_peak_bytes"]) == (9, 18)
    assert "6% of the peak FLOP/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-40GB", 312e12), ("NVIDIA A100 80GB PCIe", 312e12), ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", 165e12), ("Tesla V100-SXM2-16GB", 125e12), ("TPU v2", 22.5e12),
        ("TPU v3", 61.5e12), ("TPU v4", 275e12), ("TPU v5 lite", 197e12), ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12), ("cpu", None), ("NVIDIA L40S", None), ("NVIDIA GH200 480GB", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None), ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)  # fmt: skip
def test_peak_flops_of_devices(kind, peak):
    assert peak_flops(kind) == peak


def test_a_terminal_gets_a_progress_bar(tmp_path, monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", screen)
    log = TrainingLog(CONFIG, tmp_path, start=4)
    log.stepped()
    log.steps(5, metrics(0.5), learning_rate=1e-4, unreadable=0)
    log.validation(5, {"miou": 41.256})
    log.stepped()
    log.close()
    text = screen.getvalue()
    assert "step 4/10" in text
    assert "step 6/10" in text
    assert "loss 0.5000" in text
    assert "left" in text
    assert "step 5/10  validation miou 41.26\n" in text
    assert len(read_metrics(tmp_path)) == 2


def test_other_hosts_write_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(log_module, "is_main_host", lambda: False)
    log = TrainingLog(CONFIG, tmp_path, start=0)
    with log.waiting():
        pass
    log.stepped()
    log.steps(1, metrics(1), learning_rate=1e-4, unreadable=0)
    log.validation(1, {"miou": 1.0})
    log.close()
    assert not (tmp_path / FILE).exists()
    assert capsys.readouterr().out == ""


def test_logging_a_step_takes_microseconds(tmp_path):
    """Log ten thousand steps in less than a second."""
    log = TrainingLog(CONFIG, tmp_path, start=0)
    begin = log_module.time.monotonic()
    for _ in range(10_000):
        with log.waiting():
            pass
        log.stepped()
    assert log_module.time.monotonic() - begin < 1
    log.close()


def test_sample_images_are_drawn_and_old_ones_deleted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(validation, "SAMPLE_EPISODES", 2)
    monkeypatch.setattr(validation, "KEPT_SAMPLES", 3)
    source, model = DiskSource(), bundle()
    manifest = source.manifest("original", 0, 1)
    for step in (50, 1000, 1500, 200_000):
        draw_samples(Engine(model), source, manifest, tmp_path, step)
    files = sorted((tmp_path / "samples").iterdir())
    assert [path.name for path in files] == ["step_00000050.png", "step_00001500.png", "step_00200000.png"]
    images = [cv2.imread(str(path)) for path in files]
    assert images[0].shape == (2 * (TILE + CAPTION), 5 * (TILE + 4), 3)
    for earlier, later in itertools.pairwise(images):
        np.testing.assert_array_equal(earlier, later)  # the same episodes each time

    def fail(view):
        raise DataError(f"{view.image_name} is gone.")

    monkeypatch.setattr(source, "load", fail)
    draw_samples(Engine(model), source, manifest, tmp_path, 300_000)
    assert "No sample predictions of step 300000: " in capsys.readouterr().err
    assert len(list((tmp_path / "samples").iterdir())) == 3
