"""Provide fixtures that read the goldens, compact (tests/goldens) or full (the folder SEGIC_GOLDENS)."""

import atexit
import gzip
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax
import jaxtyping
import numpy as np
import pytest
from safetensors.numpy import load

# Without it accelerators round the operands of products. The variable is for processes that tests start.
jax.config.update("jax_default_matmul_precision", "highest")
os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"

# Many tests run the same programs, some of them in processes of their own: each is compiled once a session.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="segic_jax_tests_")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

# Files and folders of `heavy` tests, about the longest first: they start processes, train, build
# documentation or compile for long. `make test-fast` leaves them out. With `--no-loadscope-reorder` workers
# take the files in this order, so that none has a long one left at the end.
TESTS = Path(__file__).parent
HEAVY = (
    "parity/test_goldens_other_sizes.py",
    "multihost",
    "train/test_train_run.py",
    "train/test_loop.py",
    "train/test_packing.py",
    "test_wheel.py",
    "evaluate/test_episodes.py",
    "evaluate/test_semantic.py",
    "evaluate/test_runner.py",
    "evaluate/test_run_log.py",
    "commands/test_eval.py",
    "weights/test_convert.py",
    "data/test_build.py",
    "models/test_segic.py",
    "models/test_attention.py",
    "models/test_compiled_attention.py",
    "models/test_prompt_decoder.py",
    "models/test_correspondence.py",
    "train/test_forward.py",
    "train/test_pretrain.py",
    "benchmarks",
    "studies",
    "parity",
    "commands/test_video.py",
    "commands/test_predict.py",
    "commands/test_calibrate.py",
    "commands/test_doctor.py",
    "commands/test_plan.py",
    "inference/training_free/test_training_free.py",
    "inference/training_free/test_insid3.py",
    "inference/test_tracker.py",
    "inference/test_engine.py",
    "inference/test_onnx_backbone.py",
    "inference/test_presence.py",
    "inference/test_own_images.py",
    "app/test_page.py",
    "export",
    "server",
    "commands/test_serve.py",
    "commands/test_export.py",
    "app/test_session.py",
    "test_docs.py",
    "test_docs_site.py",
    "data/test_numpy_pickle.py",
    "data/test_pipeline.py",
    "data/test_paco_part.py",
    "weights/test_pth.py",
    "evaluate/test_video_run.py",
    "evaluate/test_calibration.py",
    "commands/test_explain_command.py",
    "train/test_checkpoint.py",
    "runtime/test_compile_cache.py",
    "runtime/test_metric_writer.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the heavy tests and put them first."""
    ranks = {}
    for item in items:
        path = item.path.relative_to(TESTS)
        names = {path.as_posix(), path.parts[0]}
        ranks[item] = next((rank for rank, name in enumerate(HEAVY) if name in names), len(HEAVY))
        if ranks[item] < len(HEAVY):
            item.add_marker("heavy")
    items.sort(key=ranks.__getitem__)


@pytest.fixture
def unchecked_types():
    """Switch the checks of annotations off, so that a test can pass arguments of wrong types."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(scope="module")
def quick_compilation():
    """Compile without most optimisations, which is quicker, here and in processes that tests start."""
    before = jax.config.read("jax_disable_most_optimizations")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        jax.config.update("jax_disable_most_optimizations", True)
        yield
    jax.config.update("jax_disable_most_optimizations", before)


FULL = os.environ.get("SEGIC_GOLDENS")
FOLDER = Path(FULL) if FULL else Path(__file__).parent / "goldens"


class Golden(dict):
    """Map names to arrays, and skip a test that needs an array which only the full set has."""

    def __missing__(self, name: str):
        if name in self.get("@dropped", ()):
            pytest.skip(f"{name} is only in a full set of goldens (environment variable SEGIC_GOLDENS)")
        raise KeyError(name)


@dataclass(frozen=True)
class Gradient:
    """Hold the golden gradient of one tensor in torch's layout: all entries, or a sample."""

    index: np.ndarray  # into the flattened tensor
    values: np.ndarray
    largest: float  # largest absolute entry of the whole tensor
    sum: float  # of the whole tensor

    def error(self, gradient: np.ndarray) -> float:
        """Return the largest difference, divided by the largest entry unless that is zero."""
        difference = np.abs(np.asarray(gradient).ravel()[self.index] - self.values).max()
        return float(difference / (self.largest or 1.0))


@pytest.fixture(scope="session")
def golden():
    """Return a function that reads a file: golden("text") gives {name: array}."""
    return lambda name: _compact(name) if not FULL else _full(name)


@pytest.fixture(scope="session")
def golden_weights():
    """Return a function that reads weights: golden_weights("segic") gives a float32 official state dict."""
    return lambda name: _compact(f"{name}.weights") if not FULL else _full_weights(name)


@pytest.fixture(scope="session")
def golden_gradients():
    """Return a function that reads gradients of a file as {official name: Gradient}."""

    def read(name: str) -> dict[str, Gradient]:
        if FULL:
            return {
                key: Gradient(
                    np.arange(g.size), g.ravel(), float(np.abs(g).max()), float(g.sum(dtype=np.float64))
                )
                for key, g in _full_weights(f"{name}_grads").items()
            }
        stored = _compact(f"{name}_grads.weights")
        return {
            key: Gradient(stored[key + "@index"], stored[key], *stored[key + "@largest_sum"].tolist())
            for key in stored
            if "@" not in key
        }

    return read


@cache
def _full(name: str) -> Golden:
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return Golden({key: arrays[key] for key in arrays.files})


@cache
def _full_weights(name: str) -> dict[str, np.ndarray]:
    path = FOLDER / f"{name}.safetensors"
    if path.exists():
        return load(path.read_bytes())
    return load(gzip.decompress((FOLDER / f"{name}.safetensors.gz").read_bytes()))


@cache
def _compact(name: str) -> Golden:
    """Undo what goldens/compact.py `pack` did."""
    arrays = Golden()
    with np.load(FOLDER / f"{name}.npz") as stored:
        for key in stored.files:
            array, (base, _, form) = stored[key], key.partition("@")
            if form == "same":
                arrays[base] = arrays[str(array)]
            elif form == "uint8":
                arrays[base] = array.astype(np.float32)
            elif form == "bfloat16":
                arrays[base] = (array.astype(np.uint32) << 16).view(np.float32)
            elif form == "uint24":
                steps = array.astype(np.uint32) @ np.array([1, 1 << 8, 1 << 16], np.uint32)
                arrays[base] = (steps / 2**24).astype(np.float32)
            else:
                arrays[key] = array
    for array in arrays.values():
        array.setflags(write=False)  # they are shared by all tests
    return arrays
