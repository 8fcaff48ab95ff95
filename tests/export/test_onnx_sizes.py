"""Test that the sizes of the official models export to ONNX and run, with random weights; minutes each."""

import time

import numpy as np
import pytest
from exported import compare, expect, make_inputs
from requirements import require_module
from test_onnx import run_onnx
from tiny import parameters, random_image

from segic_jax.config import ModelConfig, ViTConfig
from segic_jax.export.folder import export_model
from segic_jax.inference.segmenter import Segmenter
from segic_jax.models.backbones import backbone_template
from segic_jax.models.head import head_template
from segic_jax.weights.bundle import Bundle

onnx = require_module("onnx")
CANVAS = 448


@pytest.mark.slow
@pytest.mark.parametrize("size", ["b", "l"])
def test_onnxruntime_gives_what_the_api_gives(size, tmp_path, capsys):
    config = ModelConfig(backbone=ViTConfig.dinov2(size), canvas=CANVAS)
    bundle = Bundle(
        config=config,
        backbone=parameters(backbone_template(config.backbone), 0),
        head=parameters(head_template(config), 1),
        text={"": np.zeros(config.text_width, np.float32)},
    )
    begin = time.perf_counter()
    manifest = export_model(bundle, tmp_path, "onnx")
    exported = time.perf_counter()
    for program in manifest["programs"]:
        onnx.checker.check_model(str(tmp_path / f"{program['name']}.onnx"), full_check=True)
    pairs = [random_image(0, 300, CANVAS)]
    outputs = run_onnx(tmp_path, make_inputs(CANVAS, pairs, pairs))
    ran = time.perf_counter()
    with capsys.disabled():
        size_mb = sum(file["bytes"] for program in manifest["programs"] for file in program["files"]) / 1e6
        print(
            f"DINOv2-{size.upper()}: exported in {exported - begin:.0f} s, {size_mb:.0f} MB, "
            f"checked and run in {ran - exported:.0f} s"
        )
    compare(expect(Segmenter(bundle), pairs, pairs), *outputs)
