"""Convert official weights of any format to one file of this project, and export a trained head.

Sources are recognised by their content (formats.py), so their order and their names do not matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from segic_jax.config import EMPTY_PROMPT, INSTANCE_PROMPT, Backbone
from segic_jax.errors import ConvertError, FormatError
from segic_jax.models.backbones import backbone_template
from segic_jax.models.head import head_template
from segic_jax.models.params import count
from segic_jax.weights.bundle import FORMAT, TextTable, Weights, read_weights, write_weights
from segic_jax.weights.formats import SEGIC, recognise
from segic_jax.weights.part import Part
from segic_jax.weights.parts import (
    checked_parameters,
    derive_backbone,
    fit_to_head,
    head_config,
    make_tower,
    used_blocks,
)
from segic_jax.weights.safetensors_file import write_safetensors
from segic_jax.weights.sources import WeightSource, read_source
from segic_jax.weights.text import TextTower, encode_prompts
from segic_jax.weights.torch_names import Tensors, to_torch
from segic_jax.weights.wrappers import unwrap

_OWN_FORMAT = "a file of this project"
# The name, in messages, of a source that adds a missing part.
_SOURCE_OF = {"backbone": "DINOV2", "text": "CLIP", "head": "SEGIC"}
_PART_NAMES = {"backbone": "backbone", "text": "text tower", "head": "head"}


@dataclass(frozen=True)
class ConversionReport:
    """Describe what a conversion read and wrote; `str` gives a text for users."""

    path: Path
    origins: dict[str, str]  # by part: the format and the source
    numbers: dict[str, int]  # by part: the number of parameters
    left_out: tuple[str, ...]  # names in the sources that no forward pass reads
    missing: tuple[str, ...]  # parts that a complete model also needs
    hashes: dict[str, str]  # SHA-256 of each file that was read
    text: tuple[str, ...] = field(default=())  # prompts whose features are in the file

    def __str__(self) -> str:
        lines = [f"{part}: {self.origins[part]}, {self.numbers[part]:,} parameters" for part in self.origins]
        if self.left_out:
            names = ", ".join(self.left_out[:5])
            more = f" and {len(self.left_out) - 5} more" if len(self.left_out) > 5 else ""
            lines.append(f"left out, because no forward pass reads them: {names}{more}")
        lines += [f"SHA-256 {digest} {name}" for name, digest in self.hashes.items()]
        if self.missing:
            sources = " ".join(_SOURCE_OF[part] for part in self.missing)
            lines.append(
                f"{self.path}: not a complete model yet, it has no {' and no '.join(self.missing)}; join:"
            )
            lines.append(f"  segic convert {self.path} {sources} --out MODEL.safetensors")
        else:
            lines.append(f"{self.path}: a complete model")
        return "\n".join(lines)


def convert(
    sources: Sequence[Path | str],
    out: Path | str,
    *,
    canvas: int | None = None,
    logit_offset: float | None = None,
    num_heads: int | None = None,
    float16: bool = False,
    take: str | None = None,
) -> ConversionReport:
    """Write the weights of `sources` into one file.

    Backbone, text tower and head together are a complete model. Tensors keep their type and their bits:
    float16 and bfloat16 are exact in the float32 that readers make of them.

    Args:
        sources: .safetensors, .pth, .pt, .bin, folders in the layout of the Hugging Face hub, and CLIP's
            tokenizer.json if it is neither in the folder nor beside the file of the text tower.
        canvas: side of the square input in pixels; None: the side stored with the head, else 896.
        logit_offset: what is added to the logits of every mask; None: what is stored with the head, else 0.
        num_heads: attention heads of the backbone, and of a text tower whose width is no multiple of 64; a
            config.json beside the weights takes precedence. None: 64 channels for each head.
        float16: store float16.
        take: the role of the model to take from a checkpoint that holds several, such as "teacher".

    Raises:
        SourceError, PthError, FormatError, ParamsError, ConvertError, BundleError, TextError: the sources
            cannot be used; nothing is written.
    """
    _require_apart(out, sources)
    read = [read_source(Path(path)) for path in sources]
    content, weights = _Content.collect(read, take), {}
    backbone, text, head = (content.parts.get(kind) for kind in ("backbone", "text", "head"))
    config = model = tower = None
    if backbone is not None:
        config = fit_to_head(derive_backbone(backbone, num_heads), backbone, head)
        backbone = used_blocks(backbone, config)
        weights["backbone"] = checked_parameters(backbone, backbone_template(config).shapes)
    left_out = [name for part in (backbone, text, head) if part is not None for name in part.left_out]
    if text is not None and text.origin == SEGIC and content.tokenizer(text) is None:
        # A complete state dict holds the text tower as well: without its tokenizer, convert the rest.
        left_out.append("encoder.text_model.* (no tokenizer.json)")
        text = None
    if head is not None:
        model = head_config(head, config, canvas, logit_offset)
        weights["head"] = checked_parameters(head, head_template(model).shapes)
    if text is not None:
        tower = make_tower(text, content.tokenizer(text), num_heads)
        weights["text"] = tower.params
        if head is not None and model is not None and model.text_width != tower.config.width:
            raise ConvertError(
                f"The text tower of {text.what} has width {tower.config.width}, but the head of {head.what} "
                f"was trained with width {model.text_width}; SegIC's is CLIP ViT-L/14."
            )
    table = dict(content.table)
    if tower is not None and model is not None and config is not None:
        table |= encode_prompts(
            tower, [prompt for prompt in (EMPTY_PROMPT, INSTANCE_PROMPT) if prompt not in table]
        )
    hashes = {name: digest for source in read for name, digest in source.hashes.items()}
    origins = {kind: _origin(content.parts[kind]) for kind in weights}
    notes = content.notes | {
        "origins": origins,
        "sha256": hashes,
        "segic_jax": version("segic_jax"),
        "jax": jax.__version__,
    }
    out = Path(out)
    write_weights(
        out,
        Weights(config, weights.get("backbone"), tower, model, weights.get("head"), table, notes, out),
        float16=float16,
    )
    present = {*weights, *(("text",) if EMPTY_PROMPT in table else ())}
    return ConversionReport(
        path=out,
        origins=origins,
        numbers={kind: count(values) for kind, values in weights.items()},
        left_out=tuple(left_out),
        missing=tuple(kind for kind in _SOURCE_OF if kind not in present),
        hashes=hashes,
        text=tuple(table),
    )


def export_head(model: Path | str, out: Path | str) -> int:
    """Write the head of a file of this project under the official SegIC names, in float32.

    The official SEGIC loads it with `load_state_dict(strict=False)`: the trained tensors and the Fourier
    matrix, 148 in the published model.

    Returns:
        The number of tensors.

    Raises:
        BundleError: `model` is not a file of this project.
        ConvertError: it has no head, or `out` cannot be written there.
    """
    _require_apart(out, [model])
    weights = read_weights(model)
    if weights.head is None:
        raise ConvertError(f"{model} has no head to export; give a trained model.")
    if weights.model is not None and weights.model.head.logit_offset:
        raise ConvertError(
            f"{model} adds {weights.model.head.logit_offset:g} to its logits, which the official code does "
            "not: convert it with --logit-offset 0 first, and threshold the official code's masks lower."
        )
    tensors = {name: np.asarray(value, np.float32) for name, value in to_torch(weights.head).items()}
    write_safetensors(out, tensors, {"format": "pt"})
    return len(tensors)


def _require_apart(out: Path | str, sources: Sequence[Path | str]) -> None:
    if Path(out).suffix != ".safetensors":
        raise ConvertError(f"{out}: the output must end in .safetensors; give another --out.")
    if Path(out).exists() and any(Path(path).exists() and Path(path).samefile(out) for path in sources):
        raise ConvertError(f"{out} is one of the sources and would be overwritten; give another --out.")


class FrozenParts(NamedTuple):
    """Hold the weights that a training reads and does not change."""

    backbone: Tensors  # in the file's dtype
    tower: TextTower | None


def read_frozen(path: Path | str, config: Backbone) -> FrozenParts:
    """Read the backbone `config` from a file of any format, and the text tower if the file has one.

    Raises:
        SourceError, FormatError, ParamsError: the file cannot be read, or does not fit `config`.
        ConvertError: the file holds no backbone.
    """
    content = _Content.collect([read_source(Path(path))])
    backbone, text = content.parts.get("backbone"), content.parts.get("text")
    if backbone is None:
        raise ConvertError(f"{path} holds no backbone; give a file with the weights of one.")
    backbone = used_blocks(backbone, config)
    parameters = checked_parameters(backbone, backbone_template(config).shapes)
    return FrozenParts(parameters, None if text is None else make_tower(text, content.tokenizer(text), None))


class _Content(NamedTuple):
    """Hold the content of all sources together."""

    parts: dict[str, Part]
    tokenizers: dict[str, bytes]  # by the source beside it; "" if it is a source itself
    table: TextTable
    notes: dict

    def tokenizer(self, text: Part) -> bytes | None:
        """Return the tokenizer.json for a text tower."""
        return self.tokenizers.get("", self.tokenizers.get(text.what))

    @classmethod
    def collect(cls, sources: Sequence[WeightSource], take: str | None = None) -> "_Content":
        """Recognise the parts of all sources; raise ConvertError for none, or for two of a kind.

        Args:
            take: as for `convert`.
        """
        parts: dict[str, Part] = {}
        content = cls({}, {}, {}, {})
        for source in sources:
            what = str(source.path)
            if source.tokenizer is not None:
                content.tokenizers[what if source.tensors else ""] = source.tokenizer
            if source.metadata.get("format") == FORMAT:
                own = read_weights(source.path)
                content.table.update(own.text)
                content.notes.update(own.notes)
                if own.tower is not None:
                    content.tokenizers[what] = own.tower.tokenizer
                parts_here = _own_parts(own, what)
            elif source.tensors or source.tokenizer is None:
                parts_here = _recognise_one(source, take)
            else:
                parts_here = []
            for part in parts_here:
                if part.kind in parts:
                    raise ConvertError(
                        f"{parts[part.kind].what} and {part.what} both hold a "
                        f"{_PART_NAMES[part.kind]}; give one of them."
                    )
                parts[part.kind] = part
        if not parts:
            raise ConvertError("The sources hold no weights; give a file or a folder with weights.")
        content.parts.update({kind: parts[kind] for kind in _SOURCE_OF if kind in parts})
        return content


def _recognise_one(source: WeightSource, take: str | None) -> list[Part]:
    """Return the parts of the one model that a source holds, below whatever a training put around it.

    Raises:
        ConvertError: it holds several, and `take` names none of them.
        FormatError: it holds none that is supported.
    """
    candidates, refused = {}, None
    for role, tensors, removed in unwrap(source.tensors):
        try:
            parts = recognise(tensors, config=source.config, what=str(source.path))
        except FormatError as error:
            refused = refused or error
            continue
        candidates[role] = [part._replace(removed=removed) for part in parts]
    if not candidates:
        raise refused or FormatError(f"{source.path} holds no tensors.")
    if take is None and len(candidates) == 1:
        return next(iter(candidates.values()))
    if take in candidates:
        return candidates[take]
    roles = " and ".join(role or "one without a role" for role in candidates)
    number = "several models" if len(candidates) > 1 else "one model"
    raise ConvertError(f"{source.path} holds {number}, {roles}: choose with --take, such as --take teacher.")


def _origin(part: Part) -> str:
    """Name the format and the file of a part, and what was taken off the names in it."""
    removed = f", without {' and '.join(part.removed)} in its names" if part.removed else ""
    return f"{part.origin}, {Path(part.what).name}{removed}"


def _own_parts(own: Weights, what: str) -> list[Part]:
    parts = []
    for kind, params, stored_config in (
        ("backbone", own.backbone, own.backbone_config),
        ("text", own.tower and own.tower.params, own.tower and own.tower.config),
        ("head", own.head, own.model),
    ):
        if params is not None:
            tensors = to_torch(params)
            parts.append(
                Part(
                    kind,
                    tensors,
                    _OWN_FORMAT,
                    what,
                    lambda shapes: shapes,
                    tensors,
                    stored_config=stored_config,
                )
            )
    return parts
