"""Test exported StableHLO: a process without this package runs it."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tiny
from exported import REFERENCES, TARGETS, calibrated, compare, expect, extended_bundle, make_inputs
from jax import export

from segic_jax.export.folder import MANIFEST, export_model
from segic_jax.inference.segmenter import Segmenter

RUN = """
import sys
sys.modules["segic_jax"] = None  # it cannot be imported
import numpy as np
from jax import export
folder, source, target = sys.argv[1:]
files = (open(f"{folder}/{name}.stablehlo", "rb").read() for name in ("encode", "segment"))
encode, segment = map(export.deserialize, map(bytearray, files))
arrays = np.load(source)
encoded = encode.call(arrays["references"], arrays["reference_sizes"], arrays["masks"])
shots = [np.ones(len(arrays["references"]), np.int32)] * (len(encoded) > 2)
segmented = segment.call(arrays["targets"], arrays["target_sizes"], *encoded, *shots)
np.savez(source, count=len(encoded))
np.savez(target, *map(np.asarray, [*encoded, *segmented]))
"""


def run_elsewhere(folder, inputs):
    """Run both programs in a process of JAX and NumPy alone, and return what they give."""
    source, target = folder / "inputs.npz", folder / "outputs.npz"
    np.savez(source, **inputs._asdict())
    command = [sys.executable, "-c", RUN, str(folder), str(source), str(target)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert process.returncode == 0, process.stderr
    with np.load(target) as arrays:
        outputs = [arrays[name] for name in arrays.files]
    count = int(np.load(source)["count"])
    return outputs[:count], outputs[count:]


@pytest.mark.parametrize(("make", "batch"), [(tiny.bundle, None), (lambda: calibrated(tiny.bundle()), 2)])
def test_another_process_gives_what_the_api_gives(tmp_path, make, batch):
    bundle = make()
    references = REFERENCES[: batch or 3]
    manifest = export_model(bundle, tmp_path, "stablehlo", batch=batch)
    outputs = run_elsewhere(tmp_path, make_inputs(bundle.config.canvas, references, TARGETS))
    compare(expect(Segmenter(bundle), references, TARGETS), *outputs)
    assert manifest == json.loads((tmp_path / MANIFEST).read_text())
    assert manifest["target"]["platforms"] == ["cpu", "cuda", "tpu"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".npz") == [
        "encode.stablehlo",
        MANIFEST,
        "segment.stablehlo",
    ]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_reduced_precision_is_exported(tmp_path, precision):
    bundle = tiny.bundle()
    export_model(bundle, tmp_path, "stablehlo", precision=precision)
    inputs = make_inputs(bundle.config.canvas, REFERENCES, TARGETS)
    (prototypes, _), (logits, *_) = run_elsewhere(tmp_path, inputs)
    expected = expect(Segmenter(bundle), REFERENCES, TARGETS)
    assert np.abs(prototypes - expected.prototypes).max() < 0.05 * np.abs(expected.prototypes).max()
    assert np.abs(logits - expected.logits).max() < 0.2 * np.abs(expected.logits).max()


def test_attention_over_many_patches_is_exported(tmp_path):
    config = replace(tiny.CONFIG, canvas=264)  # 33 x 33 patches: other kernels on each platform
    bundle = replace(tiny.bundle(), config=config)
    export_model(bundle, tmp_path, "stablehlo", batch=1)
    outputs = run_elsewhere(tmp_path, make_inputs(264, REFERENCES[:1], TARGETS[:1]))
    compare(expect(Segmenter(bundle), REFERENCES[:1], TARGETS[:1]), *outputs)


def test_depthwise_convolutions_are_sums(tmp_path):
    """XLA runs grouped convolutions several times slower on a CPU."""
    export_model(extended_bundle(), tmp_path, "stablehlo", batch=1)
    text = export.deserialize(bytearray((tmp_path / "encode.stablehlo").read_bytes())).mlir_module()
    assert set(re.findall(r"feature_group_count = (\d+)", text)) == {"1"}
