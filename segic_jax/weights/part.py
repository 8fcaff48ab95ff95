"""Hold a part of a model as a source stores it, and rename its tensors both ways."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from segic_jax.errors import FormatError
from segic_jax.models.params import check
from segic_jax.weights.torch_names import UNUSED, Tensors, from_torch, torch_shapes

Shape = tuple[int, ...]
Shapes = dict[str, Shape]


class Part(NamedTuple):
    """Hold a part of a model as a source stores it."""

    kind: Literal["backbone", "text", "head"]
    tensors: Tensors  # under official names
    origin: str  # e.g. "DINOv2 as Hugging Face ships it"
    what: str  # name of the source in messages
    in_file: Callable[[Shapes], Shapes]  # official names and shapes -> those of the file
    file_tensors: Tensors  # the tensors of the file, under its names
    left_out: tuple[str, ...] = ()  # names in the file that no forward pass reads
    config: Mapping[str, Any] | None = None  # the part's section of Hugging Face's config.json
    stored_config: Any = None  # the configuration that a file of this project stores
    removed: tuple[str, ...] = ()  # names of wrappers and roles that were taken off those of the file
    # Official names of tensors that the source does not store -> how to make them.
    made: Mapping[str, Callable[[Shape], np.ndarray]] = MappingProxyType({})

    def parameters(self, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> Tensors:
        """Return the parameters of a `params.Template` as views in the file's dtype.

        Raises:
            ParamsError: naming every missing, unknown or misshapen tensor by its name in the file.
        """
        official = {name: spec.shape for name, spec in torch_shapes(shapes).items()}
        made = {name: make(official[name]) for name, make in self.made.items() if name in official}
        expected = self.in_file({name: shape for name, shape in official.items() if name not in made})
        structs = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in expected.items()}
        check(self.file_tensors, structs, f"tensors of {self.what} ({self.origin})")
        return from_torch({**self.tensors, **made}, shapes, what=f"tensors of {self.what}")


# Left out as UNUSED is: other parts of a complete CLIP, and heads on top of a backbone.
BESIDE = (
    "vision_model.",
    "visual_projection.",
    "text_projection.",
    "logit_scale",
    "classifier.",
    "dino_head.",
    "ibot_head.",
)


class Prefixed(NamedTuple):
    """Map official names to those of a file that puts a prefix before them."""

    prefix: str

    def __call__(self, shapes: Shapes) -> Shapes:
        return {self.prefix + name: shape for name, shape in shapes.items()}


def split_unused(tensors: Mapping[str, np.ndarray], prefix: str) -> tuple[Tensors, tuple[str, ...]]:
    """Return the tensors that a part must account for, and the names of those that are left out."""
    unused = {prefix + name for name in (*UNUSED, "embeddings.mask_token")}
    left_out = tuple(name for name in tensors if name in unused or name.startswith(BESIDE))
    return {name: tensor for name, tensor in tensors.items() if name not in left_out}, left_out


def rename(name: str, pairs: Iterable[tuple[str, str]], *, back: bool = False) -> str:
    """Replace parts of a name, in a source (theirs, official) or the other way; a dot counts as before it."""
    name = "." + name
    for theirs, official in pairs:
        name = name.replace(official, theirs) if back else name.replace(theirs, official)
    return name[1:]


def require_settings(config: Mapping | None, settings: Mapping[str, Any], what: str) -> None:
    """Raise FormatError if config.json differs in settings that no shape shows and that are fixed here."""
    for name, value in settings.items():
        if config and config.get(name, value) != value:
            raise FormatError(
                f"{what}: its config.json says {name} {config[name]!r}; only {value!r} is supported here."
            )
