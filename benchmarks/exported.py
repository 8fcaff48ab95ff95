"""Time exported programs beside the engine: onnxruntime, StableHLO through JAX, and ours, in turn.

    python -m benchmarks.exported
    python -m benchmarks.exported --weights emoji-tiny --rounds 20

Each round segments one image with one class, from pixels on the canvas to logits, once in each way, so that
other load of the machine falls on all of them. The median counts.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tyro
from jax import export

from segic_jax.data.preprocess import CanvasImage
from segic_jax.errors import ConfigError
from segic_jax.export.folder import export_model
from segic_jax.inference.segmenter import Segmenter
from segic_jax.models.encoding import Prototypes
from segic_jax.weights.catalog import DEFAULT


@dataclass
class Args:
    weights: str = DEFAULT
    """A name from `segic weights list`, or a model file."""
    rounds: int = 10
    """Rounds after the first, which compiles."""


def main(args: Args) -> None:
    """Export the model, run it in each way, and print a table."""
    if args.rounds < 1:
        raise ConfigError("--rounds must be at least 1.")
    segmenter = Segmenter.load(args.weights, precision="float32")
    with tempfile.TemporaryDirectory(prefix="segic_exported_") as folder:
        ways = make_ways(segmenter, Path(folder))
        logits = {name: run() for name, run in ways.items()}
        seconds = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, run in ways.items():
                begin = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - begin)
    first = next(iter(logits.values()))
    print(f"{segmenter.name}, canvas {segmenter.config.canvas}, one image, one class, on {jax.devices()[0]}")
    for name, times in seconds.items():
        difference = np.abs(logits[name] - first).max()
        print(
            f"{name:12} {1e3 * statistics.median(times):8.1f} ms  (fastest {1e3 * min(times):.1f} ms; "
            f"logits differ from the engine's by at most {difference:.1e})"
        )


def make_ways(segmenter: Segmenter, folder: Path) -> dict[str, Callable[[], np.ndarray]]:
    """Return functions that segment one random image and return its logits on the canvas."""
    import onnxruntime

    config, random = segmenter.config, np.random.default_rng(0)
    side = config.canvas
    image = random.integers(0, 256, (side, side, 3), np.uint8)
    prototype = random.normal(size=(1, config.backbone.width)).astype(np.float32)
    text = segmenter.bundle.text_features([""])
    for target in ("onnx", "stablehlo"):
        export_model(segmenter.bundle, folder, target)
    session = onnxruntime.InferenceSession(folder / "segment.onnx")
    program = export.deserialize(bytearray((folder / "segment.stablehlo").read_bytes()))
    compiled = jax.jit(program.call)
    inputs = {
        "images": image[None],
        "sizes": np.full((1, 2), side, np.int32),
        "prototypes": prototype,
        "text": text,
    }
    concept = Prototypes(prototype[None], prototype[None, :, None], np.ones((1, 1, 1), bool), text[None])

    def run_engine() -> np.ndarray:
        placed = CanvasImage(image, np.zeros((0, side, side), bool), (side, side))
        features = segmenter.engine.features([placed], 1)
        return np.asarray(segmenter.engine.decode(features, concept).logits)

    return {
        "engine": run_engine,
        "StableHLO": lambda: np.asarray(compiled(*inputs.values())[0]),
        "onnxruntime": lambda: np.asarray(session.run(["logits"], inputs)[0]),
    }


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
