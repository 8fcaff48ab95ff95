"""Check that the wheel alone trains, fine-tunes, evaluates and predicts, away from the checkout."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import segic_jax

ROOT = Path(__file__).parents[1]
BATCH = ("--train.steps", "1", "--train.batch-size", "2", "--train.eval-episodes", "2")
EMOJI = ("--weights", "emoji-tiny")
PRETRAINING = ("--pretrain.steps", "1", "--pretrain.group-scenes", "2")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return a folder that holds what the wheel installs."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def segic(site, tmp_path):
    """Return a function that runs `segic` from the wheel in an empty folder and returns what it prints."""

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "segic_jax", *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": str(site)}
        process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        return process.stdout

    return run


def test_contents(site):
    files = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    assert {path.partition("/")[0] for path in files} == {
        "segic_jax",
        f"segic_jax-{segic_jax.__version__}.dist-info",
    }
    configs = {f"segic_jax/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").glob("*.py")}
    assert configs <= files
    assert {"segic_jax/py.typed", "segic_jax/weights/emoji-tiny.safetensors"} <= files
    assert not [name for name in files if "random_backbone.safetensors" in name]
    # Every file of the package that git knows, whatever its ending.
    listed = subprocess.run(["git", "ls-files", "segic_jax"], cwd=ROOT, capture_output=True, text=True)
    assert set(listed.stdout.split()) <= files


def test_the_wheel_is_what_runs(segic, site):
    assert segic("--version") == f"segic_jax {segic_jax.__version__}\n"
    program = "import segic_jax; print(segic_jax.__file__)"
    process = subprocess.run(
        [sys.executable, "-c", program],
        cwd=site.parent,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert process.stdout.strip() == str(site / "segic_jax/__init__.py")


def test_evaluate(segic, tmp_path):
    report = segic("eval", *EMOJI, "--benchmark", "emoji", "--limit", "4", "--out", "out")
    assert "emoji: 4 episodes" in report
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert (result["episodes"], result["model"]["name"]) == (4, "emoji-tiny")


def test_train_and_predict(segic, tmp_path):
    segic("train", "--config", "emoji_tiny", "--workdir", "run", *BATCH, *PRETRAINING)
    images = ROOT / "examples"
    reference = ("--ref", images / "cat_reference.jpg", images / "cat_reference_mask.png")
    target = images / "targets/kitten.jpg"
    segic("predict", "--weights", "run/model.safetensors", *reference, target, "--out", "out")
    assert (tmp_path / "out/index.html").exists()


def test_fine_tune(segic, tmp_path):
    segic("emoji", "export", "--split", "validation", "--out", "data")
    segic("finetune", *EMOJI, "--data", "data", "--workdir", "run", "--steps", "1", "--batch-size", "2")
    assert (tmp_path / "run/model.safetensors").exists()


def test_calibrate(segic):
    assert "| 5 | AUROC |" in segic("calibrate", *EMOJI, "--scenes", "2")
