"""A whole model in one safetensors file: frozen backbone, head, text table and configuration.

Tensors are named `backbone/...`, `head/...` and `text_table`; the metadata holds the configuration, the
prompts of the table's rows and notes about the training, as JSON.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from segic_jax.config import ConfigError, ModelConfig, model_config_from_dict, to_dict
from segic_jax.models.segic import backbone_template, head_template
from segic_jax.params import Params, ParamsError, as_float32, check

FORMAT = "segic_jax model 1"
SHIPPED = Path(__file__).parent / "emoji_tiny.safetensors"


class BundleError(ValueError):
    """A model file that cannot be used; one sentence that names it and the mend."""


@dataclass(frozen=True)
class Bundle:
    """Everything that inference needs."""

    config: ModelConfig
    backbone: Params
    head: Params
    text: dict[str, Float[np.ndarray, " text_width"]]  # of each prompt; "" (no name given) is always there
    notes: dict = field(default_factory=dict)  # JSON: how it was trained, `cosine_threshold`, ...
    path: Path | None = None  # the file it came from

    @property
    def name(self) -> str:
        """The file's name, for reports."""
        return self.path.name if self.path else "unsaved"

    def text_feature(self, class_name: str = "") -> Float[np.ndarray, " text_width"]:
        """Feature of `a photo of a NAME`, or of the empty prompt (segic.py:302-313).

        Raises:
            BundleError: the table has no such prompt.
        """
        prompt = f"a photo of a {class_name}" if class_name else ""
        if prompt not in self.text:
            raise BundleError(f"{self.name} has no text feature for '{prompt}'; leave the class names out.")
        return self.text[prompt]


def save_bundle(path: Path | str, bundle: Bundle, *, half: bool = True) -> None:
    """Write `bundle`, in float16 (half the size) or in float32.

    Raises:
        BundleError: a value does not fit in float16, or the parameters do not fit the configuration.
    """
    _check(bundle, str(path))
    prompts = sorted(bundle.text)
    tensors = {f"backbone/{name}": value for name, value in bundle.backbone.items()}
    tensors |= {f"head/{name}": value for name, value in bundle.head.items()}
    tensors["text_table"] = np.stack([bundle.text[prompt] for prompt in prompts])
    tensors = {name: np.asarray(value, np.float32) for name, value in tensors.items()}
    if half:
        largest = np.finfo(np.float16).max
        for name, value in tensors.items():
            if np.abs(value).max() > largest:
                raise BundleError(f"{name} holds values above {largest}; save it with half=False.")
        tensors = {name: value.astype(np.float16) for name, value in tensors.items()}
    metadata = {
        "format": FORMAT,
        "config": json.dumps(to_dict(bundle.config)),
        "prompts": json.dumps(prompts),
        "notes": json.dumps(bundle.notes),
    }
    save_file(tensors, str(path), metadata)


def load_bundle(path: Path | str = SHIPPED) -> Bundle:
    """Read a file of `save_bundle`; the parameters come back as float32.

    Raises:
        BundleError: missing, damaged, of another kind, or not fitting its own configuration.
    """
    path = Path(path)
    if not path.is_file():
        raise BundleError(f"{path}: there is no such model file.")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path} is damaged or no safetensors file ({error}); get it again.") from error
    if metadata.get("format") != FORMAT:
        raise BundleError(f"{path} is no model of this project: its format is not '{FORMAT}'.")
    try:
        table = tensors.pop("text_table").astype(np.float32)
        bundle = Bundle(
            config=model_config_from_dict(json.loads(metadata["config"])),
            backbone=as_float32(_part(tensors, "backbone/")),
            head=as_float32(_part(tensors, "head/")),
            text=dict(zip(json.loads(metadata["prompts"]), table, strict=True)),
            notes=json.loads(metadata["notes"]),
            path=path,
        )
    except (KeyError, ValueError) as error:
        raise BundleError(f"{path} does not fit this version of segic_jax: {error}") from error
    _check(bundle, str(path))
    return bundle


def _part(tensors: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _check(bundle: Bundle, what: str) -> None:
    try:
        check(bundle.backbone, backbone_template(bundle.config.vit).shapes, "backbone parameters")
        check(bundle.head, head_template(bundle.config).shapes, "head parameters")
    except (ParamsError, ConfigError) as error:
        raise BundleError(f"{what}: {error}") from error
    width = bundle.config.text_width
    if "" not in bundle.text:
        raise BundleError(f"{what}: the text table lacks the empty prompt, which every model needs.")
    if any(np.shape(feature) != (width,) for feature in bundle.text.values()):
        raise BundleError(f"{what}: every text feature must have text_width {width} numbers.")
