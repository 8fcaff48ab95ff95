"""Compute the frozen features of the scenes once for a backbone and a canvas; store them as float16."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from segic_jax.config import ModelConfig
from segic_jax.data.preprocess import resize_and_pad
from segic_jax.inference import engine
from segic_jax.models.params import Params
from segic_jax.runtime import progress
from segic_jax.runtime.atomic_write import atomic_path
from studies.ablation.scenes import Scenes, Size, scenes_of

BATCH = 16  # scenes of one call of the backbone


class BackboneInput(NamedTuple):
    """Name a backbone and the canvas that it encodes."""

    backbone: str = "supervised"
    canvas: int = 0  # 0: the configuration's
    fine: bool = False  # encode at twice the canvas, and average the patches by fours


@dataclass(frozen=True)
class FeatureStore:
    """Provide scenes and their features by name; compute and store those that are missing."""

    folder: Path
    model: ModelConfig
    backbones: Mapping[str, Callable[[], Params]]
    size: Size
    seed: int

    def config(self, view: BackboneInput) -> ModelConfig:
        """Return the configuration of the model whose head reads these features."""
        return dataclasses.replace(self.model, canvas=view.canvas or self.model.canvas)

    def scenes(self, part: str) -> Scenes:
        """Return a part of the scenes; see `studies.ablation.scenes`."""
        return scenes_of(part, self.size, self.folder, self.seed)

    def features(self, part: str, view: BackboneInput) -> Float[np.ndarray, "scenes g g channels"]:
        """Return the features of every scene of a part: float16, mapped from disk."""
        config = self.config(view)
        file = self.folder / f"{part}_{self._name(view)}.npy"
        if not file.exists():
            self._extract(part, view, config, file)
        return np.load(file, mmap_mode="r")

    def delete(self, view: BackboneInput) -> None:
        """Delete the features of a backbone and input from the disk."""
        for file in self.folder.glob(f"*_{self._name(view)}.npy"):
            file.unlink()

    def _name(self, view: BackboneInput) -> str:
        return f"{view.backbone}_{self.config(view).canvas}{'_fine' if view.fine else ''}"

    def _extract(self, part: str, view: BackboneInput, config: ModelConfig, file: Path) -> None:
        images = self.scenes(part).images
        backbone = self.backbones[view.backbone]()
        shape = (len(images), config.grid, config.grid, config.backbone.width)
        if view.fine:
            config = dataclasses.replace(config, canvas=2 * config.canvas)
        nothing = np.zeros((0, *images.shape[1:3]), bool)
        sizes = np.full((BATCH, 2), config.canvas, np.int32)
        starts = range(0, len(images), BATCH)
        with atomic_path(file) as part_file:
            rows = np.lib.format.open_memmap(part_file, "w+", np.float16, shape)
            for start in progress.bar(starts, desc=f"features: {file.stem}", leave=False):
                # The last batch is filled up with the scenes before it: one program.
                first = max(0, min(start, len(images) - BATCH))
                chosen = np.arange(first, first + BATCH) % len(images)
                canvases = [resize_and_pad(images[i], nothing, config.canvas).image for i in chosen]
                features = engine.extract(config, backbone, np.stack(canvases), sizes).patches
                if view.fine:
                    features = features.reshape(BATCH, shape[1], 2, shape[2], 2, -1).mean((2, 4))
                rows[chosen] = np.asarray(features, np.float16)
            rows.flush()
