import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import bundle, picture

from segic_jax.cli import main
from segic_jax.weights.bundle import save_bundle
from segic_jax.weights.torch_names import to_torch

EVAL = Path(__file__).parent.parent / "eval.py"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with weights, a reference with its mask, and targets."""
    root = tmp_path_factory.mktemp("cli")
    save_bundle(root / "tiny.safetensors", bundle())
    (root / "targets").mkdir()
    for i, name in enumerate(("ref.png", "targets/a.jpg", "targets/b.png")):
        image, mask = picture(i, 50 + i, 70)
        cv2.imwrite(str(root / name), image)
        if i == 0:
            cv2.imwrite(str(root / "mask.png"), mask.astype(np.uint8) * 255)
    return root


def segic(files, *arguments) -> int:
    """The exit code."""
    with pytest.raises(SystemExit) as stopped:
        main([str(files / a) if "." in a or "targets" in a else a for a in arguments])
    return stopped.value.code


def predict(files, out, *targets, ref=("ref.png", "mask.png")) -> int:
    weights = ("--weights", "tiny.safetensors")
    return segic(files, "predict", "--ref", *ref, "--target", *targets, "--out", str(out), *weights)


def test_predict_a_folder(files, tmp_path, capsys):
    assert predict(files, tmp_path / "out", "targets") == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"a_mask.png", "a_overlay.jpg", "b_mask.png", "b_overlay.jpg", "scores.json"}
    mask = cv2.imread(str(tmp_path / "out/b_mask.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (52, 70)
    assert set(np.unique(mask)) <= {0, 255}
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert scores["b"]["pixels"] == (mask > 0).sum()
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_bad_target_does_not_stop_the_others(files, tmp_path, capsys):
    cut = files / "cut.jpg"
    cut.write_bytes((files / "targets/a.jpg").read_bytes()[:-300])
    assert predict(files, tmp_path / "out", "gone.jpg", "cut.jpg", "targets/b.png") == 2
    said = capsys.readouterr()
    assert "gone.jpg" in said.err
    assert "cut.jpg is cut off" in said.err
    assert len(said.err.splitlines()) == 2
    assert "b.png: score" in said.out
    assert (tmp_path / "out/b_mask.png").exists()


def test_two_shots(files, tmp_path):
    arguments = ("--ref", "ref.png", "mask.png") * 2
    weights = ("--weights", "tiny.safetensors", "--target", "targets/a.jpg", "--out")
    assert segic(files, "predict", *arguments, *weights, str(tmp_path / "out")) == 0


@pytest.mark.parametrize(
    ("ref", "sentence"),
    [
        (("ref.png", "targets/a.jpg"), "70 x 51 pixels"),
        (("ref.png", "black.png"), "black.png is empty"),
        (("ref.png", "none.png"), "none.png"),
        (("none.png", "mask.png"), "none.png"),
    ],
)
def test_bad_references_are_one_sentence(files, tmp_path, capsys, ref, sentence):
    cv2.imwrite(str(files / "black.png"), np.zeros((50, 70), np.uint8))
    assert predict(files, tmp_path / "out", "targets", ref=ref) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert len(said.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_names_of_results(files):
    from segic_jax.commands.predict import expanded
    from segic_jax.data.episodes import DataError

    one, two, other = Path("x/a.jpg"), Path("x/a.png"), Path("y/a.jpg")
    assert list(expanded([one, one])) == ["a"]
    assert list(expanded([one, two])) == ["a.jpg", "a.png"]
    with pytest.raises(DataError, match="same files"):
        expanded([one, other])


def test_mistyped_arguments_exit_with_2(files):
    assert segic(files, "predict", "--reff", "x") == 2
    assert segic(files, "emoji", "import") == 2


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
            "--target",
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
    assert main_code("parity", "report", tmp_path, "--html", tmp_path / "x.html") == 2
    assert str(tmp_path) in capsys.readouterr().err


def main_code(*arguments) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, arguments)))
    return stopped.value.code


def as_numpy(params):
    return {name: np.asarray(value) for name, value in params.items()}
