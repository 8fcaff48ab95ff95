"""Write tests/goldens/insid3.npz with the official code of INSID3, on random weights of a small DINOv3.

    git clone https://github.com/visinf/INSID3 && git clone https://github.com/facebookresearch/dinov3
    pip install torch torchvision einops scikit-learn
    python tools/insid3_goldens.py --insid3 INSID3 --dinov3 dinov3

The images are those of examples/. `--seed` and `--out` write a golden of other weights,
which `SEGIC_INSID3_GOLDEN=FILE pytest tests/inference/training_free` reads instead.
"""

import argparse
import importlib
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
WIDTH, DEPTH, HEADS, HIDDEN = 48, 2, 4, 96
CANVAS, COMPONENTS = 256, 12
# Name: references, target, similarity of clusters, least score. A reference is an example with its mask, or
# with a box y0,y1,x0,x1 in pixels of the canvas.
SPECK = "cat:0,5,0,60"  # holds the first pixel of some patches, and the centre of none
DOT = "cat:87,90,155,158"  # holds neither: its centre of mass stands for it
EPISODES = {
    "one": (("cat",), "kitten", 0.6, 0.2),
    "fine": (("bird",), "kingfisher", 0.75, 0.05),
    "two": (("cat", "bird"), "cat_with_yarn", 0.7, 0.1),
    "three": (("cat", "bird", SPECK), "owl", 0.7, 0.02),
    "speck": ((SPECK,), "dog_on_porch", 0.65, 0.05),
    "dot": ((DOT,), "cat_portrait", 0.65, 0.0),
}
FEATURES = ("one", "three")  # episodes whose debiased features are kept


def main() -> None:
    """Write the file."""
    import torch

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--insid3", type=Path, required=True, help="checkout of visinf/INSID3")
    parser.add_argument("--dinov3", type=Path, required=True, help="checkout of facebookresearch/dinov3")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--out", type=Path, default=ROOT / "tests/goldens/insid3.npz")
    args = parser.parse_args()
    sys.path[:0] = [str(args.insid3), str(args.dinov3)]
    weights = random_weights(args.seed)
    arrays = {f"weights.{name}": to_bfloat16(value) for name, value in weights.items()}
    arrays["sizes"] = np.array([WIDTH, DEPTH, HEADS, HIDDEN, CANVAS, COMPONENTS])
    torch.set_num_threads(1)
    encoder = official_encoder(weights, HEADS)
    for name, (references, target, similarity, least) in EPISODES.items():
        recorded = run_official(encoder, references, target, similarity, least)
        if name not in FEATURES:
            del recorded["debiased"]
        arrays |= {f"{name}.{key}": value for key, value in recorded.items()}
        arrays[f"{name}.settings"] = np.array([similarity, least])
        arrays[f"{name}.images"] = np.array([*references, target])
        clusters = int(recorded["labels"].max()) + 1 if "labels" in recorded else 0
        inside = recorded["inside"].mean() if "inside" in recorded else 0
        print(f"{name}: {recorded['candidates'].sum()} candidates, {clusters} clusters, mask {inside:.3f}")
    np.savez_compressed(args.out, **arrays)
    print(f"{args.out}: {args.out.stat().st_size} bytes")


def reference_mask(reference: str) -> tuple[Path, np.ndarray]:
    """Return image and mask of a reference."""
    from PIL import Image

    name, _, box = reference.partition(":")
    image = EXAMPLES / f"{name}_reference.jpg"
    mask = np.array(Image.open(EXAMPLES / f"{name}_reference_mask.png").convert("L")) > 127
    if box:
        height, width = mask.shape
        y0, y1, x0, x1 = (int(number) for number in box.split(","))
        mask[:] = False
        mask[height * y0 // CANVAS : height * y1 // CANVAS, width * x0 // CANVAS : width * x1 // CANVAS] = (
            True
        )
    return image, mask


