"""Test `segic export`: what it writes, and what it says about wrong input."""

import json

import pytest

from segic_jax.export import onnx_file


@pytest.fixture
def segic_export(segic, tmp_path):
    return lambda *arguments: segic("export", "tiny.safetensors", "--out", tmp_path / "out", *arguments)


def test_programs_are_written(segic_export, tmp_path, capsys):
    assert segic_export("--to", "stablehlo", "--batch", 2, "--canvas", 32) == 0
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert (manifest["canvas"], manifest["images"], manifest["model"]) == (32, 2, "tiny.safetensors")
    assert manifest["programs"][0]["inputs"][0]["shape"] == [2, 32, 32, 3]
    printed = capsys.readouterr().out
    for name in ("encode.stablehlo", "segment.stablehlo", "manifest.json"):
        assert str(tmp_path / "out" / name) in printed


def test_the_head_is_the_default(segic, tmp_path, capsys):
    assert segic("export", "tiny.safetensors", "--out", tmp_path / "head.safetensors") == 0
    assert "load_state_dict" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--to", "stablehlo", "--canvas", 30), "must be a multiple"),
        (("--to", "stablehlo", "--batch", 0), "give 1 or more"),
        (("--canvas", 32), "leave them out"),
        (("--to", "head"), "must end in .safetensors"),
    ],
)
def test_wrong_input_is_named(segic_export, tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: True)
    assert segic_export(*arguments) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out/manifest.json").exists()


def test_a_missing_converter_is_named(segic_export, monkeypatch, capsys):
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None)
    assert segic_export("--to", "onnx") == 2
    assert "pip install 'segic_jax[export]'" in capsys.readouterr().err


def test_a_file_in_the_place_of_the_folder_is_named(segic_export, tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert segic_export("--to", "stablehlo") == 2
    assert "cannot be created" in capsys.readouterr().err
