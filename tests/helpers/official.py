"""Make random weights under the official names and under the names of other libraries."""

import json

import numpy as np

from segic_jax.config import (
    DinoV3Config,
    EfficientNetConfig,
    HeadConfig,
    ModelConfig,
    TextConfig,
    ViTConfig,
)
from segic_jax.models.backbones import backbone_template
from segic_jax.models.clip_text import text_template
from segic_jax.models.head import head_template
from segic_jax.weights.torch_names import torch_shapes

VIT = ViTConfig(width=64, depth=3, num_heads=1, pos_grid=5)
REGISTERS = {"num_registers": 4, "pos_offset": 0.0, "pos_antialias": True}
DINOV3 = DinoV3Config(width=64, depth=2, num_heads=1, ffn_hidden=96)
TEXT = TextConfig(vocab_size=300, width=64, mlp_width=96, depth=2, num_heads=1, eos_id=299, max_length=77)
HEAD = HeadConfig(width=32, mlp_width=48, iou_width=24, mask_channels=8)
MODEL = ModelConfig(backbone=VIT, head=HEAD, text_width=64, canvas=112)

TEMPLATES = {"backbone": backbone_template, "text": text_template, "head": head_template}


def random_tensors(template, seed=0):
    """Return float32 tensors in torch's layout by official name."""
    random = np.random.default_rng(seed)
    return {
        name: (random.normal(size=spec.shape) / 8).astype(np.float32)
        for name, spec in torch_shapes(template.shapes).items()
    }


def backbone(config=VIT):
    """Return the tensors of DINOv2's hub files, with the mask token that inference does not use."""
    width = config.width
    return random_tensors(backbone_template(config)) | {"mask_token": np.ones((1, width), np.float32)}


def dinov3(config=DINOV3):
    """Return the tensors of DINOv3's files, with the mask of zeros over the bias of keys."""
    tensors = random_tensors(backbone_template(config), seed=4)
    channels = config.width // config.num_heads // 4
    tensors["rope_embed.periods"] = (100 ** (np.arange(channels) / channels)).astype(np.float32)
    for name in [name for name in tensors if name.endswith("qkv.bias")]:
        tensors[f"{name}_mask"] = np.repeat(np.float32([1, 0, 1]), config.width)
    return tensors | {"mask_token": np.ones((1, config.width), np.float32)}


def dinov3_hugging_face(tensors):
    """Return the tensors of DINOv3ViTModel."""
    gated = "blocks.0.mlp.w1.weight" in tensors
    layers = {"w1": "gate_proj", "w2": "up_proj", "w3": "down_proj"} if gated else {}
    layers = layers or {"fc1": "up_proj", "fc2": "down_proj"}
    top = {
        "cls_token": "embeddings.cls_token",
        "storage_tokens": "embeddings.register_tokens",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.bias",
    }
    named = {"embeddings.mask_token": tensors["mask_token"][None]}
    for name, tensor in tensors.items():
        if name.endswith("bias_mask") or name in ("rope_embed.periods", "mask_token"):
            continue
        if not name.startswith("blocks."):
            named[top.get(name, name)] = tensor
            continue
        _, block, part, rest = name.split(".", 3)
        if rest.startswith("qkv."):
            leaf = rest.rsplit(".", 1)[1]
            for letter, third in zip("qkv", np.split(tensor, 3), strict=True):
                if (letter, leaf) != ("k", "bias"):
                    named[f"layer.{block}.attention.{letter}_proj.{leaf}"] = third
            continue
        for official_name, name_there in layers.items():
            rest = rest.replace(official_name, name_there)
        rest = rest.replace("proj.", "o_proj.") if part == "attn" else rest.replace("gamma", "lambda1")
        part = {"attn": "attention", "ls1": "layer_scale1", "ls2": "layer_scale2"}.get(part, part)
        named[f"layer.{block}.{part}.{rest}"] = tensor
    return named


def dinov3_timm(tensors):
    """Convert like timm's `checkpoint_filter_fn`, for a model with biases."""
    named = {}
    for name, tensor in tensors.items():
        if name.endswith("bias_mask") or name in ("rope_embed.periods", "mask_token"):
            continue
        if name.endswith("qkv.bias"):
            q, _, v = np.split(tensor, 3)
            named |= {name.replace("qkv.bias", "q_bias"): q, name.replace("qkv.bias", "v_bias"): v}
            continue
        for theirs, ours in (
            ("storage_tokens", "reg_token"),
            ("ls1.gamma", "gamma_1"),
            ("ls2.gamma", "gamma_2"),
            ("mlp.w1", "mlp.fc1_g"),
            ("mlp.w2", "mlp.fc1_x"),
            ("mlp.w3", "mlp.fc2"),
        ):
            name = name.replace(theirs, ours)
        named[name] = tensor
    return named


def text():
    return random_tensors(text_template(TEXT), seed=1)


def head():
    return random_tensors(head_template(MODEL), seed=2)