def random_weights(seed: int) -> dict[str, np.ndarray]:
    """Return weights under the official names, representable in bfloat16."""
    random, weights = np.random.default_rng(seed), {}

    def add(name: str, *shape: int, scale: float | None = None, shift: float = 0.0) -> None:
        scale = scale or np.prod(shape[1:]) ** -0.5
        values = (shift + scale * random.normal(size=shape)).astype(np.float32)
        weights[name] = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)

    add("cls_token", 1, 1, WIDTH, scale=1)
    add("storage_tokens", 1, 4, WIDTH, scale=1)
    add("patch_embed.proj.weight", WIDTH, 3, 16, 16, scale=0.08)
    add("patch_embed.proj.bias", WIDTH, scale=0.3)
    for block in range(DEPTH):
        prefix = f"blocks.{block}."
        for norm in ("norm1", "norm2"):
            add(f"{prefix}{norm}.weight", WIDTH, scale=0.1, shift=1)
            add(f"{prefix}{norm}.bias", WIDTH, scale=0.1)
        for layer, out, into in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", HIDDEN, WIDTH),
            ("mlp.fc2", WIDTH, HIDDEN),
        ):
            add(f"{prefix}{layer}.weight", out, into)
            add(f"{prefix}{layer}.bias", out, scale=0.1)
        for gamma in ("ls1", "ls2"):
            add(f"{prefix}{gamma}.gamma", WIDTH, scale=0.1, shift=0.5)
    add("norm.weight", WIDTH, scale=0.1, shift=1)
    add("norm.bias", WIDTH, scale=0.1)
    return weights


def official_encoder(weights: dict[str, np.ndarray], heads: int):
    """Return the official DINOv3 with these weights, whose shapes say everything but the number of heads."""
    import torch

    transformer = importlib.import_module("dinov3.models.vision_transformer")

    hidden, width = weights["blocks.0.mlp.fc1.weight"].shape
    encoder = transformer.DinoVisionTransformer(
        img_size=224,
        patch_size=16,
        pos_embed_rope_base=100,
        pos_embed_rope_normalize_coords="separate",
        pos_embed_rope_rescale_coords=2,
        pos_embed_rope_dtype="fp32",
        embed_dim=width,
        depth=sum(name.endswith("mlp.fc1.weight") for name in weights),
        num_heads=heads,
        ffn_ratio=hidden / width,
        layerscale_init=1.0e-05,
        norm_layer="layernormbf16",
        ffn_layer="mlp",
        n_storage_tokens=4,
        mask_k_bias=True,
    )
    encoder.init_weights()  # the mask over the bias of keys, and the periods
    state = encoder.state_dict()
    state |= {name: torch.from_numpy(value) for name, value in weights.items()}
    encoder.load_state_dict(state, strict=True)
    return encoder.eval()


def run_official(encoder, references: tuple[str, ...], target: str, similarity: float, least: float) -> dict:
    """Segment a target with the official code, and return what its stages gave."""
    import torch

    official = importlib.import_module("models.insid3")

    model = official.INSID3(
        encoder,
        image_size=CANVAS,
        svd_components=COMPONENTS,
        tau=similarity,
        merge_threshold=least,
        device="cpu",
    )
    recorded: dict[str, np.ndarray] = {}

    def record(holder, method: str, key: str, convert=lambda value: value.numpy()) -> None:
        original = getattr(holder, method)

        def wrapped(*args, **options):
            value = original(*args, **options)
            recorded[key] = np.asarray(convert(value))
            return value

        setattr(holder, method, wrapped)

    clustering = official.agglomerative_clustering
    record(model, "_debias_features", "debiased", lambda value: value[0, -1].permute(1, 2, 0).numpy())
    record(model, "_locate_candidates", "candidates")
    record(model, "_seed_and_aggregate", "inside")
    record(official, "agglomerative_clustering", "labels", lambda value: value.numpy().astype(np.uint16))
    for reference in references:
        image, mask = reference_mask(reference)
        model.set_reference(str(image), torch.from_numpy(mask))
    model.set_target(str(EXAMPLES / f"targets/{target}.jpg"))
    with torch.no_grad():
        recorded["mask"] = np.packbits(model.segment().numpy(), axis=1)
    # The type checker knows no attributes of a module that is imported by name.
    setattr(official, "agglomerative_clustering", clustering)  # noqa: B010
    return recorded


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Return the upper halves of float32 numbers whose lower halves are zero."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


if __name__ == "__main__":
    main()
