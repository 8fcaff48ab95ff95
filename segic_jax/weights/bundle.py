"""Read and write model files: a complete model, or some of its parts, in one safetensors file.

Tensors are named `backbone/...`, `head/...`, `text/...` (CLIP's text tower), `tokenizer` (the bytes of its
tokenizer.json) and `text_table` (features of prompts). The metadata holds, as JSON, the
configuration of each part, the prompts of the table's rows and notes about the training.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from segic_jax.config import (
    EMPTY_PROMPT,
    Backbone,
    ModelConfig,
    TextConfig,
    backbone_from_dict,
    class_prompt,
    model_config_from_dict,
    to_dict,
)
from segic_jax.errors import BundleError, SourceError, TextError
from segic_jax.models.backbones import backbone_template
from segic_jax.models.clip_text import text_template
from segic_jax.models.head import head_template
from segic_jax.models.params import Params, as_float32, check, release
from segic_jax.weights.catalog import PACKAGED
from segic_jax.weights.safetensors_file import write_safetensors
from segic_jax.weights.sources import map_safetensors
from segic_jax.weights.text import TextTower, encode_prompts
from segic_jax.weights.torch_names import Tensors

FORMAT = "segic_jax model 1"
PHOTOGRAPHS = "photographs"  # the domain of which no warning is given
_METADATA = ("config", "backbone", "text", "prompts", "notes")  # JSON, each if the file has its part

# By prompt; the empty prompt stands for a class without a name.
TextTable = dict[str, Float[np.ndarray, " text_width"]]


@dataclass(frozen=True)
class Bundle:
    """Hold everything that inference needs, in the host's memory."""

    config: ModelConfig
    backbone: Params  # in any precision; from a file, views of the mapped file
    head: Params  # float32
    text: TextTable  # always holds the empty prompt
    notes: dict = field(default_factory=dict)  # JSON: how it was trained, its `domain`, ...
    path: Path | None = None  # the file it came from
    tower: TextTower | None = None  # for prompts that `text` lacks

    @property
    def name(self) -> str:
        """Return the name of the packaged model, or that of the file, for reports."""
        if self.path is None:
            return "unsaved"
        packaged = PACKAGED.get(self.path.stem)
        return packaged.name if packaged and packaged.path == self.path else self.path.name

    @property
    def domain_warning(self) -> str:
        """Return a sentence about what the model is for, "" where it is for photographs or does not say."""
        domain = self.notes.get("domain", PHOTOGRAPHS)
        return (
            ""
            if PHOTOGRAPHS in domain
            else f"{self.name} segments {domain} only; leave --weights out for photographs."
        )

    def text_feature(self, class_name: str = "") -> Float[np.ndarray, " text_width"]:
        """Return the feature of `a photo of a NAME`, or of the empty prompt (segic.py:302-313).

        Raises:
            BundleError: neither the table nor a text tower has it.
        """
        return self.text_features([class_name])[0]

    def text_features(self, class_names: Sequence[str]) -> Float[np.ndarray, "names text_width"]:
        """Return the `text_feature` of each name."""
        return self.prompt_features([class_prompt(name) for name in class_names])

    def prompt_features(self, prompts: Sequence[str]) -> Float[np.ndarray, "prompts text_width"]:
        """Return the features of complete prompts; computed ones are stored in `text`.

        Raises:
            BundleError: neither the table nor a text tower has one of them.
        """
        unknown = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.text]
        if unknown and self.tower is None:
            raise BundleError(
                f"{self.name} has no text feature for '{unknown[0]}'; leave the class names out, or add the "
                f"text tower: segic convert {self.path or 'MODEL'} CLIP --out NEW.safetensors"
            )
        if unknown:
            self.text.update(_encoded(self.tower, unknown, self.name))
        return np.stack([self.text[prompt] for prompt in prompts])


@dataclass(frozen=True)
class Weights:
    """Hold the content of a file, of which any part may be absent, as stored numpy arrays under our names."""

    backbone_config: Backbone | None = None
    backbone: Tensors | Params | None = None
    tower: TextTower | None = None
    model: ModelConfig | None = None  # of the head, including the configuration of its backbone
    head: Tensors | Params | None = None
    text: TextTable = field(default_factory=dict)
    notes: dict = field(default_factory=dict)
    path: Path | None = None


