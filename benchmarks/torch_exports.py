"""Run a target through PyTorch as it leaves Python: eager, as a torch.export program, and as ONNX.

The model is that of the tests, tests/parity/torch_segic.py, which equals the official code. It has no
EfficientNet-Lite: there the features of efficientnet-lite-pytorch are run, alone.
"""

import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from segic_jax.config import EfficientNetConfig, HeadConfig, ModelConfig, ViTConfig
from segic_jax.models.backbones import backbone_template
from segic_jax.models.head import head_template
from segic_jax.models.params import as_float32
from segic_jax.weights.bundle import Bundle
from segic_jax.weights.formats import recognise

Run = Callable[[], np.ndarray]
TEXT_WIDTH = 16


class Target(nn.Module):
    """Return the logits of one image on the canvas for a prototype, with the text feature 0."""

    def __init__(self, model: Any):
        super().__init__()
        self.model: Any = model

    def forward(self, images, prototypes):
        model: Any = self.model
        pixels = (images.movedim(-1, 1) / 255 - model.pixel_mean) / model.pixel_std
        text = model.prompt_proj(torch.zeros(1, 1, TEXT_WIDTH))
        return model.segment(model.encoder(pixels), prototypes, text)[0]


class Features(nn.Module):
    """Return the outputs of those blocks of efficientnet-lite-pytorch that a model uses."""

    def __init__(self, config: EfficientNetConfig, canvas: int):
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        net = EfficientNet.from_name(f"efficientnet-lite{config.lite}", image_size=canvas)
        used = {*config.blocks, *config.fine_blocks}
        self.stem = nn.Sequential(net._conv_stem, net._bn0, net._swish)
        self.blocks, self.used = net._blocks[: max(used) + 1], used

    def forward(self, images, prototypes):
        x, outputs = self.stem(images.movedim(-1, 1) / 127.5 - 1), []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.used:
                outputs.append(x)
        return tuple(outputs)


def random_model(vit: Literal["s", "b", "l"], canvas: int) -> tuple[Bundle, Target]:
    """Return a model of DINOv2 with random weights, as ours and as PyTorch's."""
    sys.path.append(str(Path(__file__).parents[1] / "tests/parity"))
    import torch_segic

    backbone = ViTConfig.dinov2(vit)
    config = ModelConfig(backbone, HeadConfig(), text_width=TEXT_WIDTH, canvas=canvas)
    torch.manual_seed(0)
    model = torch_segic.SEGIC(
        torch_segic.Sizes(
            canvas=canvas,
            vit_width=backbone.width,
            vit_depth=backbone.depth,
            vit_heads=backbone.num_heads,
            text_width=TEXT_WIDTH,
            width=config.head.width,
            heads=config.head.num_heads,
            mlp=config.head.mlp_width,
        )
    )
    tensors = {name: value.numpy() for name, value in nn.Module.state_dict(model).items()}
    parts = {part.kind: part for part in recognise(tensors, config=None, what="the random model")}
    bundle = Bundle(
        config=config,
        backbone=as_float32(parts["backbone"].parameters(backbone_template(config.backbone).shapes)),
        head=as_float32(parts["head"].parameters(head_template(config).shapes)),
        text={"": np.zeros(TEXT_WIDTH, np.float32)},
    )
    return bundle, Target(model)


def make_torch_ways(
    module: nn.Module, images: np.ndarray, prototypes: np.ndarray, folder: Path
) -> dict[str, Run]:
    """Return functions that run a module on one image; each gives its first output.

    Args:
        images: uint8 [1, S, S, 3].
        prototypes: float32 [1, channels].
    """
    torch.set_grad_enabled(False)
    nn.Module.train(module, False)
    inputs = torch.tensor(images, dtype=torch.float32), torch.tensor(prototypes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(module, inputs)
    program = exported.module()

    def first(outputs) -> np.ndarray:
        return np.asarray(outputs if isinstance(outputs, torch.Tensor) else outputs[0])

    ways = {
        "eager": lambda: first(module(*inputs)),
        "torch.export, run by PyTorch": lambda: first(program(*inputs)),
    }
    if find_spec("onnxscript"):  # which torch.onnx needs
        import onnxruntime

        torch.onnx.export(exported, (), folder / "torch.onnx", dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(folder / "torch.onnx")
        feed = dict(zip((port.name for port in session.get_inputs()), map(np.asarray, inputs), strict=False))
        ways["torch.onnx.export, run by onnxruntime"] = lambda: first(session.run(None, feed))
    return ways
