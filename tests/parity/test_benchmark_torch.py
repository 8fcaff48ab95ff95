"""Test that PyTorch's side of the benchmark does our work, and calls the official entry points."""

import dataclasses
import json
import sys
from itertools import product
from pathlib import Path

import jax
import numpy as np
import pytest
from requirements import require_torch, require_transformers
from tiny import CONFIG

from benchmarks import exported, matrix, official, run
from benchmarks.stages import STAGES, Size
from benchmarks.torch_side import TorchError, request_for
from segic_jax.config import ViTConfig
from segic_jax.export.programs import make_programs
from segic_jax.inference.segmenter import Segmenter
from segic_jax.train.flops import count_flops

torch = require_torch()
require_transformers()
from test_dump_torch import CHECKOUT
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import official_worker, torch_exports, torch_worker

VIT = ViTConfig(patch_size=14, width=64, depth=1, num_heads=4, pos_grid=8)
MODEL = dataclasses.replace(CONFIG, backbone=VIT, canvas=112)  # the canvas of the stand-in below


@pytest.mark.parametrize(
    ("stage", "ffn"), [*product(("backbone", "products"), ("mlp", "swiglu")), ("decoder", "mlp")]
)
def test_both_sides_do_the_same_number_of_operations(stage, ffn):
    model = dataclasses.replace(MODEL, backbone=dataclasses.replace(VIT, ffn=ffn))
    size = Size(model, batch=2, concepts=3)
    request = request_for(stage, size)
    unfused = sdpa_kernel(SDPBackend.MATH)  # the fused attention of a CPU is not counted
    with unfused, FlopCounterMode(display=False) as counter, torch.inference_mode():
        call, _ = torch_worker.BUILDERS[request.pop("kind")](**request)
        call()
    ours = count_flops(STAGES[stage](size).function, *STAGES[stage](size).arguments)
    assert counter.get_total_flops() == pytest.approx(ours, rel=0.03)


def test_the_model_of_the_exports_is_ours():
    bundle, module = torch_exports.random_model("s", 112)
    segmenter = Segmenter(bundle)
    inputs = exported.make_inputs(segmenter)
    _, segment = make_programs(bundle)
    ours = jax.jit(segment.function)(*inputs.values())[0]
    with torch.inference_mode():
        theirs = module(torch.tensor(inputs["images"]).float(), torch.tensor(inputs["prototypes"]))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_a_run_compares_with_pytorch_and_the_official_code(tmp_path, monkeypatch):
    """Use the stand-in of test_dump_torch.py for the official code."""
    monkeypatch.setattr(matrix, "QUICK", {"batches": (1,), "concepts": (1,), "shots": (1,)})
    monkeypatch.setattr(official, "CONCEPTS", (2,))
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{Path(__file__).parents[2]}")
    config_file = {"model/backbone.py": 'MODEL_CONFIG = {"dinov2_b": {}}'}
    for name, text in (CHECKOUT | config_file).items():
        path = tmp_path / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("parse_args()", "parse_known_args()[0]"))
    args = run.Args(quick=True, stages=("backbone",), seconds=0, out=tmp_path, official=tmp_path / "checkout")
    run.measure(args, [dataclasses.replace(MODEL, head=dataclasses.replace(MODEL.head, depth=1))])
    report = json.loads((tmp_path / "run.json").read_text())
    assert "threads" in report["conditions"]["torch"]
    compared = [(row["stage"], row["concepts"]) for row in report["rows"] if row["ratio"]]
    assert compared == [("backbone", 1), ("backbone", 1)]
    assert all(row["their_memory"] is not None for row in report["rows"])
    (comparison,) = report["official"]
    assert (comparison["canvas"], comparison["concepts"]) == (112, 2)
    assert comparison["times"].keys() == {"official", *comparison["ratios"]}
    ratio = comparison["times"]["cached Context"]["median"] / comparison["times"]["official"]["median"]
    assert comparison["ratios"]["cached Context"] == pytest.approx(ratio)


def test_a_second_model_gets_random_weights_too(monkeypatch):
    """The official model is built once for each canvas, in one process."""
    import transformers

    monkeypatch.setattr(torch.hub, "load", torch.hub.load)
    monkeypatch.setattr(transformers.CLIPTextModel, "from_pretrained", None)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", None)
    monkeypatch.setenv("XFORMERS_DISABLED", "")
    calls = []
    monkeypatch.setattr(
        official_worker, "_hub_load", lambda *args, **settings: calls.append((args, settings))
    )
    for _ in range(2):
        official_worker.use_random_weights(Path("checkout"))
        torch.hub.load("facebookresearch/dinov2", "dinov2_vitb14")
    assert calls == [(("checkout", "dinov2_vitb14"), {"source": "local", "pretrained": False})] * 2


def test_packages_that_are_not_installed_have_stand_ins(monkeypatch):
    monkeypatch.setattr(official_worker, "PACKAGES", ("no_such_package", "torch"))
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    official_worker.use_stand_ins()
    from no_such_package.layers import Base, decorate

    @decorate
    class Model(Base):
        size = Base.SIZE

    with pytest.raises(TypeError, match="not callable"):
        Model()
    with pytest.raises(ModuleNotFoundError):
        import another_package  # noqa: F401
    assert torch.__version__


def test_a_folder_without_the_official_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "has_torch", lambda: False)
    with pytest.raises(TorchError, match="is no checkout of the official repository: no train"):
        run.measure(run.Args(official=tmp_path, out=tmp_path), [MODEL])
    assert list(tmp_path.iterdir()) == []
