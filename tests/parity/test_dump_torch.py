"""Test the cross-framework report on a small random model behind the interface of the official checkout."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from requirements import require_torch
from tiny_text import tokenizer_json

from segic_jax.commands.command_line import parse
from segic_jax.config import ModelConfig, ViTConfig
from segic_jax.errors import DumpError, InputError
from segic_jax.parity.dump import list_stages
from segic_jax.parity.end_to_end import compare_end_to_end
from segic_jax.parity.report import write_report
from segic_jax.parity.stages import POINT, ties

torch = require_torch()
import torch_segic

from tools import dump_torch

HERE = Path(__file__).parent
SCRIPT = HERE.parents[1] / "tools/dump_torch.py"
CLASS = '<b>"cat" & dog</b>'
CHECKOUT = {
    "train.py": """
import argparse
def get_args_parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", required=True)
    parser.add_argument("--encoder_model", default="dift")
    for flag in ("--use_inst_proj", "--use_cross_inst_prompt", "--reverse_context"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--input_size", default=[112, 112])
    return parser.parse_args()
""",
    "model/segic.py": "from torch_segic import build_model\n",
    "utils/dataloader.py": "from torch_segic import Resize\n",
    # The official model calls cal_sim through this module, so the module itself is replaced.
    "utils/misc.py": "import sys, torch_segic\nsys.modules[__name__] = torch_segic.misc\n",
}


@pytest.mark.parametrize("name", ["segic_infer_semantic", "segic_infer_instances"])
def test_the_torch_model_equals_the_official_model(golden, golden_weights, monkeypatch, name):
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    arrays = golden(name)
    state = {key: torch.tensor(value) for key, value in golden_weights("segic").items()}
    model = torch_segic.SEGIC(torch_segic.Sizes.from_state(state, canvas=112, vit_heads=4, text_heads=4))
    model.load_state_dict(state)
    prompts = {key: torch.tensor(arrays[f"mid.{key}"]) for key in ("input_ids", "attention_mask")}
    model.encoder.tokenizer = lambda texts: prompts
    data = {
        key: torch.tensor(arrays[f"in.{key}"])
        for key in ("image", "image_dual", "ori_size", "ori_size_dual", "is_inst")
    }
    data |= {
        "label_dual": [torch.tensor(arrays["in.label_dual"])],
        "class_name": arrays["in.class_name"].tolist(),
    }
    with torch.no_grad():
        masks, iou, *_ = model(data, inference=True)
    np.testing.assert_allclose(masks, arrays["out.masks"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(iou, arrays["out.iou_pred"], rtol=0, atol=1e-4)


def run(folder, *arguments):
    """Run tools/dump_torch.py in a separate process, inside `folder`."""
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    environment = {"PYTHONPATH": str(HERE), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write a checkout, a checkpoint, and two pairs of images of different sizes."""
    folder = tmp_path_factory.mktemp("official")
    for name, text in CHECKOUT.items():
        path = folder / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    torch.manual_seed(1)
    state = torch_segic.SEGIC(torch_segic.Sizes()).state_dict()
    torch.save(state, folder / "head.pth")
    torch.save({name: tensor for name, tensor in state.items() if "neck.1" not in name}, folder / "part.pth")
    random = np.random.default_rng(0)
    for i in range(2):
        mask = np.zeros((90 + 7 * i, 120), np.uint8)
        mask[20:70, 30:80] = 255
        for kind, size in (("reference", mask.shape[::-1]), ("target", (101 + i, 130))):
            coarse = random.integers(0, 255, (6, 8, 3), np.uint8)
            image = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(folder / f"{kind}{i}.png"), image)
        cv2.imwrite(str(folder / f"mask{i}.png"), mask)
    cv2.imwrite(str(folder / "blank.png"), np.zeros((90, 120), np.uint8))
    objects = np.zeros((90, 120), np.uint8)
    objects[10:40, 10:50], objects[30:80, 60:110], objects[60:85, 5:30] = 7, 2, 255
    cv2.imwrite(str(folder / "objects.png"), objects)
    cv2.imwrite(str(folder / "colour.png"), np.zeros((90, 120, 3), np.uint8))
    return folder


