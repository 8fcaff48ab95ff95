"""Test exported ONNX files with onnxruntime, on small models and on those of the package."""

import hashlib
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from exported import REFERENCES, TARGETS, calibrated, compare, expect, extended_bundle, make_inputs
from PIL import Image
from requirements import require_module

onnx = require_module("onnx")
onnxruntime = require_module("onnxruntime")
require_module("jax2onnx")

from segic_jax.data.images import read_image
from segic_jax.export.folder import MANIFEST, export_model
from segic_jax.export.onnx_file import OPSET
from segic_jax.inference.example import Example
from segic_jax.inference.segmenter import Segmenter
from segic_jax.models.params import count

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_onnx(folder: Path, inputs):
    """Run both programs with onnxruntime, and return what they give."""
    encode, segment = (
        onnxruntime.InferenceSession(folder / f"{name}.onnx") for name in ("encode", "segment")
    )
    references = {"images": inputs.references, "sizes": inputs.reference_sizes, "masks": inputs.masks}
    encoded = encode.run(None, references)
    feed = {"images": inputs.targets, "sizes": inputs.target_sizes}
    feed |= dict(zip((port.name for port in encode.get_outputs()), encoded, strict=True))
    if "patches" in feed:
        feed["shots"] = np.ones(len(inputs.references), np.int32)
    return encoded, segment.run(None, feed)


@pytest.mark.parametrize(
    ("make", "batch"),
    [
        (tiny.bundle, None),
        (lambda: calibrated(tiny.bundle()), None),
        (lambda: calibrated(extended_bundle()), 2),
    ],
)
def test_onnxruntime_gives_what_the_api_gives(tmp_path, make, batch):
    bundle = make()
    export_model(bundle, tmp_path, "onnx", batch=batch)
    references = REFERENCES[: batch or 3]
    outputs = run_onnx(tmp_path, make_inputs(bundle.config.canvas, references, TARGETS))
    compare(expect(Segmenter(bundle), references, TARGETS), *outputs)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_weights_may_be_rounded(tmp_path, precision):
    bundle = tiny.bundle()
    manifest = export_model(bundle, tmp_path, "onnx", precision=precision)
    inputs = make_inputs(bundle.config.canvas, REFERENCES, TARGETS)
    (prototypes, _), (logits, *_) = run_onnx(tmp_path, inputs)
    expected = expect(Segmenter(bundle), REFERENCES, TARGETS)
    difference = np.abs(prototypes - expected.prototypes).max()
    assert 0 < difference < 0.05 * np.abs(expected.prototypes).max()
    assert np.abs(logits - expected.logits).max() < 0.2 * np.abs(expected.logits).max()
    assert manifest["precision"] == {
        "backbone": precision,
        "backbone_computes_in": "float32",
        "head": "float32",
    }


@pytest.fixture(scope="module", params=["photo", "emoji-tiny"])
def exported(request, tmp_path_factory):
    """Return a packaged model, and the folder that it was exported to."""
    segmenter = Segmenter.load(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    export_model(segmenter.bundle, folder, "onnx")
    return segmenter, folder


@pytest.fixture(scope="module")
def pairs():
    """Return the example references with their masks."""
    return [
        (
            read_image(EXAMPLES / f"{name}_reference.jpg"),
            read_image(EXAMPLES / f"{name}_reference_mask.png")[..., 0] > 127,
        )
        for name in ("cat", "bird")
    ]


def test_packaged_models_give_what_the_api_gives(exported, pairs):
    segmenter, folder = exported
    outputs = run_onnx(folder, make_inputs(segmenter.config.canvas, pairs, pairs[::-1]))
    compare(expect(segmenter, pairs, pairs[::-1]), *outputs)


def test_packaged_models_lose_nothing_in_float16(exported, pairs, tmp_path):
    segmenter, folder = exported
    backbone, head = (4 * count(part) for part in (segmenter.bundle.backbone, segmenter.bundle.head))
    export_model(segmenter.bundle, tmp_path, "onnx", precision="float16")
    outputs = run_onnx(tmp_path, make_inputs(segmenter.config.canvas, pairs, pairs[::-1]))
    compare(expect(segmenter, pairs, pairs[::-1]), *outputs)  # their own files are in float16
    for name, weights in (("encode", backbone), ("segment", backbone + head)):
        large, small = (
            sum(file.stat().st_size for file in each.glob(f"{name}.onnx*")) for each in (folder, tmp_path)
        )
        assert large - small > 0.45 * weights


def test_the_manifest_describes_the_files(exported):
    _, folder = exported
    manifest = json.loads((folder / MANIFEST).read_text())
    for program in manifest["programs"]:
        for file in program["files"]:
            assert hashlib.sha256((folder / file["name"]).read_bytes()).hexdigest() == file["sha256"]
        session = onnxruntime.InferenceSession(folder / f"{program['name']}.onnx")
        for ports, described in ((session.get_inputs(), "inputs"), (session.get_outputs(), "outputs")):
            assert [(port.name, port.shape) for port in ports] == [
                (port["name"], port["shape"]) for port in program[described]
            ]
        model = onnx.load(folder / f"{program['name']}.onnx")
        assert [item.version for item in model.opset_import if not item.domain] == [OPSET]
        assert {item.domain for item in model.opset_import} <= {"", "ai.onnx"}


def test_the_example_script_gives_the_masks_of_the_api(exported, tmp_path, monkeypatch, capsys):
    segmenter, folder = exported
    names = [str(EXAMPLES / name) for name in ("cat_reference.jpg", "cat_reference_mask.png", "targets")]
    monkeypatch.setattr(sys, "argv", ["segment_with_onnx.py", str(folder), *names, str(tmp_path)])
    spec = importlib.util.spec_from_file_location("segment_with_onnx", EXAMPLES / "segment_with_onnx.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main()
    printed = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    context = segmenter.fit([Example(names[0], names[1])])
    targets = [path for path in sorted(Path(names[2]).iterdir()) if path.suffix == ".jpg"]
    assert len(targets) == len(list(tmp_path.iterdir())) > 0
    for path in targets:
        result = segmenter.predict(path, context)
        mask = np.asarray(Image.open(tmp_path / f"{path.stem}.png")) > 0
        different = mask != result.mask(0)
        # Decoders of JPEG differ in the last bit of some pixels.
        assert different.mean() < 1e-3
        assert not different[np.abs(result.logits(0)) > 0.05].any()
        assert bool(result.present[0]) == ("not in the image" not in printed[path.name])
