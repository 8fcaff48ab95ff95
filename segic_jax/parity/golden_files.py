"""Read a folder of goldens: arrays and weights by name, and the configurations that fit them.

Sizes follow from the shapes of the weights. The numbers of attention heads do not: they are found by trying
the divisors of the width on a stored array.
"""

import gzip
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from segic_jax.config import ModelConfig, TextConfig, ViTConfig
from segic_jax.errors import GoldensError
from segic_jax.models.backbones import backbone_template
from segic_jax.models.clip_text import text_template
from segic_jax.models.encoding import normalise_pixels
from segic_jax.models.head import head_template
from segic_jax.models.params import Params, as_float32
from segic_jax.parity.checker import channels_last
from segic_jax.weights.pth import read_pth
from segic_jax.weights.shapes import model_config, text_config, vit_config
from segic_jax.weights.torch_names import Tensors, clip_text_tensors, from_torch, split_segic

_MATCH = 1e-5  # a mean error below this identifies the right number of heads, which has about 1e-6

# Arrays that show the numbers of heads: images on the canvas, their sizes and features; prompts and features.
_IMAGES = (
    ("in.image", "in.ori_size", "mid.image_embeddings"),
    ("in.ref_image", "in.ref_ori_size", "mid.ref_image_embeddings"),
    ("mid.images", "mid.ori_size", "mid.image_embeddings"),
)
_PROMPTS = tuple(
    (f"mid.{prefix}input_ids", f"mid.{prefix}attention_mask", f"mid.{prefix}text_features")
    for prefix in ("", "tgt_", "ref_")
)


class Segic(NamedTuple):
    """Hold the model of all `segic_*` files."""

    config: ModelConfig
    text_config: TextConfig
    backbone: Params
    text: Params
    head: Params


@runtime_checkable
class SegicWeights(Protocol):
    """Give what the replays of `segic_*` files need beside their arrays: goldens do, and dumps of torch."""

    def segic(self, canvas: int) -> Segic:
        """Return the model."""
        ...

    def weights(self, name: str) -> Tensors:
        """Return the tensors of a file, such as gradients."""
        ...


