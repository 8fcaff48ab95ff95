"""Time exported programs beside the engine and beside PyTorch's exports, in turn in one process.

    python -m benchmarks.exported
    python -m benchmarks.exported --vit s

Each round segments one image with one class, from pixels on the canvas to logits, once in each way, so that
other load of the machine falls on all of them. The median counts. OpenVINO and PyTorch take part where
they are installed.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from jax import export, jit

from benchmarks.conditions import conditions
from benchmarks.measure import alternating, clocked
from benchmarks.tables import markdown, milliseconds
from segic_jax.config import EfficientNetConfig
from segic_jax.data.preprocess import CanvasImage
from segic_jax.errors import ConfigError
from segic_jax.export.folder import export_model
from segic_jax.inference.engine import Engine
from segic_jax.inference.matching import KINDS, PATCHES
from segic_jax.inference.presence import read_calibration
from segic_jax.inference.segmenter import Segmenter
from segic_jax.models.encoding import Prototypes
from segic_jax.weights.catalog import DEFAULT

Run = Callable[[], np.ndarray]
ENGINE = "the engine"
PAUSE = 0.1  # seconds before each run, in which the threads of the way before it fall asleep


@dataclass
class Args:
    weights: str = DEFAULT
    """A name from `segic weights list`, or a model file."""
    vit: Literal["s", "b", "l"] | None = None
    """A DINOv2 of random weights instead, which needs PyTorch."""
    canvas: int = 448
    """Side of the canvas of --vit."""
    seconds: float = 120
    """Time of the measurement, which has 3 rounds at least."""


def main(args: Args) -> None:
    """Export the model, run it in each way, and print a table."""
    segmenter, module = _load(args)
    inputs = make_inputs(segmenter)
    with tempfile.TemporaryDirectory(prefix="segic_exported_") as folder:
        ways = make_ways(segmenter, inputs, Path(folder))
        if module is not None:
            from benchmarks.torch_exports import make_torch_ways

            name = "PyTorch" if args.vit else "efficientnet-lite-pytorch, features alone"
            theirs = make_torch_ways(module, inputs["images"], inputs["prototypes"], Path(folder))
            ways |= {f"{name}: {way}": run for way, run in theirs.items()}
        outputs = {name: run() for name, run in ways.items()}
        times = alternating({name: _rested(run) for name, run in ways.items()}, args.seconds)
    print("".join(f"{name}: {value}\n" for name, value in conditions(None).items()))
    model = f"DINOv2-{args.vit.upper()} of random weights" if args.vit else segmenter.name
    rounds = times[ENGINE].rounds
    print(f"{model}, canvas {segmenter.config.canvas}, one image, one class, {rounds} rounds:\n")
    rows = []
    for name, run in times.items():
        same = outputs[name].shape == outputs[ENGINE].shape
        rows.append(
            [
                name,
                milliseconds(run.median),
                f"{milliseconds(run.least)} - {milliseconds(run.most)}",
                f"{run.median / times[ENGINE].median:.2f}",
                f"{np.abs(outputs[name] - outputs[ENGINE]).max():.0e}" if same else "",
            ]
        )
    print(markdown(["way", "ms", "least - most", "of the engine's", "logits differ by"], rows))


def _load(args: Args) -> tuple[Segmenter, Any]:
    """Return the model, and what PyTorch runs beside it: the same model, the features alone, or None.

    Raises:
        ConfigError: --vit is given, and PyTorch is not installed.
    """
    has_torch = find_spec("torch") is not None
    if args.vit:
        if not has_torch:
            raise ConfigError("--vit needs PyTorch: pip install 'segic_jax[parity]'")
        from benchmarks.torch_exports import random_model

        bundle, module = random_model(args.vit, args.canvas)
        return Segmenter(bundle, precision="float32"), module
    segmenter = Segmenter.load(args.weights, precision="float32")
    if has_torch and isinstance(segmenter.config.backbone, EfficientNetConfig):
        from benchmarks.torch_exports import Features

        return segmenter, Features(segmenter.config.backbone, segmenter.config.canvas)
    return segmenter, None


def _rested(run: Run) -> Callable[[], float]:
    """Return a function that waits, runs, and returns the seconds of the run."""
    timed = clocked(run)

    def seconds() -> float:
        time.sleep(PAUSE)
        return timed()

    return seconds


def make_inputs(segmenter: Segmenter) -> dict[str, np.ndarray]:
    """Return the inputs of `segment`: a random image that fills the canvas, and a random class."""
    side, width = segmenter.config.canvas, segmenter.config.backbone.width
    random = np.random.default_rng(0)
    inputs = {
        "images": random.integers(0, 256, (1, side, side, 3), np.uint8),
        "sizes": np.full((1, 2), side, np.int32),
        "prototypes": random.normal(size=(1, width)).astype(np.float32),
        "text": segmenter.bundle.text_features([""]),
    }
    if read_calibration(segmenter.bundle.notes) is not None:
        patches = random.normal(size=(1, KINDS, PATCHES, width)) / np.sqrt(width)
        inputs |= {"patches": patches.astype(np.float16), "shots": np.ones(1, np.int32)}
    return inputs


def make_ways(segmenter: Segmenter, inputs: dict[str, np.ndarray], folder: Path) -> dict[str, Run]:
    """Return functions that segment one image and return its logits on the canvas.

    Of an EfficientNet there are those of the engine with onnxruntime, and those of the features alone.
    """
    import onnxruntime

    images, (size,), prototypes, text, *_ = inputs.values()
    for target in ("onnx", "stablehlo"):
        export_model(segmenter.bundle, folder, target)
    path = folder / "segment.onnx"
    session = onnxruntime.InferenceSession(path)
    compiled = jit(export.deserialize(bytearray((folder / "segment.stablehlo").read_bytes())).call)
    concept = Prototypes(prototypes[None], prototypes[None, :, None], np.ones((1, 1, 1), bool), text[None])
    no_masks = np.zeros((0, *images.shape[1:3]), bool)
    placed = CanvasImage(images[0], no_masks, tuple(size))

    def features(engine: Engine) -> np.ndarray:
        return np.asarray(engine.features([placed], 1).features.patches)

    def logits(engine: Engine) -> np.ndarray:
        return np.asarray(engine.decode(engine.features([placed], 1), concept).logits)

    ways: dict[str, Run] = {
        ENGINE: partial(logits, segmenter.engine),
        "StableHLO, run by JAX": lambda: np.asarray(compiled(*inputs.values())[0]),
        "ONNX, run by onnxruntime": lambda: np.asarray(session.run(["logits"], inputs)[0]),
    }
    if find_spec("openvino"):
        import openvino

        network = openvino.compile_model(path, "CPU")
        ways["ONNX, run by OpenVINO"] = lambda: network(inputs)["logits"]
    if isinstance(segmenter.config.backbone, EfficientNetConfig):
        other = Engine(segmenter.bundle, segmenter.engine.devices, backend="onnxruntime")
        ways[f"{ENGINE}, backend onnxruntime"] = partial(logits, other)
        ways[f"{ENGINE}, features alone"] = partial(features, segmenter.engine)
        ways[f"{ENGINE}, features alone, backend onnxruntime"] = partial(features, other)
    return ways


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
