"""Map tensors under their official (torch) names to our flat parameters and back.

Our modules carry the torch attribute names, so one rule fits every part: the path is the same, and the leaf
of the destination gives the layout of the tensor. Nothing is skipped silently in either direction.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import jax
import numpy as np

from segic_jax.errors import ParamsError
from segic_jax.models.params import check

Tensors = dict[str, np.ndarray]

_WEIGHT_LEAVES = ("kernel", "scale", "embedding")  # what torch calls "weight"

# Tensors that official files hold and no forward pass reads.
UNUSED = (
    "mask_token",  # DINOv2: only its training masks patches
    "embeddings.position_ids",  # CLIP: 0, 1, 2, ..., in files from before transformers 4.31
)


def from_torch(
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    *,
    unused: Collection[str] = UNUSED,
    what: str = "weights",
) -> Tensors:
    """Return the parameters of a `params.Template`.

    Args:
        tensors: by official name, e.g. "blocks.0.attn.qkv.weight".
        shapes: by our name, e.g. "blocks/0/attn/qkv/kernel".
        unused: official names that may be present and are left out.
        what: name of `tensors` in messages, such as the file.

    Raises:
        ParamsError: naming every missing, unknown or misshapen tensor.
    """
    destination = {torch_name(name): name for name in shapes}
    params = {}
    for name, tensor in tensors.items():
        if name in destination:
            params[destination[name]] = _swap_layout(destination[name], np.asarray(tensor), _TO_OURS)
        elif name not in unused:
            params[name] = tensor  # `check` reports it as unknown, under the name it has in the file
    check(params, shapes, what)
    return {name: params[name] for name in shapes}


def to_torch(params: Mapping[str, np.ndarray | jax.Array], prefix: str = "") -> Tensors:
    """Return tensors under official names after `prefix`, the inverse of `from_torch`; both return views."""
    return {
        prefix + torch_name(name): _swap_layout(name, np.asarray(value), _TO_TORCH)
        for name, value in params.items()
    }


def torch_shapes(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the official names and shapes of a `params.Template`."""

    def swapped(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(shape[axis] for axis in _TO_TORCH[len(shape)]) if name.endswith("/kernel") else shape

    return {
        torch_name(name): jax.ShapeDtypeStruct(swapped(name, spec.shape), spec.dtype)
        for name, spec in shapes.items()
    }


def torch_name(name: str) -> str:
    """Return the official name of a parameter: "neck.1.weight" for "neck/1/scale"."""
    *path, leaf = name.split("/")
    return ".".join([*path, "weight" if leaf in _WEIGHT_LEAVES else leaf])


# torch stores [out, in] for Linear, [out, in, height, width] for Conv2d, [in, out, height, width] for
# ConvTranspose2d; both of the latter become [height, width, in, out] and UpConv's [2, 2, out, in]. The weight
# of a depthwise convolution, [channels, height, width] here, becomes [height, width, channels].
_TO_OURS = {2: (1, 0), 3: (1, 2, 0), 4: (2, 3, 1, 0)}
_TO_TORCH = {2: (1, 0), 3: (2, 0, 1), 4: (3, 2, 0, 1)}


def _swap_layout(name: str, array: np.ndarray, axes: dict[int, tuple[int, ...]]) -> np.ndarray:
    if not name.endswith("/kernel"):
        return array
    if array.ndim not in axes:
        raise ParamsError(f"{torch_name(name)} has {array.ndim} dimensions; a weight has 2 to 4.")
    return array.transpose(axes[array.ndim])


class Parts(NamedTuple):
    """Hold the parts of an official SegIC state dict, each under its own official names."""

    backbone: Tensors  # as a DINOv2 hub file
    text: Tensors  # as CLIPTextModel below "text_model."; both are empty in a file of the trained part only
    head: Tensors


def split_segic(tensors: Mapping[str, np.ndarray]) -> Parts:
    """Split `SEGIC`'s state dict, complete or as its `state_dict()` saves it (model/segic.py:381-395)."""
    parts = Parts({}, {}, {})
    for name, tensor in tensors.items():
        if name.startswith("encoder.dinov2."):
            parts.backbone[name.removeprefix("encoder.dinov2.")] = tensor
        elif name.startswith("encoder.text_model.text_model."):
            parts.text[name.removeprefix("encoder.text_model.text_model.")] = tensor
        elif name not in ("pixel_mean", "pixel_std"):  # constants: models/encoding.py normalises
            parts.head[name] = tensor
    return parts


def clip_text_tensors(tensors: Mapping[str, np.ndarray]) -> Tensors:
    """Return the text tower of a CLIPModel or CLIPTextModel state dict, without its "text_model." prefix."""
    return {
        name.removeprefix("text_model."): tensor
        for name, tensor in tensors.items()
        if name.startswith("text_model.")
    }
