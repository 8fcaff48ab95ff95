"""Test `segic convert`, `segic export` and `segic weights`."""

import numpy as np
from safetensors.numpy import load_file, save_file
from tiny import bundle

from segic_jax.weights.catalog import PACKAGED
from segic_jax.weights.torch_names import to_torch


def official_tensors(params):
    """Return tensors under official names; `save_file` ignores strides, so each is made contiguous."""
    tensors = to_torch({name: np.asarray(value) for name, value in params.items()})
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def test_official_weights_are_converted_and_exported(segic, files, tmp_path, capsys):
    """Convert a head and a backbone, and export the head again."""
    head, backbone = tmp_path / "segic.safetensors", tmp_path / "dinov2.safetensors"
    save_file(official_tensors(bundle().head), head)
    save_file(official_tensors(bundle().backbone), backbone)
    assert segic("convert", backbone, "--num-heads", "2", "--out", tmp_path / "part.safetensors") == 0
    assert "not a complete model yet" in capsys.readouterr().out
    assert segic("convert", head, backbone, "--out", tmp_path / "x.safetensors") == 2
    assert "--num-heads" in capsys.readouterr().err
    assert segic("export", files / "tiny.safetensors", "--out", tmp_path / "out.safetensors") == 0
    exported, official = load_file(tmp_path / "out.safetensors"), load_file(head)
    assert exported.keys() == official.keys()
    for name, tensor in exported.items():
        np.testing.assert_allclose(tensor, official[name], rtol=1e-3, atol=1e-6)  # stored as float16
    assert (
        segic(
            "predict",
            "--weights",
            tmp_path / "part.safetensors",
            "--ref",
            files / "ref.png",
            files / "mask.png",
            files / "targets",
            "--out",
            tmp_path / "out",
        )
        == 2
    )
    assert "segic convert" in capsys.readouterr().err


def test_weights_are_listed_and_unknown_ones_refused(segic, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("SEGIC_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert segic("weights", "list") == 0
    table = capsys.readouterr().out
    assert "menglc/SEGIC" in table
    assert all(f"\n{name} " in table for name in PACKAGED)
    assert segic("weights", "fetch", "emoji-tiny") == 0
    assert capsys.readouterr().out == f"{PACKAGED['emoji-tiny'].path}\n"
    assert segic("weights", "fetch", "dinov3") == 2
    assert "choose one of dinov2-s" in capsys.readouterr().err
    assert segic("parity", "report", tmp_path, "--out", tmp_path / "x.html") == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_a_damaged_config_json_is_reported(segic, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/model.safetensors").write_bytes(PACKAGED["emoji-tiny"].path.read_bytes())
    for content in ("[" * 100_000, "[]", "{"):
        (tmp_path / "in/config.json").write_text(content)
        assert segic("convert", tmp_path / "in", "--out", tmp_path / "o.safetensors") == 2
        assert "config.json" in capsys.readouterr().err
