"""Test `segic explain` with an untrained model."""

import cv2

from segic_jax.inference import engine

WEIGHTS = ("--weights", "tiny.safetensors")
REF = ("--ref", "ref.png", "mask.png")


def test_explanations_are_drawn_and_missing_targets_reported(segic, tmp_path, capsys):
    references = (*REF, "--ref", "ref.png", "0,0,20,20", "--name", "disk", "--name", "corner")
    assert segic("explain", *references, "targets/a.jpg", "gone.jpg", "--out", tmp_path, *WEIGHTS) == 2
    assert "gone.jpg" in capsys.readouterr().err
    image = cv2.imread(str(tmp_path / "a.png"))
    assert image.shape[1] == 1320
    assert image.std() > 10


def test_the_backbone_runs_once_for_a_target(segic, tmp_path, monkeypatch):
    runs, extract = [], engine.extract
    monkeypatch.setattr(engine, "extract", lambda *args: runs.append(1) or extract(*args))
    assert segic("explain", *REF, "targets/a.jpg", "targets/b.png", "--out", tmp_path, *WEIGHTS) == 0
    assert len(runs) == 1 + 2  # the reference, and each target
