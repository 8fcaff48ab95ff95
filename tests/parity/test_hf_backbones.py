"""Compare small random DINOv2 modules of Hugging Face with the weights converted from the files they save."""

import jax
import numpy as np
import pytest
from hub_modules import compare_saved_module
from requirements import require_torch, require_transformers
from safetensors.numpy import save_file

from segic_jax.config import ViTConfig
from segic_jax.models.backbones import backbone_template
from segic_jax.models.params import as_float32
from segic_jax.weights.bundle import read_weights
from segic_jax.weights.convert import convert
from segic_jax.weights.formats import recognise
from segic_jax.weights.shapes import vit_config
from segic_jax.weights.torch_names import torch_shapes

torch = require_torch()
transformers = require_transformers()

SIZES = {"stored": (56, 56), "larger": (98, 98), "wide": (56, 112), "tall": (126, 42)}


def module(registers: bool, swiglu: bool, **sizes):
    """Return a module of width 48 with 4 heads and a 4 x 4 grid of positions; every parameter is random."""
    torch.manual_seed(0)
    settings = {
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 56,
        "patch_size": 14,
        "use_swiglu_ffn": swiglu,
    } | sizes
    if registers:
        model = transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**settings))
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**settings))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize("swiglu", [False, True])
@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize("safe", [True, False])
def test_converted_weights_give_the_features_of_the_saved_module(tmp_path, registers, swiglu, safe):
    model = module(registers, swiglu)
    compare_saved_module(model, tmp_path, SIZES.values(), safe=safe, atol=1e-5)


@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize("size", ["s", "b", "l", "g"])
def test_published_sizes(size, registers):
    """Check that our configurations have the tensors of Hugging Face's modules, except the mask token."""
    config = ViTConfig.dinov2(size, registers=registers)
    with torch.device("meta"):
        kind = transformers.Dinov2WithRegistersModel if registers else transformers.Dinov2Model
        model = kind(
            kind.config_class(
                hidden_size=config.width,
                num_hidden_layers=config.depth,
                num_attention_heads=config.num_heads,
                image_size=518,
                patch_size=14,
                use_swiglu_ffn=size == "g",
            )
        )
    numbers = sum(p.numel() for name, p in model.named_parameters() if "mask_token" not in name)
    expected = {"s": 22_056_192, "b": 86_579_712, "l": 304_367_616, "g": 1_136_479_232}[size]
    assert numbers == expected + registers * 4 * config.width
    tensors = {name: np.broadcast_to(np.float32(0), p.shape) for name, p in model.named_parameters()}
    joined = {name: value for name, value in tensors.items() if ".attention.attention." not in name}
    [part] = recognise(joined, config=None, what="module")
    assert vit_config(part.tensors) == config
    in_file = part.in_file({n: s.shape for n, s in torch_shapes(backbone_template(config).shapes).items()})
    assert in_file == {name: value.shape for name, value in tensors.items() if "mask_token" not in name}


class MetaBlock(torch.nn.Module):
    """Implement DINOv2's block with the attribute names and the order of computation of its hub files."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1 = torch.nn.LayerNorm(width, eps=1e-6)
        self.attn = torch.nn.ModuleDict(
            {"qkv": torch.nn.Linear(width, 3 * width), "proj": torch.nn.Linear(width, width)}
        )
        self.ls1 = torch.nn.ParameterDict({"gamma": torch.ones(width)})
        self.norm2 = torch.nn.LayerNorm(width, eps=1e-6)
        self.mlp = torch.nn.ModuleDict(
            {"fc1": torch.nn.Linear(width, 4 * width), "fc2": torch.nn.Linear(4 * width, width)}
        )
        self.ls2 = torch.nn.ParameterDict({"gamma": torch.ones(width)})

    def forward(self, x):
        batch, tokens, width = x.shape
        qkv = self.attn["qkv"](self.norm1(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.ls1["gamma"] * self.attn["proj"](attended)
        hidden = torch.nn.functional.gelu(self.mlp["fc1"](self.norm2(x)))
        return x + self.ls2["gamma"] * self.mlp["fc2"](hidden)


class MetaViT(torch.nn.Module):
    """Implement DINOv2 without registers, with Meta's resampling of the position embedding."""

    def __init__(self, width=48, heads=4, depth=2, side=4):
        super().__init__()
        self.side = side
        self.cls_token = torch.nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = torch.nn.Parameter(torch.zeros(1, width))
        self.pos_embed = torch.nn.Parameter(torch.zeros(1, 1 + side**2, width))
        self.patch_embed = torch.nn.ModuleDict({"proj": torch.nn.Conv2d(3, width, 14, stride=14)})
        self.blocks = torch.nn.ModuleList(MetaBlock(width, heads) for _ in range(depth))
        self.norm = torch.nn.LayerNorm(width, eps=1e-6)

    def forward(self, images):
        x = self.patch_embed["proj"](images)
        rows, columns = x.shape[2:]
        grid = self.pos_embed[:, 1:].unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
        if (rows, columns) != (self.side, self.side):
            scale = [(n + 0.1) / self.side for n in (rows, columns)]
            grid = torch.nn.functional.interpolate(grid, scale_factor=scale, mode="bicubic")
        x = (x + grid).flatten(2).transpose(1, 2)
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 1:].unflatten(1, (rows, columns))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_features_of_a_module_in_the_layout_of_meta(tmp_path, suffix):
    torch.manual_seed(1)
    model = MetaViT().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    source = tmp_path / f"dinov2{suffix}"
    if suffix == ".pth":
        torch.save(model.state_dict(), source)
    else:
        save_file({name: tensor.numpy() for name, tensor in model.state_dict().items()}, source)
    convert([source], tmp_path / "ours.safetensors", num_heads=4)
    weights = read_weights(tmp_path / "ours.safetensors")
    run = jax.jit(
        lambda params, images: backbone_template(weights.backbone_config).bind(params)(images).patches
    )
    for height, width in SIZES.values():
        images = np.random.default_rng(width).normal(size=(1, height, width, 3)).astype(np.float32)
        with torch.no_grad():
            expected = model(torch.from_numpy(images).permute(0, 3, 1, 2))
        np.testing.assert_allclose(run(as_float32(weights.backbone), images), expected, atol=1e-5)
