"""Test that `segic calibrate` prints its measures and saves only on request."""

import dataclasses

import cv2
import numpy as np
import pytest
import tiny

from segic_jax.commands.command_line import parse
from segic_jax.data.emoji.sprites import SpriteBank
from segic_jax.errors import ConfigError, DataError
from segic_jax.inference.presence import read_calibration
from segic_jax.inference.segmenter import Segmenter
from segic_jax.weights.bundle import load_bundle, save_bundle


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Write a tiny model, and limit the benchmark to a few classes."""
    load = SpriteBank.load
    monkeypatch.setattr(
        SpriteBank, "load", lambda split: dataclasses.replace(load(split), classes=load(split).classes[:8])
    )
    save_bundle(tmp_path / "tiny.safetensors", tiny.bundle())
    return tmp_path / "tiny.safetensors"


def test_the_calibration_is_printed_and_saved(weights, capsys):
    arguments = ["calibrate", "--weights", str(weights), "--scenes", "3"]
    assert parse(arguments).run() == 0
    table = capsys.readouterr().out
    measures = [line.split(" | ")[1] for line in table.splitlines()[2:]]
    assert (
        measures == ["AUROC", "false masks at 95 % recall", "recall, false masks at the saved threshold"] * 2
    )
    assert read_calibration(load_bundle(weights).notes) is None
    assert parse([*arguments, "--save"]).run() == 0
    assert capsys.readouterr().out == f"{table}{weights}: calibration saved\n"
    assert 0 <= read_calibration(load_bundle(weights).notes).least < 1


def test_folders_of_photographs(weights, tmp_path, capsys):
    """With three images a class, the measures are those of one example."""
    root = tmp_path / "photos"
    arguments = ["calibrate", "--weights", str(weights), "--data-root", str(root), "--save"]
    for number, name in enumerate(("ant", "bee", "cow", "dog")):
        if number == 3:
            with pytest.raises(DataError, match="photos: presence is calibrated on 4 classes or more"):
                parse(arguments).run()
            capsys.readouterr()
        (root / name).mkdir(parents=True)
        for i in (1, 2, 3):
            image, mask = tiny.random_image(10 * number + i, 40 + i, 50)
            cv2.imwrite(str(root / name / f"{i}.jpg"), image)
            cv2.imwrite(str(root / name / f"{i}.png"), mask.astype(np.uint8) * 255)
    assert parse(arguments).run() == 0
    output = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in output[2:-2]] == ["| 1, photos"] * 3
    assert output[-2].startswith("similarity map alone: mIoU ")
    notes = load_bundle(weights).notes
    assert notes["presence"] is not None
    assert f"threshold {notes['cosine_threshold']}" in output[-2]


def test_the_training_free_method_has_a_calibration_of_its_own(weights, capsys):
    segmenter = Segmenter(load_bundle(weights), method="training_free")
    assert (
        "no calibration of presence for these settings of the training-free method" in segmenter.warnings[0]
    )
    arguments = ["calibrate", "--weights", str(weights), "--method", "training_free", "--scenes", "3"]
    assert parse([*arguments, "--save"]).run() == 0
    assert capsys.readouterr().out.endswith(f"{weights}: calibration saved\n")
    model = load_bundle(weights)
    assert Segmenter(model, method="training_free").calibrated
    assert not Segmenter(model).calibrated
    other = dataclasses.replace(segmenter.engine.settings, least=0.1)
    assert not Segmenter(model, method=other).calibrated


def test_the_model_of_the_package_is_not_overwritten():
    with pytest.raises(ConfigError, match="--save writes into a model file: name yours with --weights"):
        parse(["calibrate", "--weights", "emoji-tiny", "--save"]).run()


def test_no_scenes_are_refused(weights):
    with pytest.raises(ConfigError, match="--scenes 0 must be at least 1"):
        parse(["calibrate", "--weights", str(weights), "--scenes", "0"]).run()
