"""Time the training-free method beside the official code of INSID3, in turn and in one process.

    python -m benchmarks.training_free --insid3 INSID3 --dinov3 dinov3 --size s --canvas 512

Both run the same random weights of a published DINOv3 on two photographs of examples/. The official code
encodes the reference again for every target; ours does so, too ("with the reference"), or keeps a Context.
It needs torch, torchvision, einops and scikit-learn, and checkouts of both repositories.
"""

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
# With random weights a blank image differs in few directions; further ones are rounding, in both.
COMPONENTS = 40
LEAST = 0.0  # score of a cluster: with random weights few reach the published 0.2
SIZES = ("s", "b", "l")


def main() -> None:
    """Print the median time of each way, and ours divided by theirs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--insid3", type=Path, required=True, help="checkout of visinf/INSID3")
    parser.add_argument("--dinov3", type=Path, required=True, help="checkout of facebookresearch/dinov3")
    parser.add_argument("--size", choices=SIZES, default="s")
    parser.add_argument("--canvas", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    args = parser.parse_args()
    sys.path[:0] = [str(args.insid3), str(args.dinov3)]
    pixels, mask, target = read_example()
    weights = random_weights(args.size)
    ways = {"official": official(weights, args, pixels, mask, target)}
    ways |= ours(weights, args, pixels, mask, target)
    masks = {name: run() for name, run in ways.items()}  # compiles; does not count
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    theirs = statistics.median(times["official"])
    print(f"DINOv3-{args.size}, {args.canvas} pixels, {args.rounds} rounds, {args.threads} threads")
    print(f"The official mask fills {masks['official'].mean():.1%} of the image.")
    for name, values in times.items():
        union = np.count_nonzero(masks[name] | masks["official"])
        same = np.count_nonzero(masks[name] & masks["official"]) / union if union else 1.0
        median = statistics.median(values)
        print(f"{name:<20}{median:8.2f} s {median / theirs:6.2f}   IoU with the official mask {same:.4f}")


def read_example() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a reference, its mask and a target."""
    from PIL import Image

    folder = ROOT / "examples"
    pixels = np.asarray(Image.open(folder / "cat_reference.jpg").convert("RGB"))
    mask = np.asarray(Image.open(folder / "cat_reference_mask.png").convert("L")) > 127
    return pixels, mask, np.asarray(Image.open(folder / "targets/kitten.jpg").convert("RGB"))


def random_weights(size: str) -> dict[str, np.ndarray]:
    """Return weights under the official names, whose features tell the parts of a photograph apart."""
    from segic_jax.config import DinoV3Config
    from segic_jax.models.backbones import backbone_template
    from segic_jax.weights.torch_names import to_torch

    params = backbone_template(DinoV3Config.dinov3(size)).init(0)
    random = np.random.default_rng(0)
    tensors = {name: np.array(value) for name, value in to_torch(params).items()}
    for name, value in tensors.items():
        if name.endswith(".weight") and value.ndim > 1:
            scale = 0.1 if "patch_embed" in name else np.prod(value.shape[1:]) ** -0.5
            tensors[name] = (scale * random.normal(size=value.shape)).astype(np.float32)
        elif name.endswith(".gamma"):
            tensors[name] = np.full(value.shape, 0.2, np.float32)
    return tensors


def official(weights: dict, args: argparse.Namespace, pixels, mask, target) -> Callable[[], np.ndarray]:
    """Return a function that runs the official code."""
    import torch
    from PIL import Image

    from segic_jax.config import DinoV3Config
    from tools import insid3_goldens

    insid3 = importlib.import_module("models.insid3")
    torch.set_num_threads(args.threads)
    heads = DinoV3Config.dinov3(args.size).num_heads
    model = insid3.INSID3(
        insid3_goldens.official_encoder(weights, heads),
        image_size=args.canvas,
        svd_components=COMPONENTS,
        merge_threshold=LEAST,
        device="cpu",
    )
    reference, image, truth = Image.fromarray(pixels), Image.fromarray(target), torch.from_numpy(mask)

    def run() -> np.ndarray:
        model.set_reference(reference, truth)
        model.set_target(image)
        with torch.no_grad():
            return model.segment().numpy()

    return run


def ours(
    weights: dict, args: argparse.Namespace, pixels, mask, target
) -> dict[str, Callable[[], np.ndarray]]:
    """Return a function that fits and predicts, and one that predicts with a kept Context."""
    from segic_jax import Example, Segmenter
    from segic_jax.config import DinoV3Config, ModelConfig
    from segic_jax.inference.training_free.settings import TrainingFree
    from segic_jax.models.backbones import backbone_template
    from segic_jax.weights.bundle import Bundle
    from segic_jax.weights.torch_names import from_torch

    config = DinoV3Config.dinov3(args.size)
    backbone = from_torch(weights, backbone_template(config).shapes)
    bundle = Bundle(
        ModelConfig(config, text_width=1, canvas=args.canvas), backbone, {}, {"": np.zeros(1, np.float32)}
    )
    segmenter = Segmenter(bundle, method=TrainingFree(COMPONENTS, least=LEAST, canvas=args.canvas))
    example = Example(pixels, mask, name="object")
    kept = segmenter.fit(example)
    return {
        "with the reference": lambda: segmenter.predict(target, segmenter.fit(example)).masks[0],
        "kept Context": lambda: segmenter.predict(target, kept).masks[0],
    }


if __name__ == "__main__":
    main()
