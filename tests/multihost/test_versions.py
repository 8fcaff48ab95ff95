"""Compare two environments with different versions of JAX: logits, and checkpoints that both continue.

    SEGIC_OTHER_PYTHON=OTHER/bin/python python -m pytest -n 0 tests/multihost/test_versions.py

The other environment needs the dependencies of this project, not the project itself.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
from test_training_hosts import HELPERS, curve, finish, start

OTHER = os.environ.get("SEGIC_OTHER_PYTHON", "")
pytestmark = pytest.mark.skipif(not OTHER, reason="SEGIC_OTHER_PYTHON names no other environment")
LOGITS = """
import sys
import jax
import numpy as np
from segic_jax.inference.example import Example
from segic_jax.inference.segmenter import Segmenter
random = np.random.default_rng(0)
image = random.integers(0, 256, (20, 26, 3), np.uint8).repeat(9, 0).repeat(9, 1)
mask = np.zeros(image.shape[:2], bool)
mask[30:120, 40:150] = True
segmenter = Segmenter.load(sys.argv[1], precision="float32", rounded_canvas=False)
context = segmenter.fit([Example(image, mask)])
np.save(sys.argv[2], segmenter.predict(image[:, ::-1].copy(), context).logits())
print(jax.__version__)
"""


def logits(python, weights, path):
    """Return the version of JAX, and the logits of one image."""
    environment = os.environ | {"PYTHONPATH": str(HELPERS.parents[1])}
    command = [python, "-c", LOGITS, weights, path]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()[-1], np.load(path)


@pytest.mark.parametrize("weights", ["photo", "emoji-tiny"])
def test_the_same_image_and_weights_give_the_same_logits(tmp_path, weights):
    version, ours = logits(sys.executable, weights, tmp_path / "ours.npy")
    other_version, theirs = logits(OTHER, weights, tmp_path / "theirs.npy")
    assert version != other_version
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4)
    print(f"{weights}, jax {version} and {other_version}: {np.abs(theirs - ours).max():.1e} apart")


@pytest.mark.parametrize(
    "pythons", [(sys.executable, OTHER), (OTHER, sys.executable)], ids=["ours", "theirs"]
)
def test_a_checkpoint_of_one_continues_in_the_other(tmp_path, pythons):
    first, second = pythons
    finish(start(tmp_path / "complete", 1, 2, python=first))
    finish(start(tmp_path / "both", 1, 2, "stop=3", python=first))
    finish(start(tmp_path / "both", 1, 2, python=second))
    np.testing.assert_allclose(curve(tmp_path / "both"), curve(tmp_path / "complete"), rtol=2e-6)
