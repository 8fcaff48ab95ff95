"""Test complete trainings from files: the paper's recipe on tiny data sets, and fine-tuning."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_text
from layouts import WRITE
from layouts_training import source_configs, write_training

from segic_jax.commands.finetune import Finetune
from segic_jax.config import (
    INSTANCE_PROMPT,
    Config,
    DataConfig,
    PretrainConfig,
    SourceConfig,
    ValidationConfig,
)
from segic_jax.data.training_sources import open_mixture
from segic_jax.errors import ConfigError, DataError
from segic_jax.models.params import as_float32
from segic_jax.runtime.metric_writer import read_metrics
from segic_jax.train import run as run_module
from segic_jax.train.experiment import load_config
from segic_jax.train.recipe import OFFICIAL_SOURCES
from segic_jax.train.run import MODEL, run
from segic_jax.weights.bundle import Weights, load_bundle, save_bundle, write_weights

ROOT = Path(__file__).parents[2]

CANVAS = 64


def write_frozen_weights(path: Path) -> Path:
    """Write a small backbone and a text tower into one file, as `segic convert` does."""
    model = tiny.bundle()
    backbone = {name: np.asarray(value) for name, value in model.backbone.items()}
    write_weights(
        path, Weights(backbone_config=tiny.CONFIG.backbone, backbone=backbone, tower=tiny_text.tower())
    )
    return path


def shrink(config: Config, root: Path, **train) -> Config:
    """Return the experiment for a small model, the data in `root`, and a few steps."""
    sources = tuple(
        dataclasses.replace(source, root=str(root / Path(source.root).relative_to("data")))
        for source in config.sources
    )
    settings = {"steps": 3, "batch_size": 8, "num_points": 32, "log_every": 1, "checkpoint_every": 2} | train
    return dataclasses.replace(
        config,
        backbone=str(write_frozen_weights(root / "frozen.safetensors")),
        sources=sources,
        validations=(),
        model=tiny.CONFIG,
        train=dataclasses.replace(config.train, **settings),
    )


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGIC_CACHE", str(tmp_path / "cache"))
    return write_training(tmp_path / "data", monkeypatch)


def test_the_recipe_of_the_paper_runs(data, tmp_path, monkeypatch):
    """Use all four sources, the text tower, negative prompts, boxes, jitter and views."""
    config = shrink(load_config("segic_dinov2_l_negatives"), data)
    assert [source.name for source in config.sources] == [source.name for source in OFFICIAL_SOURCES]
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, negative=1.0))
    monkeypatch.setattr(run_module, "BenchmarkValidation", None)  # no validation is configured
    assert run(config, tmp_path / "run") == 0
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(np.isfinite(value) for line in lines for value in line.values())
    assert lines[-1]["loss_score"] > 0
    model = load_bundle(tmp_path / "run" / MODEL)
    assert {"", INSTANCE_PROMPT, "a photo of a dog", "a photo of a wall"} <= model.text.keys()
    assert model.notes["trained_on"] == ["ade20k", "coco", "lvis"]
    assert model.notes["domain"] == "photographs"
    assert not any("/" in source["root"] for source in model.notes["sources"])


def test_a_strict_fold_names_no_novel_class(data):
    fold = load_config("coco20i_fold1")
    source = open_mixture(shrink(fold, data).sources, CANVAS)
    all_classes = open_mixture(source_configs(data, ("coco_semantic",)), CANVAS)
    novel = set(all_classes.class_names) - set(source.class_names)
    assert len(novel) == 20
    for seed in range(30):
        pair = source.pair(np.random.default_rng(seed))
        assert pair.name not in novel
        assert not novel & set(pair.absent)
    # Otherwise `segic eval` would report the benchmark as in domain.
    assert {run_module._data_set(source_config) for source_config in fold.sources} == {
        "coco without the classes of fold 1"
    }


def encode_text(config, tower, features=None):
    source = open_mixture((SourceConfig("emoji"), SourceConfig("emoji_instances")), CANVAS)
    return run_module.text_features(config, source, tower, features or {})


def test_text_features_come_from_the_tower_or_are_zero():
    config = Config(backbone="b", model=tiny.CONFIG, data=DataConfig(text_keep=0.0))
    without = encode_text(config, None)
    assert len(without) > 100
    assert all(not value.any() for prompt, value in without.items() if prompt != INSTANCE_PROMPT)
    assert without[INSTANCE_PROMPT].any()
    encoded = encode_text(config, tiny_text.tower())
    assert encoded.keys() == without.keys()
    assert len({value.tobytes() for value in encoded.values()}) > 100
    with_features = encode_text(config, tiny_text.tower(), {"": np.full(4, 7.0)})
    assert with_features[""].tolist() == [7.0] * 4
    with pytest.raises(ConfigError, match=r"data\.text_keep is 0\.75, but b holds no text tower"):
        encode_text(dataclasses.replace(config, data=DataConfig()), None)
    with pytest.raises(ConfigError, match=r"has width 8, but model\.text_width is 4"):
        encode_text(config, tiny_text.tower(width=8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": ""}, "names no backbone"),
        ({"backbone": "gone.safetensors"}, "gone"),
        ({"sources": (SourceConfig("nothing"),)}, "There is no source 'nothing'"),
        ({"sources": (SourceConfig("coco_semantic", "nowhere"),)}, "nowhere"),
        ({"validations": (ValidationConfig("davis17", "nowhere"),)}, "davis17 has no episodes"),
        ({"validations": (ValidationConfig("nothing"),)}, "There is no benchmark 'nothing'"),
    ],
)
def test_wrong_settings_are_reported_in_one_sentence_with_exit_code_2(tmp_path, capsys, changes, message):
    config = Config(
        backbone=str(write_frozen_weights(tmp_path / "frozen.safetensors")),
        model=tiny.CONFIG,
        data=DataConfig(max_concepts=1, text_keep=0.0),
        validations=(),
    )
    assert run(dataclasses.replace(config, **changes), tmp_path / "run") == 2
    error = capsys.readouterr().err.strip()
    assert re.search(message, error)
    assert "\n" not in error


def test_a_training_starts_from_the_head_of_another_canvas(tmp_path):
    save_bundle(tmp_path / "start.safetensors", tiny.bundle(), float16=False)
    config = Config(
        backbone=str(tmp_path / "start.safetensors"),
        start=str(tmp_path / "start.safetensors"),
        model=dataclasses.replace(tiny.CONFIG, canvas=2 * tiny.CONFIG.canvas),
        data=DataConfig(max_concepts=1, text_keep=0.0),
        validations=(),
    )
    parts = run_module.build(config)
    for name, value in as_float32(tiny.bundle().head).items():
        np.testing.assert_array_equal(np.asarray(parts.head[name]), value)
    wider = dataclasses.replace(tiny.CONFIG, text_width=8)
    with pytest.raises(ConfigError, match=r"another model configuration .* Only the canvas may differ"):
        run_module.build(dataclasses.replace(config, model=wider))


def test_fine_tuning_improves_the_model_and_keeps_the_backbone(tmp_path):
    WRITE["folder"](tmp_path / "mine")
    save_bundle(tmp_path / "start.safetensors", tiny.bundle(), float16=False)
    command = [sys.executable, "-m", "segic_jax", "finetune", "--data", tmp_path / "mine"]
    command += ["--weights", tmp_path / "start.safetensors", "--workdir", tmp_path / "out"]
    command += ["--validation", tmp_path / "mine", "--steps", "30", "--batch-size", "4"]
    command += ["--learning-rate", "1e-3"]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    lines = read_metrics(tmp_path / "out")
    curve = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(curve[-5:]) < 0.95 * np.mean(curve[:5])
    start, end = (load_bundle(tmp_path / name) for name in ("start.safetensors", f"out/{MODEL}"))
    for name, value in as_float32(start.backbone).items():
        np.testing.assert_allclose(np.asarray(end.backbone[name]), value, rtol=1e-3, atol=1e-6)
    assert (tmp_path / "out/samples").is_dir()
    assert [line["step"] for line in lines if "validation/miou" in line] == [10, 20, 30]
    before = (tmp_path / f"out/{MODEL}").stat()
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    after = (tmp_path / f"out/{MODEL}").stat()  # a calibration may have been saved in it
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_wrong_data_are_reported_before_a_pretraining(tmp_path, capsys):
    config = Config(
        backbone="", pretrain=PretrainConfig(), model=tiny.CONFIG, sources=(SourceConfig("nothing"),)
    )
    assert run(config, tmp_path / "run") == 2
    assert "There is no source 'nothing'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_fine_tuning_without_data_is_reported(tmp_path):
    gone = tmp_path / "gone"
    for option, folders in (("data", {"data": gone}), ("validation", {"data": tmp_path, "validation": gone})):
        with pytest.raises(DataError, match=rf"--{option} \S+gone is not a folder: give one with a folder"):
            Finetune(**folders, workdir=tmp_path / "out").run()


def test_a_file_in_place_of_the_work_directory_is_reported(tmp_path, capsys):
    (tmp_path / "file").touch()
    for workdir in (tmp_path / "file", tmp_path / "file/below"):
        assert run(Config(backbone=""), workdir) == 2
        assert "file is a file; give another folder" in capsys.readouterr().err
