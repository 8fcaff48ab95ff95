"""Read a dump of `tools/dump_torch.py`: weights, inputs and the stages that torch computed from them."""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segic_jax.config import ModelConfig, TextConfig, ViTConfig
from segic_jax.errors import DumpError
from segic_jax.models.backbones import backbone_template
from segic_jax.models.clip_text import text_template
from segic_jax.models.head import head_template
from segic_jax.models.params import Params, as_float32
from segic_jax.parity.checker import FEATURES, IMAGES
from segic_jax.weights.shapes import model_config, text_config, vit_config
from segic_jax.weights.sources import read_safetensors
from segic_jax.weights.torch_names import from_torch, split_segic

FORMAT = 1  # of tools/dump_torch.py
ROUNDING = "rounding."  # before a stage's name: torch's float32 to its float64, where the dump has that
ROUNDINGS = 2  # each framework may be as far from float64 as torch's float32 is

Arrays = Mapping[str, np.ndarray]

_INPUTS = (
    *("in.orig_image", "in.orig_image_dual", "in.orig_label_dual"),
    *("in.ori_size", "in.ori_size_dual", "mid.input_ids", "mid.attention_mask", "mid.block_tokens"),
)


@dataclass(frozen=True)
class Dump:
    """Hold what all pairs of a dump share."""

    folder: Path
    manifest: dict
    config: ModelConfig
    text_config: TextConfig
    backbone: Params  # float32
    text: Params
    head: Params

    @property
    def torch_version(self) -> int:
        """Return the major version of torch that wrote the dump; that of today where it is not stated."""
        stated = self.manifest.get("versions")
        version = str(stated.get("torch", "")) if isinstance(stated, dict) else ""
        major = version.partition(".")[0]
        return int(major) if major.isdecimal() else 2


class _ModelFacts(NamedTuple):
    """Hold the settings of the model that do not show in its weights."""

    canvas: int
    backbone_heads: int
    text_heads: int
    decoder_heads: int
    eos_id: int
    pos_offset: float
    pos_antialias: bool


def read_dump(folder: Path) -> Dump:
    """Read the manifest and the weights.

    Raises:
        DumpError, ParamsError: a file is missing, damaged or does not fit the others.
    """
    manifest, facts = _read_manifest(folder)
    path = folder / "weights.safetensors"
    parts = split_segic(read_safetensors(path))
    vit = vit_config(parts.backbone, num_heads=facts.backbone_heads)
    vit = replace(vit, pos_offset=facts.pos_offset, pos_antialias=facts.pos_antialias)
    text = text_config(parts.text, num_heads=facts.text_heads, eos_id=facts.eos_id)
    config = model_config(parts.head, vit, facts.canvas)
    config = replace(config, head=replace(config.head, num_heads=facts.decoder_heads))
    return Dump(
        folder,
        manifest,
        config,
        text,
        as_float32(from_torch(parts.backbone, backbone_template(vit).shapes, what=f"backbone in {path}")),
        as_float32(from_torch(parts.text, text_template(text).shapes, what=f"text tower in {path}")),
        as_float32(from_torch(parts.head, head_template(config).shapes, what=f"trained part in {path}")),
    )


def _read_manifest(folder: Path) -> tuple[dict, _ModelFacts]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise DumpError(
            f"{folder} is not a complete dump: it has no manifest.json; run tools/dump_torch.py first."
        )
    try:
        manifest = json.loads(path.read_text("utf-8"))
        if manifest["format"] != FORMAT:
            raise DumpError(f"{path} has format {manifest['format']}; this version reads format {FORMAT}.")
        model = manifest["model"]
        facts = _ModelFacts(
            *(int(model[name]) for name in _ModelFacts._fields[:5]),
            pos_offset=float(model["pos_offset"]),
            pos_antialias=bool(model["pos_antialias"]),
        )
        files = {"weights.safetensors", *manifest["files"], *(pair["file"] for pair in manifest["pairs"])}
        if not manifest["pairs"] or any(Path(name).name != name for name in files):
            raise ValueError("no pairs, or a file outside the folder")
    except DumpError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise DumpError(f"{path} is damaged ({what}); run tools/dump_torch.py again.") from error
    for name in sorted(files):
        if not (folder / name).is_file():
            raise DumpError(f"{folder / name} is missing; run tools/dump_torch.py again.")
    return manifest, facts


