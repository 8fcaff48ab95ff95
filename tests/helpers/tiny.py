"""Make a randomly initialised model that is small enough for tests, and images for it."""

from pathlib import Path

import cv2
import numpy as np

from segic_jax.config import EfficientNetConfig, HeadConfig, ModelConfig, ViTConfig
from segic_jax.data.benchmark_spec import BenchmarkSpec
from segic_jax.data.episodes import Episode, LabelledImage, Manifest, View
from segic_jax.inference.overlay import class_colours
from segic_jax.inference.presence import EVIDENCE
from segic_jax.inference.result import Result
from segic_jax.models.backbones import backbone_template
from segic_jax.models.head import head_template
from segic_jax.models.params import Params, Template, as_float32
from segic_jax.weights.bundle import Bundle, save_bundle

CONFIG = ModelConfig(
    backbone=ViTConfig(patch_size=8, width=32, depth=2, num_heads=2, pos_grid=8),
    head=HeadConfig(width=32, num_heads=2, mlp_width=64, iou_width=32, mask_channels=8),
    text_width=4,
    canvas=64,
)
# With both extensions of the head: finer levels, and a similarity map of each level. The mask prompt's first
# norm has a quarter of `mask_channels`; over two channels its gradient would be little more than rounding.
EXTENDED = ModelConfig(
    backbone=EfficientNetConfig(0, blocks=(5, 15), fine_blocks=(4, 2)),
    head=HeadConfig(width=32, num_heads=2, mlp_width=64, iou_width=32, mask_channels=16, level_maps=True),
    text_width=16,
    canvas=64,
)


def parameters(template: Template, seed: int) -> Params:
    """Return random parameters, made by NumPy: compiling `Template.init` takes longer than the tests."""
    random = np.random.default_rng(seed)
    values = {}
    for name, spec in template.shapes.items():
        value = random.normal(size=spec.shape).astype(np.float32)
        if name.endswith("kernel"):
            value /= np.sqrt(np.prod(spec.shape[:-1]))
        elif name.endswith(("scale", "gamma", "bias")):
            value = 0.1 * value + (not name.endswith("bias"))
        values[name] = value
    return as_float32(values)


def bundle(seed: int = 0) -> Bundle:
    """Return an untrained model."""
    return Bundle(
        config=CONFIG,
        backbone=parameters(backbone_template(CONFIG.backbone), seed),
        head=parameters(head_template(CONFIG), seed + 1),
        text={"": np.zeros(4, np.float32), "a photo of a disk": np.ones(4, np.float32)},
        notes={"cosine_threshold": 0.3},
    )


def random_image(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image of a bright disk on noise, and its mask."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 120, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), np.uint8)
    centre = (int(width * random.uniform(0.35, 0.65)), int(height * random.uniform(0.35, 0.65)))
    cv2.circle(mask, centre, int(0.3 * min(height, width)), 1, -1)
    image[mask > 0] = (250, 220, 30 + 20 * (seed % 8))
    return image, mask > 0


def command_files(root: Path) -> Path:
    """Write a folder with weights, a reference with its mask, and targets; each mask counts as present."""
    model = bundle()
    model.notes["presence"] = {"weights": dict.fromkeys(EVIDENCE, 0.0), "bias": 0.0, "least": 0.5}
    save_bundle(root / "tiny.safetensors", model)
    (root / "targets").mkdir()
    for i, name in enumerate(("ref.png", "targets/a.jpg", "targets/b.png")):
        image, mask = random_image(i, 50 + i, 70)
        cv2.imwrite(str(root / name), image)
        if i == 0:
            cv2.imwrite(str(root / "mask.png"), mask.astype(np.uint8) * 255)
    return root


class DiskSource:
    """Serve two classes of four images, all of different sizes."""

    name = "disks"

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        episodes = tuple(
            Episode(c, str(i), tuple(str((i + step) % 4) for step in range(1, shots + 1)))
            for c in ("disk", "ring")
            for i in range(4)
        )
        return Manifest(self.name, protocol, fold, shots, ("disk", "ring"), episodes)

    def class_name(self, class_id: str) -> str:
        return class_id

    def views(self):
        return (View(str(i), c) for c in ("disk", "ring") for i in range(4))

    def load(self, view: View) -> LabelledImage:
        seed = 10 * (view.class_id == "ring") + int(view.image_name)
        return LabelledImage(*random_image(seed, 40 + 7 * seed, 90 - 3 * seed))


DISKS = BenchmarkSpec(
    name="disks",
    title="bright disks",
    kind="episodes",
    protocols=("original", "matcher"),
    layout="",
    download="",
    domain="disks",
    open=lambda root: DiskSource(),
    check=lambda root: [],
)


def blob_result(height: int, width: int, classes: int = 3) -> Result:
    """Return a result with overlapping blobs of several classes, on noise."""
    random = np.random.default_rng(0)
    small = cv2.GaussianBlur(random.normal(size=(32, 32, classes)).astype(np.float32), (0, 0), 1.5)
    side = max(height, width)
    return Result(
        names=tuple("abc"[:classes]),
        presence=np.ones(classes, np.float32),
        present=np.ones(classes, bool),
        evidence=np.zeros((classes, 1), np.float32),
        image=random.integers(0, 256, (height, width, 3), np.uint8),
        source="large.png",
        small_logits=np.ascontiguousarray(small.transpose(2, 0, 1)),
        canvas=64,
        placed=(64 * height // side, 64 * width // side),
        colours=class_colours(classes),
    )
