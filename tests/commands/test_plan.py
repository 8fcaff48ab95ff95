"""`segic plan`: its errors, and a very small model compiled for four chips."""

import json

import pytest
from requirements import require_module

from segic_jax.runtime import topology

CONFIG = """
import dataclasses
from tiny_training import CONFIG


def get_config():
    return dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, negative=0.0))
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Return the file of a configuration; what the command puts into the environment is undone later."""
    for name, value in topology.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--target", "v9:2x2"], "'v9:2x2' is no known target"),
        (["--target", "v5e:2"], "'v5e:2' does not say how the chips are arranged"),
        (["--target", "v5e:2x2"], "needs libtpu, which is not installed: pip install 'segic_jax[plan]'."),
        (["--target", "h100:2"], "needs JAX's CUDA plugin, which is not installed: pip install"),
        (["--target", "v5e:2x2", "--batch-size", "0"], "--batch-size 0 must be at least 1."),
        (["--target", "v5e:2x2", "--train.stepz", "1"], "--train.stepz"),
        ([], "--config and --target are required."),
    ],
)
def test_errors(segic, config, capsys, monkeypatch, arguments, sentence):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    assert segic("plan", "--config", config, *arguments) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.compilers
def test_a_small_model_on_four_chips(segic, config, capsys):
    require_module("libtpu")
    assert segic("plan", "--config", config, "--target", "v5e:2x2", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["chip"]["source"].startswith("https://")
    step, backbone, head = plan["programs"]
    assert (step["devices"], step["pairs"], backbone["devices"], head["images"]) == (4, 8, 1, 8)
    assert step["fits"]
    assert step["collectives"]["all-reduce"]["bytes"] > 0
    assert step["loops_of_unknown_length"] == 2  # over the concepts, in each of the two passes
    assert sum(step["traffic_bytes_by_part"].values()) == pytest.approx(step["traffic_bytes_per_device"])
    assert step["flops"] > backbone["flops"] > 0
    assert {kind.split()[0] for kind in backbone["flops_by_type"]} == {"bfloat16"}
    assert step["recipe_hours"] == pytest.approx(8 * step["roofline_seconds"] / 3600)


@pytest.mark.compilers
def test_the_table(segic, config, capsys):
    require_module("libtpu")
    arguments = ["--program", "predict", "--batch-size", "3", "--model.backbone.depth", "2"]
    assert segic("plan", "--config", config, "--target", "v6e:2x2", *arguments) == 0
    table = capsys.readouterr().out
    assert "| prediction: backbone | prediction: head, 1 concept |" in table
    assert "| 3 images " in table
    assert "Peak of a TPU v6e: 918 TFLOP/s in bfloat16" in table


@pytest.mark.compilers
def test_a_batch_that_cannot_be_split(segic, config, capsys):
    require_module("libtpu")
    arguments = ["--program", "train", "--batch-size", "6"]
    assert segic("plan", "--config", config, "--target", "v5e:2x2", *arguments) == 2
    assert "train.batch_size 6 / train.accumulate 1 must be divisible" in capsys.readouterr().err