def read_pair(dump: Dump, index: int) -> dict[str, np.ndarray]:
    """Read all arrays of one pair.

    Raises:
        DumpError: the file is missing or damaged, or lacks an array.
    """
    path = dump.folder / dump.manifest["pairs"][index]["file"]
    try:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DumpError(f"{path} is damaged ({error}); run tools/dump_torch.py again.") from error
    required = [*_INPUTS, *(stage.array for stage in list_stages(dump.config))]
    missing = [name for name in required if name not in arrays]
    if missing:
        raise DumpError(f"{path} lacks {', '.join(missing)}; run tools/dump_torch.py again.")
    side = dump.config.canvas
    if any(arrays[f"in.{name}"].shape != (1, 3, side, side) for name in ("image", "image_dual")):
        raise DumpError(
            f"{path}: in.image and in.image_dual must be (1, 3, {side}, {side}), as the manifest says."
        )
    return arrays


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class StageSpec(NamedTuple):
    """Name a stage, and say how far from torch it may be."""

    name: str  # on the page, e.g. "block 3"
    array: str  # in the pair's file
    tolerance: float = FEATURES
    # Trained weights give values of several hundred in the blocks, where float32 itself is coarser than 1e-4:
    # above 1, the tolerance is relative to the stage's largest value.
    scaled: bool = True


def list_stages(config: ModelConfig, torch_version: int = 2) -> list[StageSpec]:
    """Return the stages in the order of computation.

    Args:
        torch_version: the major version that wrote the dump. torch 1 rounds source coordinates to float32 at
            every step: a pixel of the canvas may be off by 255 grey levels times half the spacing of float32.
    """
    assert isinstance(config.backbone, ViTConfig)  # as of every model of the official code
    images = IMAGES if torch_version >= 2 else max(IMAGES, 255 * float(np.spacing(np.float32(1023))) / 2)
    return [
        StageSpec("canvas, target", "in.image", images, False),
        StageSpec("canvas, reference", "in.image_dual", images, False),
        StageSpec("canvas, mask", "in.label_dual", images, False),
        StageSpec("encoder input", "mid.encoder_in"),
        StageSpec("patch embedding", "mid.patch_embed"),
        StageSpec("position embedding", "mid.pos_embed"),
        *(StageSpec(f"block {i}", f"mid.block.{i}") for i in range(config.backbone.depth)),
        StageSpec("patch tokens", "mid.patch_tokens"),
        StageSpec("features", "mid.image_embeddings"),
        StageSpec("text feature", "mid.text_features"),
        StageSpec("text token", "mid.prompt_proj_out"),
        StageSpec("pooled reference feature", "mid.inst_feat"),
        StageSpec("visual token", "mid.inst_proj_out"),
        StageSpec("neck", "mid.neck_out"),
        StageSpec("similarity", "mid.sim"),
        StageSpec("mask prompt", "mid.mask_input"),
        StageSpec("point", "mid.point_coords", 0.0, False),
        StageSpec("point label", "mid.point_labels", 0.0, False),
        StageSpec("tokens", "mid.text_tokens"),
        StageSpec("sparse prompts", "mid.sparse"),
        StageSpec("dense prompt", "mid.dense"),
        StageSpec("position code", "mid.image_pe"),
        StageSpec("low-resolution logits", "mid.low_res_masks"),
        StageSpec("predicted IoU", "mid.iou_pred"),
        StageSpec("mask logits", "out.masks"),
    ]
