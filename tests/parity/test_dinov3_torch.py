"""Compare DINOv3 with Hugging Face's module on random weights, converted from the files that it saves."""

import numpy as np
import pytest
from hub_modules import compare_saved_module
from requirements import require_torch, require_transformers

from segic_jax.config import DinoV3Config
from segic_jax.models.backbones import backbone_template
from segic_jax.models.params import count
from segic_jax.weights.catalog import CATALOG
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
    compare_saved_module(model, tmp_path, ((64, 64), (112, 112), (48, 96), (128, 32)), safe=safe, atol=1e-4)


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