def efficientnet_lite(lite=0):
    """Return the state dict of efficientnet_lite_pytorch, with a small classifier."""
    random, tensors = np.random.default_rng(3), {}

    def convolution(name, outputs, inputs, size):
        scale = (2 / (inputs * size**2)) ** 0.5
        values = scale * random.normal(size=(outputs, inputs, size, size))
        tensors[f"{name}.weight"] = values.astype(np.float32)

    def batch_norm(name, channels):
        for leaf, shift in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            values = shift + random.uniform(-0.3, 0.3, channels)
            tensors[f"{name}.{leaf}"] = values.astype(np.float32)
        tensors[f"{name}.num_batches_tracked"] = np.array(7)

    convolution("_conv_stem", 32, 3, 3)
    batch_norm("_bn0", 32)
    layout = EfficientNetConfig.published(lite).layout()
    for index, block in enumerate(layout):
        name, hidden = f"_blocks.{index}", block.inputs * block.expand
        if block.expand > 1:
            convolution(f"{name}._expand_conv", hidden, block.inputs, 1)
            batch_norm(f"{name}._bn0", hidden)
        convolution(f"{name}._depthwise_conv", hidden, 1, block.kernel)
        batch_norm(f"{name}._bn1", hidden)
        convolution(f"{name}._project_conv", block.outputs, hidden, 1)
        batch_norm(f"{name}._bn2", block.outputs)
    convolution("_conv_head", 8, layout[-1].outputs, 1)
    batch_norm("_bn1", 8)
    return tensors | {"_fc.weight": np.ones((5, 8), np.float32), "_fc.bias": np.ones(5, np.float32)}


def chunked(tensors):
    """Return the names of DINOv2's own training: two blocks a chunk, numbered across chunks."""
    named = {}
    for name, tensor in tensors.items():
        if name.startswith("blocks."):
            _, block, rest = name.split(".", 2)
            name = f"blocks.{int(block) // 2}.{block}.{rest}"
        named[f"backbone.{name}"] = tensor
    return named | {"dino_head.last_layer.weight": np.ones(3, np.float32)}


def hugging_face(tensors, prefix=""):
    """Return the tensors of Dinov2Model or Dinov2WithRegistersModel."""
    top = {
        "cls_token": "embeddings.cls_token",
        "mask_token": "embeddings.mask_token",
        "register_tokens": "embeddings.register_tokens",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    inner = {
        "attn.proj": "attention.output.dense",
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
        "mlp.w12": "mlp.weights_in",
        "mlp.w3": "mlp.weights_out",
    }
    named = {}
    for name, tensor in tensors.items():
        if name in top:
            named[top[name]] = tensor
            continue
        _, block, rest = name.split(".", 2)
        if rest.startswith("attn.qkv"):
            for part, third in zip(("query", "key", "value"), np.split(tensor, 3), strict=True):
                leaf = rest.rsplit(".", 1)[1]
                named[f"encoder.layer.{block}.attention.attention.{part}.{leaf}"] = third
            continue
        for official_name, name_there in inner.items():
            rest = rest.replace(official_name, name_there)
        named[f"encoder.layer.{block}.{rest}"] = tensor
    return {prefix + name: tensor for name, tensor in named.items()}


def timm(tensors):
    """Convert like timm's `_convert_dinov2`, which drops the mask token.

    With registers, it adds the class position to the class token.
    """
    named = {name: tensor for name, tensor in tensors.items() if name != "mask_token"}
    if "register_tokens" in named:
        named["reg_token"] = named.pop("register_tokens")
        named["cls_token"] = named["cls_token"] + named["pos_embed"][:, :1]
        named["pos_embed"] = named["pos_embed"][:, 1:]
    return {
        name.replace("mlp.w12", "mlp.fc1").replace("mlp.w3", "mlp.fc2"): tensor
        for name, tensor in named.items()
    }


def clip_model(tensors):
    """Return the tensors of CLIPModel, with the parts that SegIC does not use."""
    unused = ("vision_model.embeddings.class_embedding", "visual_projection.weight", "logit_scale")
    return (
        {f"text_model.{name}": tensor for name, tensor in tensors.items()}
        | {name: np.ones(2, np.float32) for name in unused}
        | {"text_projection.weight": np.ones((2, 2), np.float32)}
        | {"text_model.embeddings.position_ids": np.arange(77)[None]}
    )


def segic(head_tensors, backbone_tensors=None, text_tensors=None):
    """Return SEGIC.state_dict(): the trained part, or the complete model."""
    named = dict(head_tensors)
    if backbone_tensors:
        named |= {f"encoder.dinov2.{name}": tensor for name, tensor in backbone_tensors.items()}
        named |= {name: np.ones((1, 3, 1, 1), np.float32) for name in ("pixel_mean", "pixel_std")}
    if text_tensors:
        named |= {f"encoder.text_model.text_model.{n}": tensor for n, tensor in text_tensors.items()}
    return named


def tokenizer_json(size=300):
    """Return a tokenizer.json like CLIP's with `size` tokens: single letters, start and end."""
    letters = [chr(code) for code in range(33, 127)]
    vocab = {token: i for i, token in enumerate([*letters, *(letter + "</w>" for letter in letters)])}
    vocab |= {f"unused{i}": i for i in range(len(vocab), size - 2)}
    start, end = "<|startoftext|>", "<|endoftext|>"
    vocab |= {start: size - 2, end: size - 1}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [{"id": vocab[token], "content": token, **special} for token in (start, end)],
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": {
                "type": "RobertaProcessing",
                "sep": [end, size - 1],
                "cls": [start, size - 2],
                "trim_offsets": False,
                "add_prefix_space": False,
            },
            "decoder": None,
            "model": {
                "type": "BPE",
                "unk_token": end,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "</w>",
                "fuse_unk": False,
                "vocab": vocab,
                "merges": [],
            },
        }
    ).encode()
