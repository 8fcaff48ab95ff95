"""The log of a run: readable lines, continued by a resumed run."""

import json

import pytest

from segic_jax.config import ConfigError
from segic_jax.metric_writer import FILE, MetricWriter, read_metrics


def test_lines_are_json_and_bad_numbers_are_null(tmp_path):
    writer = MetricWriter(tmp_path / "new" / "run")
    writer.write(1, {"loss": 0.5, "miou": float("nan")})
    # On disk at once, without closing.
    assert read_metrics(tmp_path / "new" / "run") == [{"step": 1, "loss": 0.5, "miou": None}]
    writer.close()


def test_a_resumed_run_drops_what_it_will_write_again(tmp_path):
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


def test_tensorboard_is_optional(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match="pip install tensorboardX"):
        MetricWriter(tmp_path, tensorboard=True)