PAIRS = [f"{kind}{i}.png" for i in range(2) for kind in ("reference", "mask", "target")]
MODEL = ("--segic", "checkout", "--checkpoint", "head.pth")


@pytest.fixture(scope="module")
def complete_dump(folder):
    """Dump both pairs, and return the folder."""
    process = run(folder, *MODEL, "--images", *PAIRS, "--class-name", CLASS, "--out", "dump")
    assert process.returncode == 0, process.stderr
    return folder / "dump"


OBJECTS = ("reference0.png", "objects.png", "target0.png", "--instances")


def test_instances_and_the_rounding_of_torch(folder, tmp_path):
    """Compare the objects of a map, decoded at once, and bound each stage by torch's distance to float64."""
    out = tmp_path / "dump"
    process = run(folder, *MODEL, "--images", *OBJECTS, "--float64", "--out", out)
    assert process.returncode == 0, process.stderr
    pair = json.loads((out / "manifest.json").read_text())["pairs"][0]
    assert (pair["objects"], pair["instances"], pair["class_name"]) == (3, True, "")
    assert write_report(out, tmp_path / "report.html")
    content = json.loads((tmp_path / "report.json").read_text())
    exact = {row["stage"]: row for row in content["rows"] if row["dtype"] == "float32"}
    assert 0 < exact["mask logits"]["torch_rounding"] < 1e-4
    assert exact["point"]["tolerance"] == 0
    with np.load(out / "pair_0.npz") as stored:
        assert stored["out.masks"].shape[0] == len(stored["in.label_dual"]) == 3
        assert set(stored["mid.prompts"]) == {"please segment the instances"}
    assert "3 instances" in (tmp_path / "report.html").read_text()

    change(out / "pair_0.npz", **{"rounding__out__masks": lambda x: np.float64(0.3)})
    assert write_report(out, tmp_path / "report.html")
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    (logits,) = (row for row in rows if row["dtype"] == "float32" and row["stage"] == "mask logits")
    assert logits["tolerance"] == 0.6


@pytest.fixture
def dump(complete_dump, tmp_path):
    """Copy the dump for a test that damages it."""
    return Path(shutil.copytree(complete_dump, tmp_path / "dump"))


