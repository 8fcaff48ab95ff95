"""Compare modules of Hugging Face with the weights converted from the files that they save."""

from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np
from requirements import require_torch

from segic_jax.models.backbones import backbone_template
from segic_jax.models.params import as_float32
from segic_jax.weights.bundle import read_weights
from segic_jax.weights.convert import convert

torch = require_torch()


def compare_saved_module(
    model, folder: Path, sizes: Iterable[tuple[int, int]], *, safe: bool, atol: float
) -> None:
    """Save a module of 4 heads, convert the file, and compare all tokens on random images.

    Args:
        sizes: height and width of the images.
        safe: as Hugging Face saves it, with a config.json; otherwise the tensors alone, as torch does.
    """
    if safe:
        model.save_pretrained(folder / "hub")
        source = folder / "hub"  # its config.json holds what tensors do not show, such as the number of heads
    else:
        source = folder / "pytorch_model.bin"
        torch.save(model.state_dict(), source)
    convert([source], folder / "ours.safetensors", num_heads=None if safe else 4)
    weights = read_weights(folder / "ours.safetensors")
    run = jax.jit(lambda params, images: backbone_template(weights.backbone_config).bind(params)(images))
    params = as_float32(weights.backbone)
    for height, width in sizes:
        images = np.random.default_rng(height).normal(size=(2, height, width, 3)).astype(np.float32)
        with torch.no_grad():
            expected = model(torch.from_numpy(images).permute(0, 3, 1, 2)).last_hidden_state
        features = run(params, images)
        patches = features.patches.reshape(2, -1, features.patches.shape[-1])
        tokens = [features.class_token[:, None], features.registers, patches]
        np.testing.assert_allclose(np.concatenate(tokens, axis=1), expected, atol=atol)