class Goldens:
    """Read each file of a folder once."""

    def __init__(self, folder: Path):
        """Find the files.

        Raises:
            GoldensError: there is no such folder, or it has no .npz file.
        """
        self.folder = Path(folder)
        self.names = sorted(path.stem for path in self.folder.glob("*.npz"))
        if not self.names:
            raise GoldensError(f"{folder} is not a folder of goldens: it holds no .npz file.")
        # Cached as long as this object lives; `cache` on the methods would outlive it.
        self.arrays = cache(self._arrays)
        self._tensors = cache(self._weights)
        self._models = cache(self._segic)
        self._heads: dict[int, int] = {}  # by width, the number found last, which is tried first

    def segic(self, canvas: int) -> Segic:
        """Return the model of the `segic_*` files and of prompt_decoder, at their canvas."""
        return self._models(canvas)

    def weights(self, name: str) -> Tensors:
        """Return the tensors of NAME.safetensors, NAME.safetensors.gz or NAME.pth.gz."""
        return self._tensors(name)

    def _arrays(self, name: str) -> dict[str, np.ndarray]:
        """Read NAME.npz."""
        path = self.folder / f"{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
        except Exception as error:  # damaged bytes make zipfile, zlib and numpy raise nearly anything
            raise GoldensError(f"{path} is missing or damaged: {error}") from error

    def _weights(self, name: str) -> Tensors:
        """Read NAME.safetensors, NAME.safetensors.gz or NAME.pth.gz."""
        path = next((path for path in self._weight_files(name) if path.is_file()), None)
        if path is None:
            raise GoldensError(f"{self.folder} has no weights {name}.safetensors or .safetensors.gz.")
        if path.name.endswith(".pth.gz"):
            return read_pth(path)
        try:
            data = path.read_bytes()
            return load(gzip.decompress(data) if path.suffix == ".gz" else data)
        except (OSError, EOFError, zlib.error, SafetensorError) as error:
            raise GoldensError(f"{path} is damaged: {error}") from error

    def has_weights(self, name: str) -> bool:
        """Return whether `weights(name)` finds a file."""
        return any(path.is_file() for path in self._weight_files(name))

    def _weight_files(self, name: str) -> list[Path]:
        return [self.folder / f"{name}{end}" for end in (".safetensors", ".safetensors.gz", ".pth.gz")]

    def vit_config(self, variant: str) -> ViTConfig:
        """Return the configuration of backbone_VARIANT."""
        arrays, tensors = self.arrays(f"backbone_{variant}"), self.weights(f"backbone_{variant}")
        config = replace(
            vit_config(tensors, num_heads=1),
            num_registers=int(arrays["in.num_register_tokens"]),
            pos_offset=float(arrays["in.offset"]),
            pos_antialias=bool(arrays["in.antialias"]),
        )
        for number in range(int(arrays["in.n_inputs"])):
            pixels, expected = f"in.image.{number}", f"out.x_norm_patchtokens.{number}"
            if pixels in arrays and expected in arrays:
                return self._with_vit_heads(config, tensors, channels_last(arrays[pixels]), arrays[expected])
        return config

    def text_config(self) -> TextConfig:
        """Return the configuration of text.safetensors."""
        arrays, tensors = self.arrays("text"), clip_text_tensors(self.weights("text"))
        ids, mask = arrays["in.input_ids"], arrays["in.attention_mask"]
        for field, name in (("pooled", "out.pooler_output"), ("tokens", "out.last_hidden_state")):
            if name in arrays:
                return self._with_text_heads(tensors, ids, mask, field, arrays[name])
        return text_config(tensors, num_heads=1, eos_id=int(ids.max()))

    def _segic(self, canvas: int) -> Segic:
        """Return the model of the `segic_*` files and of prompt_decoder, at their canvas."""
        parts = split_segic(self.weights("segic"))
        vit = vit_config(parts.backbone, num_heads=1)
        stored = self._first(*_IMAGES)
        if stored:
            images, sizes, features = stored  # the features of the references may follow
            pixels = normalise_pixels(vit, channels_last(images), np.resize(sizes, (len(images), 2)))
            expected = channels_last(features[: len(images)])
            vit = self._with_vit_heads(vit, parts.backbone, pixels, expected)
        text = text_config(parts.text, num_heads=1)
        stored = self._first(*_PROMPTS)
        if stored:
            ids, mask, features = stored
            text = self._with_text_heads(parts.text, ids, mask, "pooled", features)
        config = model_config(parts.head, vit, canvas)
        return Segic(
            config,
            text,
            as_float32(from_torch(parts.backbone, backbone_template(vit).shapes)),
            as_float32(from_torch(parts.text, text_template(text).shapes)),
            as_float32(from_torch(parts.head, head_template(config).shapes)),
        )

    def _first(self, *choices: tuple[str, str, str]) -> tuple[np.ndarray, ...]:
        """Return the arrays of the first choice that a `segic_*` file holds completely."""
        for file, names in product(self.names, choices):
            with suppress(GoldensError):  # the replay of a damaged file reports it
                arrays = self.arrays(file) if file.startswith("segic_") else {}
                if all(name in arrays for name in names):
                    return tuple(arrays[name] for name in names)
        return ()

    def _with_vit_heads(
        self, config: ViTConfig, tensors: Tensors, pixels: jax.Array | np.ndarray, expected: np.ndarray
    ) -> ViTConfig:
        """Find the heads of a backbone from normalised pixels [n, h, w, 3] and the expected patch tokens."""

        def error(heads: int) -> float:
            module = backbone_template(replace(config, num_heads=heads))
            run = jax.jit(lambda params, pixels: module.bind(params)(pixels).patches)
            patches = run(from_torch(tensors, module.shapes), pixels)
            return _mean_error(np.reshape(patches, expected.shape), expected)

        return replace(config, num_heads=self._find_heads(config.width, error))

    def _with_text_heads(
        self, tensors: Tensors, ids: np.ndarray, mask: np.ndarray, field: str, expected: np.ndarray
    ) -> TextConfig:
        """Find the heads of a text tower from the expected `field` of its TextFeatures."""
        # The end-of-text token has the highest id: CLIP finds it by argmax.
        config = text_config(tensors, num_heads=1, eos_id=int(ids.max()))

        def error(heads: int) -> float:
            module = text_template(replace(config, num_heads=heads))
            run = jax.jit(lambda params, *prompts: getattr(module.bind(params)(*prompts), field))
            params = from_torch(tensors, module.shapes)
            return _mean_error(run(params, ids.astype(np.int32), mask.astype(bool)), expected)

        return replace(config, num_heads=self._find_heads(config.width, error))

    def _find_heads(self, width: int, error: Callable[[int], float]) -> int:
        """Return the divisor of `width` with the smallest error; stop early at a match."""
        candidates = sorted(
            (heads for heads in range(1, width + 1) if width % heads == 0),
            # First the number of another file, then 64 channels a head as in published models, then few.
            key=lambda heads: (heads != self._heads.get(width), heads * 64 != width, heads),
        )
        errors = {}
        for heads in candidates:
            errors[heads] = error(heads)
            if errors[heads] < _MATCH:
                break
        self._heads[width] = min(errors, key=errors.__getitem__)
        return self._heads[width]


def _mean_error(actual, expected: np.ndarray) -> float:
    """Return the mean error: a maximum would let one wrong stored number mislead the search."""
    return float(np.nanmean(np.abs(np.asarray(actual) - expected)))