def change(path, **changed):
    """Rewrite an .npz file with changed arrays (two underscores for a dot); None removes an array."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    for name, function in changed.items():
        name = name.replace("__", ".")
        arrays[name] = function(arrays[name])
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def test_every_stage_agrees(complete_dump, tmp_path):
    page = tmp_path / "new" / "report.html"
    assert write_report(complete_dump, page)
    content = json.loads(page.with_suffix(".json").read_text())
    exact = [row for row in content["rows"] if row["dtype"] == "float32"]
    assert len(exact) == 2 * 27
    assert all(row["passed"] for row in exact)
    assert max(row["relative_error"] for row in exact) < 1e-5
    bfloat16 = {row["stage"]: row for row in content["rows"] if row["dtype"] == "bfloat16"}
    assert 1e-4 < bfloat16["features"]["relative_error"] < 5e-2
    assert bfloat16["features"]["tolerance"] is bfloat16["features"]["passed"] is None
    for pair in content["pairs"]:
        assert pair["mask_iou"]["float32"] == 1
        assert pair["mask_iou"]["bfloat16"] > 0.95
    assert all(entry["as_dumped"] for entry in content["files"])
    assert content["torch"]["versions"]["torch"] == torch.__version__
    assert content["torch"]["checkpoint"]["file"] == "head.pth"


def test_the_page_is_self_contained(complete_dump, tmp_path):
    write_report(complete_dump, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count('src="data:image/jpeg;base64,') == page.count("src=") == 8
    assert page.count("<svg") == 2
    assert not any(text in page for text in ("http", "<script", "<link", "url(", CLASS))
    assert "&lt;b&gt;&quot;cat&quot; &amp; dog&lt;/b&gt;" in page
    assert "Passed: all 27 float32 stages of 2 pair(s)" in page


def test_a_stage_that_differs_is_named(dump, tmp_path):
    change(dump / "pair_1.npz", mid__block__1=lambda x: x + 1e-2 * (np.arange(x.shape[-1]) == 3))
    assert not write_report(dump, tmp_path / "report.html")
    content = json.loads((tmp_path / "report.json").read_text())
    assert [(row["file"], row["stage"]) for row in content["rows"] if row["passed"] is False] == [
        ("pair_1.npz", "block 1")
    ]
    page = (tmp_path / "report.html").read_text()
    assert "exceeds its tolerance is block 1 in pair_1.npz (mid.block.1): error 1.0e-02" in page
    assert "changed since the dump" in page


def test_a_point_between_equal_similarities_is_a_tie():
    """Tell rounding from an error: the peaks differ, and the maps are less apart than the two places."""
    ours = np.zeros((2, 8, 8), np.float32)
    ours[:, 2, 3] = 0.5
    ours[:, 6, 1] = 0.5 - 2e-7
    theirs = ours.copy()
    theirs[0, 6, 1] = 0.5 + 2e-7  # of the second concept the maps are equal: another point is an error
    points, others = (np.array([[[x, y]]] * 2, np.float32) for x, y in ((3, 2), (1, 6)))
    pair = {"mid.mask_input": theirs[:, None], POINT: others}
    assert ties(ours, points, pair).tolist() == [True, False]
    theirs[0, 6, 1] = 0.5 + 2e-3  # too far apart for rounding
    assert ties(ours, points, pair).tolist() == [False, False]


def test_the_canvas_of_torch_1_has_the_tolerance_of_its_coordinates():
    config = ModelConfig(backbone=ViTConfig.dinov2("b"))
    old, new = (list_stages(config, version)[0] for version in (1, 2))
    assert old.name == "canvas, target"
    assert new.tolerance == 2e-3
    assert 7e-3 < old.tolerance < 8e-3


WITH_TOKENIZER = """
import torch, torch_segic
def build_model(args):
    torch.manual_seed(0)
    tokenizer = torch_segic.JsonTokenizer("tokenizer.json")
    model = torch_segic.SEGIC(torch_segic.Sizes(text_vocab=tokenizer.size, text_heads=4))
    model.encoder.tokenizer = tokenizer
    return model
