"""Compare DINOv3 with Hugging Face's module on random weights, converted from the files that it saves."""

import jax
import numpy as np
import pytest
from requirements import require_torch, require_transformers

from segic_jax.config import DinoV3Config
from segic_jax.models.backbones import backbone_template
from segic_jax.models.params import as_float32, count
from segic_jax.weights.bundle import read_weights
from segic_jax.weights.catalog import CATALOG
from segic_jax.weights.convert import convert
from segic_jax.weights.formats import recognise
from segic_jax.weights.shapes import dinov3_config
from segic_jax.weights.torch_names import torch_shapes

torch = require_torch()
transformers = require_transformers()


def module(gated: bool, **settings):
    """Return a small module whose every parameter is random."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4}
    model = transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(
            **sizes | {"num_register_tokens": 4} | settings,
            use_gated_mlp=gated,
            hidden_act="silu" if gated else "gelu",
        )
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("safe", [True, False])
def test_converted_weights_give_the_features_of_the_saved_module(tmp_path, gated, safe):
    model = module(gated, rope_theta=100.0 if not safe else 60.0)
    if safe:
        model.save_pretrained(tmp_path / "hub")
        source = tmp_path / "hub"  # config.json holds the number of heads and the base of the periods
    else:
        source = tmp_path / "pytorch_model.bin"
        torch.save(model.state_dict(), source)
    convert([source], tmp_path / "ours.safetensors", num_heads=None if safe else 4)
    weights = read_weights(tmp_path / "ours.safetensors")
    run = jax.jit(lambda params, images: backbone_template(weights.backbone_config).bind(params)(images))
    params = as_float32(weights.backbone)
    for height, width in ((64, 64), (112, 112), (48, 96), (128, 32)):
        images = np.random.default_rng(height).normal(size=(2, height, width, 3)).astype(np.float32)
        with torch.no_grad():
            expected = model(torch.from_numpy(images).permute(0, 3, 1, 2)).last_hidden_state
        features = run(params, images)
        tokens = [features.class_token[:, None], features.registers, features.patches.reshape(2, -1, 48)]
        np.testing.assert_allclose(np.concatenate(tokens, axis=1), expected, atol=1e-4)


@pytest.mark.parametrize("size", ["s", "s+", "b", "l", "h+"])
def test_published_sizes(size):
    """Check that our configurations have the tensors of Hugging Face's modules, except the mask token."""
    config = DinoV3Config.dinov3(size)
    with torch.device("meta"):
        model = transformers.DINOv3ViTModel(
            transformers.DINOv3ViTConfig(
                hidden_size=config.width,
                intermediate_size=config.ffn_hidden,
                num_hidden_layers=config.depth,
                num_attention_heads=config.num_heads,
                num_register_tokens=4,
                use_gated_mlp=config.ffn == "swiglu",
            )
        )
    tensors = {name: np.broadcast_to(np.float32(0), tuple(p.shape)) for name, p in model.named_parameters()}
    [part] = recognise(tensors, config=None, what="module")
    assert dinov3_config(part.tensors) == config
    template = backbone_template(config)
    assert CATALOG[f"dinov3-{size.replace('+', '-plus')}"].parameters == count(template.shapes)
    shapes = {n: s.shape for n, s in torch_shapes(template.shapes).items() if n not in part.made}
    kept = {name: value.shape for name, value in tensors.items() if "mask_token" not in name}
    assert part.in_file(shapes) == kept
