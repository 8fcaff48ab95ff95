"""Official weights in any of their formats -> one file of this project; a trained head -> official names.

Sources are recognised by what they hold (formats.py), so their order and their names do not matter.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import jax
import ml_dtypes
import numpy as np

from segic_jax import __version__
from segic_jax.config import EMPTY_PROMPT, INSTANCE_PROMPT, ModelConfig, ViTConfig
from segic_jax.errors import ConvertError, FormatError
from segic_jax.models.clip_text import text_template
from segic_jax.models.params import count
from segic_jax.models.segic import backbone_template, head_template
from segic_jax.weights.bundle import FORMAT, TextTable, Weights, read_weights, write_weights
from segic_jax.weights.formats import SEGIC, Part, recognise
from segic_jax.weights.shapes import Lacking, backbone_of_head, model_config, text_config, vit_config
from segic_jax.weights.sources import WeightSource, read_source
from segic_jax.weights.text import END, TextTower, encode_prompts
from segic_jax.weights.torch_names import Tensors, to_torch
from segic_jax.weights.write import write_safetensors

_OWN = "a file of this project"
_CANVAS = 896  # of the published models
# What completes a file that lacks the part.
_BRING = {"backbone": "DINOV2", "text": "CLIP", "head": "SEGIC"}


@dataclass(frozen=True)
class Report:
    """What a conversion found and wrote; `str` of it is for people."""

    path: Path
    origins: dict[str, str]  # by part: the format and the source
    numbers: dict[str, int]  # by part: how many parameters
    left_out: tuple[str, ...]  # names in the sources that no forward pass here reads
    missing: tuple[str, ...]  # parts that a whole model needs besides
    hashes: dict[str, str]  # SHA-256 of each file that was read
    text: tuple[str, ...] = field(default=())  # prompts whose features are in the file

    def __str__(self) -> str:
        lines = [f"{part}: {self.origins[part]}, {self.numbers[part]:,} numbers" for part in self.origins]
        if self.left_out:
            shown = ", ".join(self.left_out[:5])
            more = f" and {len(self.left_out) - 5} more" if len(self.left_out) > 5 else ""
            lines.append(f"left out, as no forward pass reads them: {shown}{more}")
        lines += [f"SHA-256 {digest} {name}" for name, digest in self.hashes.items()]
        if self.missing:
            sources = " ".join(_BRING[part] for part in self.missing)
            lines.append(
                f"{self.path}: not a whole model yet, it has no {' and no '.join(self.missing)}; join:"
            )
            lines.append(f"  segic convert {self.path} {sources} --out MODEL.safetensors")
        else:
            lines.append(f"{self.path}: a whole model")
        return "\n".join(lines)


def convert(
    sources: Sequence[Path | str],
    out: Path | str,
    *,
    canvas: int | None = None,
    num_heads: int | None = None,
    half: bool = False,
) -> Report:
    """Write what `sources` hold into one file; backbone, text tower and head together are a whole model.

    float32 tensors are kept bit for bit. float16 and bfloat16 ones are stored as they are, and are exact in
    the float32 that every reader makes of them.

    Args:
        sources: .safetensors, .pth, .pt, .bin, folders as the Hugging Face hub lays them out, and CLIP's
            tokenizer.json if it lies neither in the folder nor beside the file of the text tower.
        canvas: side of the square input in pixels; None: the one stored with the head, else 896.
        num_heads: attention heads of the backbone, and of a text tower whose width 64 does not divide; a
            config.json beside the weights goes before it. None: 64 channels a head.
        half: store float16.

    Raises:
        SourceError, PthError, FormatError, ParamsError, ConvertError, BundleError, TextError: one sentence,
            and nothing is written.
    """
    _require_apart(out, sources)
    read = [read_source(Path(path)) for path in sources]
    found, weights = _Found.of(read), {}
    backbone, text, head = (found.parts.get(kind) for kind in ("backbone", "text", "head"))
    left_out = [name for part in found.parts.values() for name in part.left_out]
    if text is not None and text.origin == SEGIC and found.tokenizer(text) is None:
        # A complete state dict carries it unasked: the rest is worth having.
        left_out.append("encoder.text_model.* (for want of a tokenizer.json)")
        text = None
    vit = model = tower = None
    if backbone is not None:
        vit = _with_positions(_vit(backbone, num_heads), backbone, head)
        weights["backbone"] = _parameters(backbone, backbone_template(vit).shapes)
    if head is not None:
        model = _model(head, vit, canvas)
        weights["head"] = _parameters(head, head_template(model).shapes)
    if text is not None:
        tower = _tower(text, found, num_heads)
        weights["text"] = tower.params
        if head is not None and model is not None and model.text_width != tower.config.width:
            raise ConvertError(
                f"The text tower of {text.what} has width {tower.config.width}, but the head of {head.what} "
                f"was trained on one of width {model.text_width}; SegIC's is CLIP ViT-L/14."
            )
    table = dict(found.table)
    if tower is not None and model is not None and vit is not None:
        table |= encode_prompts(
            tower, [prompt for prompt in (EMPTY_PROMPT, INSTANCE_PROMPT) if prompt not in table]
        )
    hashes = {name: digest for source in read for name, digest in source.hashes.items()}
    origins = {kind: f"{found.parts[kind].origin}, {Path(found.parts[kind].what).name}" for kind in weights}
    notes = found.notes | {
        "origins": origins,
        "sha256": hashes,
        "segic_jax": __version__,
        "jax": jax.__version__,
    }
    out = Path(out)
    write_weights(
        out,
        Weights(vit, weights.get("backbone"), tower, model, weights.get("head"), table, notes, out),
        half=half,
    )
    there = {*weights, *(("text",) if EMPTY_PROMPT in table else ())}
    return Report(
        path=out,
        origins=origins,
        numbers={kind: count(values) for kind, values in weights.items()},
        left_out=tuple(left_out),
        missing=tuple(kind for kind in _BRING if kind not in there),
        hashes=hashes,
        text=tuple(table),
    )


def export_head(model: Path | str, out: Path | str) -> int:
    """Write the head of a file of this project under the official SegIC names, in float32.

    `load_state_dict(strict=False)` of the official SEGIC takes it as it is: the trained tensors and the
    Fourier matrix, 148 in the published model. Returns how many there are.

    Raises:
        BundleError: it is no file of this project.
        ConvertError: it has no head, or `out` cannot be the file to write.
    """
    _require_apart(out, [model])
    weights = read_weights(model)
    if weights.head is None:
        raise ConvertError(f"{model} has no head that could be exported; give a trained model.")
    tensors = {name: np.asarray(value, np.float32) for name, value in to_torch(weights.head).items()}
    write_safetensors(out, tensors, {"format": "pt"})
    return len(tensors)


def _require_apart(out: Path | str, sources: Sequence[Path | str]) -> None:
    if Path(out).suffix != ".safetensors":
        raise ConvertError(f"{out}: the file to write ends in .safetensors; give another --out.")
    if Path(out).exists() and any(Path(one).exists() and Path(one).samefile(out) for one in sources):
        raise ConvertError(f"{out} would be written over: it is what is read; give another --out.")


class FrozenParts(NamedTuple):
    """What a training reads and does not change."""

    backbone: Tensors  # in the file's dtype
    tower: TextTower | None


def read_frozen(path: Path | str, config: ViTConfig) -> FrozenParts:
    """The backbone `config` from a file of any format, and the text tower where the file has one too.

    Raises:
        SourceError, FormatError, ParamsError: it cannot be read, or does not fit `config`.
        ConvertError: it holds no backbone.
    """
    found = _Found.of([read_source(Path(path))])
    backbone, text = found.parts.get("backbone"), found.parts.get("text")
    if backbone is None:
        raise ConvertError(f"{path} holds no backbone; give a file with DINOv2's weights.")
    parameters = _parameters(backbone, backbone_template(config).shapes)
    return FrozenParts(parameters, None if text is None else _tower(text, found, None))


class _Found(NamedTuple):
    """What all sources hold together."""

    parts: dict[str, Part]
    tokenizers: dict[str, bytes]  # by the source that it lies beside; "" if it is a source itself
    table: TextTable
    notes: dict

    def tokenizer(self, text: Part) -> bytes | None:
        """The tokenizer.json for a text tower."""
        return self.tokenizers.get("", self.tokenizers.get(text.what))

    @classmethod
    def of(cls, sources: Sequence[WeightSource]) -> "_Found":
        parts: dict[str, Part] = {}
        found = cls({}, {}, {}, {})
        for source in sources:
            what = str(source.path)
            if source.tokenizer is not None:
                found.tokenizers[what if source.tensors else ""] = source.tokenizer
            if source.metadata.get("format") == FORMAT:
                own = read_weights(source.path)
                found.table.update(own.text)
                found.notes.update(own.notes)
                if own.tower is not None:
                    found.tokenizers[what] = own.tower.tokenizer
                parts_here = _own_parts(own, what)
            elif source.tensors or source.tokenizer is None:
                parts_here = recognise(source.tensors, config=source.config, what=what)
            else:
                parts_here = []
            for part in parts_here:
                if part.kind in parts:
                    raise ConvertError(
                        f"{parts[part.kind].what} and {part.what} both hold a {_LONG[part.kind]}; give one."
                    )
                parts[part.kind] = part
        if not parts:
            raise ConvertError("The sources hold no weights; give a file or a folder that does.")
        found.parts.update({kind: parts[kind] for kind in _BRING if kind in parts})
        return found


_LONG = {"backbone": "backbone", "text": "text tower", "head": "head"}


def _own_parts(own: Weights, what: str) -> list[Part]:
    parts = []
    for kind, params, made_as in (
        ("backbone", own.backbone, own.vit),
        ("text", own.tower and own.tower.params, own.tower and own.tower.config),
        ("head", own.head, own.model),
    ):
        if params is not None:
            tensors = to_torch(params)
            parts.append(Part(kind, tensors, _OWN, what, lambda shapes: shapes, tensors, made_as=made_as))
    return parts


def _vit(part: Part, num_heads: int | None) -> ViTConfig:
    if part.made_as is not None:
        return part.made_as
    with _naming(part):
        config = vit_config(part.tensors, num_heads=_given_heads(part, num_heads, always=True))
    _agree(part, config.width, config.depth)
    return config


def _with_positions(vit: ViTConfig, backbone: Part, head: Part | None) -> ViTConfig:
    """The way to resample the position embedding to the canvas, which no tensor shows.

    Meta's code and Hugging Face's differ for backbones without registers: a scale of (n + 0.1) / 37 there,
    the plain size here. A head keeps the way it was trained with: SegIC's is Meta's, whoever shipped the
    backbone; one of this project says it. A backbone alone keeps the way of the module it came from, so
    that it gives the same features.
    """
    if head is not None and head.made_as is not None:
        # The head's own backbone, unless it was converted alone and could only guess it.
        trained_on: ViTConfig = head.made_as.vit
        same = dataclasses.replace(trained_on, pos_offset=vit.pos_offset, pos_antialias=vit.pos_antialias)
        if same == vit:
            return trained_on
    if vit.num_registers:
        return vit
    if head is not None:
        return dataclasses.replace(vit, pos_offset=0.1, pos_antialias=False)
    return dataclasses.replace(vit, pos_offset=0.0) if backbone.hugging_face else vit


def _model(part: Part, vit: ViTConfig | None, canvas: int | None) -> ModelConfig:
    if part.made_as is not None:
        canvas = canvas or part.made_as.canvas
    with _naming(part):
        vit = vit or (part.made_as.vit if part.made_as is not None else backbone_of_head(part.tensors))
        config = model_config(part.tensors, vit, canvas or _CANVAS)
    if part.made_as is not None:  # the heads of its attention show nowhere else
        config = dataclasses.replace(config, head=part.made_as.head)
    return config


def _tower(part: Part, found: _Found, num_heads: int | None) -> TextTower:
    chosen = found.tokenizer(part)
    if chosen is None:
        raise ConvertError(
            f"{part.what} holds CLIP's text tower, which needs its tokenizer: put tokenizer.json (from "
            "openai/clip-vit-large-patch14) beside it, or give that file as a further source."
        )
    config = part.made_as
    if config is None:
        eos_id = (part.config or {}).get("eos_token_id")
        # Files from before transformers 4.31 say 2, and pool at the largest id, which is the same token.
        eos_id = _end_of_text(chosen) if eos_id in (None, 2) else eos_id
        with _naming(part):
            heads = _given_heads(part, num_heads, always=False)
            config = text_config(part.tensors, num_heads=heads, eos_id=eos_id)
        _agree(part, config.width, config.depth)
    return TextTower(config, _parameters(part, text_template(config).shapes), chosen)


def _end_of_text(tokenizer: bytes) -> int | None:
    """Id of the end-of-text token in a tokenizer.json."""
    values = json.loads(tokenizer)
    try:
        added = {token["content"]: token["id"] for token in values.get("added_tokens") or []}
        return (values["model"].get("vocab") or {}).get(END, added.get(END))
    except (AttributeError, KeyError, TypeError):  # of another form
        return None


def _given_heads(part: Part, num_heads: int | None, *, always: bool) -> int | None:
    """The heads that config.json or else the user says; None: 64 channels a head."""
    if part.config and (heads := part.config.get("num_attention_heads")) is not None:
        return heads
    name = "patch_embed.proj.bias" if part.kind == "backbone" else "final_layer_norm.bias"
    published = name in part.tensors and part.tensors[name].size % 64 == 0
    return num_heads if always or not published else None


def _agree(part: Part, width: int, depth: int) -> None:
    """A config.json of these weights says the same as the tensors."""
    config = part.config or {}
    for name, value in (("hidden_size", width), ("num_hidden_layers", depth)):
        if config.get(name, value) != value:
            raise ConvertError(
                f"{part.what}: config.json says {name} {config[name]}, the tensors say {value}; "
                "one of the two files belongs to another model, or is not complete."
            )


@contextmanager
def _naming(part: Part) -> Iterator[None]:
    """Says which source it was, and calls the tensors that tell sizes as the file does."""
    try:
        yield
    except Lacking as error:
        names = ", ".join(part.in_file({name: (3, 3, 3) for name in error.names}))
        raise FormatError(
            f"{part.what} ({part.origin}) lacks {names}, which its sizes are read from."
        ) from error
    except FormatError as error:
        raise FormatError(f"{part.what}: {error}") from error


def _parameters(part: Part, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> Tensors:
    """The part's parameters, once every value is known to be a number that float32 holds."""
    params = part.parameters(shapes)
    for name, tensor in part.found.items():
        if tensor.dtype not in _FLOATS:
            raise ConvertError(
                f"{part.what}: {name} holds {tensor.dtype}; weights are floating-point numbers."
            )
        if not np.isfinite(tensor).all():
            raise ConvertError(f"{part.what}: {name} holds NaN or infinite values; get the file again.")
        if tensor.dtype == np.float64 and (tensor != tensor.astype(np.float32)).any():
            raise ConvertError(f"{part.what}: {name} is float64 and not exact in float32; round it first.")
    return {
        name: value.astype(np.float32) if value.dtype == np.float64 else value
        for name, value in params.items()
    }


_FLOATS = (np.float32, np.float16, ml_dtypes.bfloat16, np.float64)