def write_weights(path: Path | str, weights: Weights, *, float16: bool = False) -> None:
    """Write the parts of `weights`; the file appears when it is complete.

    Args:
        float16: store all tensors as float16; otherwise each tensor keeps its type.

    Raises:
        BundleError: a part does not fit its configuration or the other parts, or a value is not finite or
            does not fit in float16.
        WriteError: the disk refuses.
    """
    _check(weights, str(path))
    tensors, metadata = {}, {"format": FORMAT, "notes": json.dumps(weights.notes)}
    if weights.backbone is not None:
        tensors |= {f"backbone/{name}": value for name, value in weights.backbone.items()}
    if weights.tower is not None:
        tensors |= {f"text/{name}": value for name, value in weights.tower.params.items()}
        tensors["tokenizer"] = np.frombuffer(weights.tower.tokenizer, np.uint8)
        metadata["text"] = json.dumps(to_dict(weights.tower.config))
    if weights.head is not None:
        tensors |= {f"head/{name}": value for name, value in weights.head.items()}
        metadata["config"] = json.dumps(to_dict(weights.model))  # the backbone's is part of it
    elif weights.backbone is not None:
        metadata["backbone"] = json.dumps(to_dict(weights.backbone_config))
    if weights.text:
        prompts = sorted(weights.text)
        tensors["text_table"] = np.stack([weights.text[prompt] for prompt in prompts])
        metadata["prompts"] = json.dumps(prompts)
    largest = float(np.finfo(np.float16).max)
    for name, value in tensors.items() if float16 else ():
        if float(np.abs(value).max(initial=0)) > largest:
            raise BundleError(
                f"{path}: {name} holds values above {largest:.0f}; write it with float16=False."
            )
    write_safetensors(path, tensors, metadata, float16=float16)


