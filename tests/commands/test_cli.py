import json
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import bundle, command_files, picture

from segic_jax.commands.parser import main
from segic_jax.errors import ConfigError, DataError
from segic_jax.evaluate.run_log import RunLog
from segic_jax.runtime.command_line import run_command
from segic_jax.weights.torch_names import to_torch

EVAL = Path(__file__).parents[2] / "eval.py"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return command_files(tmp_path_factory.mktemp("cli"))


def segic(files, *arguments) -> int:
    """The exit code."""
    with pytest.raises(SystemExit) as stopped:
        main([str(files / a) if "." in a or "targets" in a else a for a in arguments])
    return stopped.value.code


def test_mistyped_arguments_exit_with_2(files):
    assert segic(files, "predict", "--reff", "x") == 2
    assert segic(files, "emoji", "import") == 2


def test_episodes_that_are_not_drawn(tmp_path, capsys):
    for wrong in (("--shots", "0"), ("--fold", "3"), ("--protocol", "matcher")):
        assert main_code("episodes", "make", "emoji", "--out", tmp_path / "new", *wrong) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def run_eval(*arguments):
    command = [sys.executable, str(EVAL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=EVAL.parent)


def test_eval_of_a_folder(files, tmp_path):
    for name in ("disk", "ring"):
        (tmp_path / name).mkdir()
        for i in range(2):
            image, mask = picture(i + 2 * (name == "ring"), 60, 50)
            cv2.imwrite(str(tmp_path / name / f"{i + 1}.jpg"), image)
            cv2.imwrite(str(tmp_path / name / f"{i + 1}.png"), mask.astype(np.uint8) * 255)
    out = tmp_path.with_name("out")
    arguments = ("--benchmark", "folder", "--data-root", tmp_path, "--out", out)
    done = run_eval(*arguments, "--weights", files / "tiny.safetensors", "--batch-size", "4")
    assert done.returncode == 0, done.stderr
    assert "4 episodes of 2 classes" in done.stdout
    result = json.loads((out / "result.json").read_text())
    assert result["model"]["sha256"]
    assert set(result["baselines"]) == {"copy", "cosine", "no_reference", "wrong_reference"}
    assert (out / "sheet.png").exists()


def test_eval_says_what_is_missing(files):
    weights = ("--weights", files / "tiny.safetensors")
    done = run_eval("--benchmark", "folder", *weights)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "--data-root" in done.stderr


def test_official_weights_in_and_out(files, tmp_path, capsys):
    """A head and a backbone on their own, joined with a text tower, and the head back out."""
    head, backbone = tmp_path / "segic.safetensors", tmp_path / "dinov2.safetensors"
    save_file(to_torch(as_numpy(bundle().head)), head)
    save_file(to_torch(as_numpy(bundle().backbone)), backbone)
    assert main_code("convert", backbone, "--num-heads", "2", "--out", tmp_path / "part.safetensors") == 0
    assert "not a whole model yet" in capsys.readouterr().out
    assert main_code("convert", head, backbone, "--out", tmp_path / "x.safetensors") == 2
    assert "--num-heads" in capsys.readouterr().err
    assert main_code("export", files / "tiny.safetensors", "--out", tmp_path / "out.safetensors") == 0
    exported = load_file(tmp_path / "out.safetensors")
    assert exported.keys() == load_file(head).keys()
    assert (
        main_code(
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


def test_weights_commands(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("SEGIC_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main_code("weights", "list") == 0
    assert "menglc/SEGIC" in capsys.readouterr().out
    assert main_code("weights", "fetch", "dinov3") == 2
    assert "known are dinov2-s" in capsys.readouterr().err
    assert main_code("parity", "report", tmp_path, "--out", tmp_path / "x.html") == 2
    assert str(tmp_path) in capsys.readouterr().err


def main_code(*arguments) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, arguments)))
    return stopped.value.code


def as_numpy(params):
    return {name: np.asarray(value) for name, value in params.items()}


def test_however_a_command_ends_it_is_a_code_and_a_sentence(capsys):
    def interrupted_import():
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise ImportError("while initializing the extension")

    def without_room():
        raise OSError(28, "No space left on device", "out/a.png")

    assert run_command(interrupted_import) == 130
    assert capsys.readouterr().err == "Stopped.\n"
    assert run_command(without_room) == 2
    assert capsys.readouterr().err.startswith("out/a.png cannot be used (No space left on device)")
    with pytest.raises(ImportError):  # a defect, not wrong input
        run_command(lambda: (_ for _ in ()).throw(ImportError("no module")))


def test_numbers_that_make_no_data_set_are_said(tmp_path):
    from segic_jax.commands.data import Build

    for wrong in ({"threads": 0}, {"shots": (0,)}, {"shots": ()}):
        with pytest.raises(ConfigError, match="must be at least 1"):
            Build("emoji", tmp_path, **wrong).run()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "5", "[]", "[" * 100_000, "{}"])
def test_a_damaged_run_is_said(tmp_path, content):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/00000.jsonl").write_text(f"{content or 7}\n")
    with pytest.raises(DataError, match=r"00000\.jsonl is damaged"):
        RunLog(tmp_path, {})
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(DataError, match=r"run\.json is damaged|another run"):
        RunLog(tmp_path, {"benchmark": "x"})


def test_a_folder_of_weights_with_a_damaged_configuration_is_said(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/model.safetensors").write_bytes(
        (EVAL.parent / "segic_jax/weights/emoji_tiny.safetensors").read_bytes()
    )
    for content in ("[" * 100_000, "[]", "{"):
        (tmp_path / "in/config.json").write_text(content)
        assert main_code("convert", tmp_path / "in", "--out", tmp_path / "o.safetensors") == 2
        assert "config.json" in capsys.readouterr().err


def test_unbounded_numbers_in_a_log_are_left_out(tmp_path, capsys):
    lines = ("9" * 400, "-Infinity", "NaN", "1e308", "2.5")
    text = "".join(f'{{"step": {i}, "loss": {value}}}\n' for i, value in enumerate(lines))
    (tmp_path / "metrics.jsonl").write_text(text)
    assert main_code("runs", "list", tmp_path) == 0
    assert "2.5000" in capsys.readouterr().out
    assert main_code("runs", "plot", tmp_path, "--out", tmp_path / "p.png") == 0


def test_damaged_logs_and_lists_are_said(tmp_path, capsys):
    """Nested too deep for JSON, and a number of too many digits."""
    for content in ("[" * 100_000, '{"step": ' + "9" * 5000 + "}"):
        (tmp_path / "metrics.jsonl").write_text(f'{content}\n{{"step": 1, "loss": 2}}\n')
        assert main_code("runs", "plot", tmp_path, "--out", tmp_path / "p.png") == 2
        assert "metrics.jsonl is damaged: line 1" in capsys.readouterr().err
        assert main_code("episodes", "show", tmp_path / "metrics.jsonl") == 2
        assert "is not a list of episodes" in capsys.readouterr().err