"""


def test_the_whole_way_gives_the_masks_of_torch(folder, tmp_path, capsys):
    """Go from a dump through conversion, tokenizer, `predict` and a process of `segic eval`."""
    checkout = Path(shutil.copytree(folder / "checkout", tmp_path / "checkout"))
    (checkout / "model/segic.py").write_text(WITH_TOKENIZER)
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json())
    model = ("--segic", checkout, "--checkpoint", folder / "head.pth")
    files = [folder / name for name in PAIRS]
    out = tmp_path / "dump"
    process = run(tmp_path, *model, "--images", *files, "--class-name", "Café cat", "--out", out)
    assert process.returncode == 0, process.stderr

    command = ["parity", "end-to-end", str(out), "--out", str(tmp_path / "table.json")]
    assert parse(command).run() == 0
    content = json.loads((tmp_path / "table.json").read_text())
    assert content["passed"]
    exact = [row for row in content["rows"] if row["judged"]]
    assert [(row["file"], row["through"]) for row in exact] == [
        (file, through)
        for through in ("segic eval", "predict", "logits")
        for file in ("pair_0.npz", "pair_1.npz")
    ]
    assert not any(row["untied"] for row in exact)
    assert max(row["logits_apart"] for row in exact if row["through"] == "logits") < 1e-4
    assert all(row["iou"] == 1 and row["pixels_apart"] == 0 for row in exact)
    measured = [(row["way"], row["through"]) for row in content["rows"] if not row["judged"]]
    assert capsys.readouterr().out.count("measured") == len(measured) == 2 * 8
    assert measured.count(("float32, products in TF32 (emulated)", "predict")) == 2

    change(out / "pair_1.npz", out__masks=lambda x: -x)  # another mask than ours
    assert parse(command).run() == 1
    failed = [row for row in json.loads((tmp_path / "table.json").read_text())["rows"] if row["untied"]]
    assert {(row["file"], row["through"]) for row in failed if row["judged"]} == {
        ("pair_1.npz", through) for through in ("segic eval", "predict", "logits")
    }
    (out / "tokenizer.json").unlink()
    with pytest.raises(DumpError, match=r"tokenizer\.json is missing: give CLIP's"):
        compare_end_to_end(out, None)


def test_the_whole_way_of_instances(folder, tmp_path):
    checkout = Path(shutil.copytree(folder / "checkout", tmp_path / "checkout"))
    (checkout / "model/segic.py").write_text(WITH_TOKENIZER)
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json())
    images = [folder / name if name.endswith(".png") else name for name in OBJECTS]
    model = ("--segic", checkout, "--checkpoint", folder / "head.pth")
    process = run(tmp_path, *model, "--images", *images, "--out", tmp_path / "dump")
    assert process.returncode == 0, process.stderr
    assert compare_end_to_end(tmp_path / "dump", tmp_path / "table.json")
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert [row["through"] for row in rows] == ["predict"] * 12  # 3 objects, 4 ways


def test_nan_and_wrong_shapes_fail(dump, tmp_path):
    change(dump / "pair_0.npz", mid__sim=lambda x: x * np.nan, mid__dense=lambda x: x[:, 1:])
    assert not write_report(dump, tmp_path / "report.html")
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    failed = {row["stage"]: row["max_abs_error"] for row in rows if row["passed"] is False}
    assert failed == {"similarity": None, "dense prompt": None}


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5000])


def rewrite(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda dump: (dump / "manifest.json").unlink(), "is not a complete dump"),
        (lambda dump: truncate(dump / "pair_0.npz"), "pair_0.npz is damaged"),
        (lambda dump: (dump / "pair_1.npz").unlink(), "pair_1.npz is missing"),
        (lambda dump: change(dump / "pair_0.npz", mid__sim=lambda x: None), "pair_0.npz lacks mid.sim"),
        (lambda dump: (dump / "weights.safetensors").unlink(), "weights.safetensors is missing"),
        (lambda dump: truncate(dump / "weights.safetensors"), "weights.safetensors"),
        (lambda dump: (dump / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (lambda dump: rewrite(dump / "manifest.json", '"format": 1', '"format": 9'), "has format 9"),
        (lambda dump: rewrite(dump / "manifest.json", "eos_id", "x"), "manifest.json is damaged"),
        (lambda dump: rewrite(dump / "manifest.json", '_heads": 4', '_heads": 3'), "3 attention heads"),
        (
            lambda dump: rewrite(dump / "manifest.json", '"canvas": 112', '"canvas": 126'),
            r"\(1, 3, 126, 126\)",
        ),
        (lambda dump: rewrite(dump / "manifest.json", '"pair_0.npz",', '"../pair_0.npz",'), "is damaged"),
    ],
)
def test_a_damaged_dump_is_reported_in_one_sentence(dump, tmp_path, damage, message):
    damage(dump)
    with pytest.raises(InputError, match=message) as error:
        write_report(dump, tmp_path / "report.html")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "report.html").exists()


def test_a_report_must_end_in_html(complete_dump, tmp_path):
    with pytest.raises(DumpError, match=r"must end in \.html"):
        write_report(complete_dump, tmp_path / "report.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*MODEL, "--images", "reference0.png", "blank.png", "target0.png"), "blank.png marks nothing"),
        ((*MODEL, "--images", "reference0.png", "mask1.png", "target0.png"), "differ in size"),
        ((*MODEL, "--images", "reference0.png", "mask0.png"), "REFERENCE MASK TARGET"),
        ((*MODEL, "--images", "reference0.png", "mask0.png", "none.png"), "none.png: there is no such file"),
        (("--segic", ".", "--checkpoint", "head.pth", "--images", *PAIRS), "no checkout"),
        ((*MODEL, "--images", "reference0.png", "colour.png", "target0.png", "--instances"), "colour image"),
        ((*MODEL, "--images", "reference0.png", "blank.png", "target0.png", "--instances"), "marks nothing"),
        ((*MODEL, "--images", *PAIRS, "--segic-args=--force_input_size 448"), "leave it out"),
        (("--segic", "checkout", "--checkpoint", "part.pth", "--images", *PAIRS), "missing: ['neck.1.bias'"),
        (
            ("--segic", "checkout", "--checkpoint", "mask0.png", "--images", *PAIRS),
            "not a readable checkpoint",
        ),
    ],
)
def test_wrong_arguments_of_the_script_are_refused(folder, tmp_path, arguments, message):
    process = run(folder, *arguments, "--out", tmp_path / "out")
    assert process.returncode == 2
    assert message in process.stderr
    assert "Traceback" not in process.stderr


def test_a_half_filled_folder_is_named(folder, tmp_path):
    """Refuse a folder that an interrupted run left, and one with other files, each with its reason."""
    arguments = (*MODEL, "--images", *PAIRS, "--out", tmp_path / "out")
    broken = Path(shutil.copytree(folder / "checkout", tmp_path / "checkout"))
    (broken / "model/segic.py").write_text("def build_model(args): raise RuntimeError('half')\n")
    process = run(folder, "--segic", broken, *arguments[2:])
    assert process.returncode == 2
    assert "cannot be built (RuntimeError: half)" in process.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dump_torch.txt"]
    process = run(folder, *arguments)
    assert process.returncode == 2
    assert "holds a dump that was interrupted; delete it" in process.stderr
    (tmp_path / "out/dump_torch.txt").rename(tmp_path / "out/notes.txt")
    assert "is not empty; delete it" in run(folder, *arguments).stderr


@pytest.mark.parametrize(
    "failure",
    [
        "urllib.error.URLError('unknown host')",
        "OSError(\"We couldn't connect to 'https://huggingface.co' to load this file\")",
        "RuntimeError('x') from ConnectionError('refused')",
    ],
)
def test_unreachable_hubs_are_named(folder, tmp_path, failure):
    broken = Path(shutil.copytree(folder / "checkout", tmp_path / "checkout"))
    (broken / "model/segic.py").write_text(f"import urllib.error\ndef build_model(args): raise {failure}\n")
    arguments = ("--checkpoint", "head.pth", "--images", *PAIRS, "--out", tmp_path / "out")
    process = run(folder, "--segic", broken, *arguments)
    assert process.returncode == 2
    assert "cannot be downloaded" in process.stderr
    assert "run this once where both are reachable" in process.stderr
    assert len(process.stderr.splitlines()) == 1


@pytest.mark.parametrize("installed", [None, "F.scaled_dot_product_attention(q, k, v)", "old attention"])
def test_torch_1_needs_the_code_of_dinov2_that_works_with_it(tmp_path, installed):
    hub = SimpleNamespace(get_dir=lambda: str(tmp_path))
    if installed:
        layers = tmp_path / "facebookresearch_dinov2_main/dinov2/layers"
        layers.mkdir(parents=True)
        (layers / "attention.py").write_text(installed)
    old = SimpleNamespace(__version__="1.13.1+cu117", hub=hub)
    if installed == "old attention":
        dump_torch.require_loadable(old)
    else:
        with pytest.raises(dump_torch.DumpError, match=r"torch 1\.13\.1.* put its commit da4b3825"):
            dump_torch.require_loadable(old)
    dump_torch.require_loadable(SimpleNamespace(__version__="2.13.0"))


def test_a_missing_package_is_named(folder, tmp_path):
    broken = Path(shutil.copytree(folder / "checkout", tmp_path / "checkout"))
    (broken / "train.py").write_text("import detectron2_is_not_here\n")
    arguments = ("--checkpoint", "head.pth", "--images", *PAIRS, "--out", tmp_path / "out")
    process = run(folder, "--segic", broken, *arguments)
    assert process.returncode == 2
    assert "package 'detectron2_is_not_here' is missing (needed for train)" in process.stderr