def read_weights(path: Path | str) -> Weights:
    """Read a file that `write_weights` wrote, with any of the parts.

    Raises:
        BundleError: the file is missing, damaged, of another kind, does not fit its configuration, or holds a
            number that is not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise BundleError(f"{path}: there is no such model file.")
    try:
        tensors, metadata = map_safetensors(path)
        if metadata.get("format") != FORMAT:
            raise BundleError(_foreign(path))
    except SourceError as error:
        if path.suffix != ".safetensors":
            raise BundleError(_foreign(path)) from error
        raise BundleError(str(error)) from error
    try:
        backbone, head, text = (_part(tensors, prefix) for prefix in ("backbone/", "head/", "text/"))
        values = {name: json.loads(value) for name, value in metadata.items() if name in _METADATA}
        if not isinstance(values["notes"], dict):
            raise TypeError("its notes are not an object")
        backbone_config, tower, table = None, None, {}
        if backbone:
            backbone_config = backbone_from_dict(values["config"]["backbone"] if head else values["backbone"])
        if text:
            tower = TextTower(TextConfig(**values["text"]), text, tensors.pop("tokenizer").tobytes())
        if "text_table" in tensors:
            rows = np.array(tensors.pop("text_table"), np.float32)
            table = dict(zip(values["prompts"], rows, strict=True))
        weights = Weights(
            backbone_config=backbone_config,
            backbone=backbone or None,
            tower=tower,
            model=model_config_from_dict(values["config"]) if head else None,
            head=head or None,
            text=table,
            notes=values["notes"],
            path=path,
        )
    except (KeyError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        problem = f"{path} does not fit this version of segic_jax ({type(error).__name__}: {error})"
        raise BundleError(f"{problem}: convert or train it again.") from error
    if tensors:
        raise BundleError(f"{path} does not fit this version of segic_jax: unknown {', '.join(tensors)}.")
    _check(weights, str(path))
    return weights


def save_bundle(path: Path | str, bundle: Bundle, *, float16: bool = True) -> None:
    """Write a complete model, in float16 (half the size) or in float32.

    Raises:
        BundleError, WriteError: as `write_weights`, or the empty prompt is missing.
    """
    if EMPTY_PROMPT not in bundle.text:
        raise BundleError(f"{path}: the text table lacks the empty prompt, which every model needs.")
    weights = Weights(
        backbone_config=bundle.config.backbone,
        backbone=bundle.backbone,
        tower=bundle.tower,
        model=bundle.config,
        head=bundle.head,
        text=bundle.text,
        notes=bundle.notes,
    )
    write_weights(path, weights, float16=float16)


def load_bundle(path: Path | str) -> Bundle:
    """Read a complete model. The backbone stays in the file, which is mapped, until it is placed on a device.

    Raises:
        BundleError: as `read_weights`, or a part is missing.
    """
    weights = read_weights(path)
    missing = [
        (name, source)
        for name, source, present in (
            ("backbone", "BACKBONE", weights.backbone),
            ("text tower", "CLIP", weights.tower or EMPTY_PROMPT in weights.text),
            ("head", "HEAD", weights.head),
        )
        if not present
    ]
    if missing:
        names, sources = zip(*missing, strict=True)
        raise BundleError(
            f"{path} is not a complete model, it has no {' and no '.join(names)}; join the parts: "
            f"segic convert {path} {' '.join(sources)} --out MODEL.safetensors"
        )
    if EMPTY_PROMPT not in weights.text:
        weights.text.update(_encoded(weights.tower, [EMPTY_PROMPT], str(path)))
    return Bundle(
        config=weights.model,
        backbone=weights.backbone,
        head=as_float32(weights.head),
        text=weights.text,
        notes=weights.notes,
        path=weights.path,
        tower=weights.tower,
    )


def load_backbone(path: Path | str) -> Bundle:
    """Read a model for methods that need its backbone only; a complete one is read as `load_bundle` does.

    Raises:
        BundleError: as `read_weights`, or there is no backbone.
    """
    weights = read_weights(path)
    if weights.head is not None:
        return load_bundle(path)
    if weights.backbone is None or weights.backbone_config is None:
        raise BundleError(f"{path} has no backbone: give a backbone, such as dinov3-l, or a complete model.")
    stride = weights.backbone_config.stride
    config = ModelConfig(backbone=weights.backbone_config, text_width=1, canvas=64 * stride)
    text = {EMPTY_PROMPT: np.zeros(1, np.float32)}
    return Bundle(config, weights.backbone, {}, text, weights.notes, weights.path)


def _foreign(path: Path) -> str:
    return (
        f"{path} is not a model of this project (format '{FORMAT}'); official weights become one by "
        f"segic convert {path} --out MODEL.safetensors"
    )


def _encoded(tower: TextTower, prompts: list[str], what: str) -> TextTable:
    try:
        return encode_prompts(tower, prompts)
    except TextError as error:
        raise BundleError(f"{what}: {error}") from error


def _part(tensors: Tensors, prefix: str) -> Tensors:
    """Move the tensors whose names begin with `prefix` out of `tensors`."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


def _check(weights: Weights, what: str) -> None:
    """Compare each part with its configuration, check its numbers, and compare the parts with each other."""
    try:
        if weights.backbone is not None:
            check(weights.backbone, backbone_template(weights.backbone_config).shapes, "backbone parameters")
        if weights.tower is not None:
            check(weights.tower.params, text_template(weights.tower.config).shapes, "text tower's parameters")
        if weights.head is not None:
            check(weights.head, head_template(weights.model).shapes, "head parameters")
    except (TypeError, ValueError, ArithmeticError) as error:  # also a configuration that makes no module
        raise BundleError(f"{what}: {error}") from error
    for prefix, tensors in (
        ("backbone/", weights.backbone),
        ("text/", weights.tower.params if weights.tower else None),
        ("head/", weights.head),
        ("text feature of ", weights.text),
    ):
        for name, value in (tensors or {}).items():
            finite = np.isfinite(value).all()
            release(value)
            if not finite:
                raise BundleError(
                    f"{what}: {prefix}{name} holds NaN or infinite values; use an earlier checkpoint, or "
                    "get the file again."
                )
    model = weights.model
    if weights.backbone is not None and model is not None and weights.backbone_config != model.backbone:
        raise BundleError(f"{what}: the head belongs to another backbone than the one it is joined with.")
    widths = {np.shape(feature) for feature in weights.text.values()}
    if weights.tower is not None:
        widths.add((weights.tower.config.width,))
    if weights.model is not None:
        widths.add((weights.model.text_width,))
    if len(widths) > 1:
        raise BundleError(
            f"{what}: all text features must have text_width numbers; their widths are {sorted(widths)}."
        )
