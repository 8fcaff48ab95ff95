"""Build the official model from its checkout with small random weights, without downloads and without a GPU.

`compare_official.py` uses it. Packages that the official code imports and that inference does not need, such
as detectron2 and diffusers, have stand-ins where they are missing (`benchmarks.official_worker`).
"""

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from benchmarks.official_worker import use_stand_ins
from tools.dump_torch import FLAGS, built_model, check_checkout, without_cuda

START, END = "<|startoftext|>", "<|endoftext|>"
SHARPER = 100
SAME = 5e-7  # cosines that are closer tie, and torch takes any of them as the peak
WIDTH, DEPTH = 768, 2  # MODEL_CONFIG fixes the widths of dinov2_b: 768 for images and for texts


def build_official(segic: Path, dinov2: Path, out: Path, canvas: int):
    """Return the official model with random weights, and its arguments.

    Its text tower reads bytes, with the tokenizer.json that is written to `out`.

    Args:
        segic: checkout of the official repository.
        dinov2: checkout of DINOv2's repository.
        canvas: side of the input in pixels, a multiple of 14; officially 896.
    """
    check_checkout(segic)
    os.environ["XFORMERS_DISABLED"] = "1"  # DINOv2 would take the stand-in
    use_stand_ins()
    without_cuda(torch)
    cuda: Any = torch.cuda
    cuda.synchronize = lambda *args: None
    (out / "tokenizer.json").write_text(json.dumps(byte_tokenizer()))
    sys.path.insert(0, str(dinov2.resolve()))
    torch.hub.load = lambda repository, name, *args, **kwargs: _backbone()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(out / "tokenizer.json"),
        model_max_length=77,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_input_names=["input_ids", "attention_mask"],
    )
    CLIPTextModel.from_pretrained = staticmethod(lambda name, *args, **kwargs: _text_tower())
    AutoTokenizer.from_pretrained = staticmethod(lambda name, *args, **kwargs: tokenizer)
    sys.path.insert(0, str(segic.resolve()))
    configs = importlib.import_module("model.backbone").MODEL_CONFIG
    configs["dinov2_b"]["img_size"] = canvas
    flags = [*FLAGS, "--dinov2_model", "b", "--force_input_size", str(canvas), "--eval"]
    model, arguments = built_model(segic, flags, out / "official")
    for layer in model.mask_decoder.output_hypernetworks_mlps:  # logits of the size of a trained model's
        layer.layers[-1].weight.data *= SHARPER
    model.eval()  # returns None in the official code
    return model, arguments


class Parallel(nn.Module):
    """Stand for DistributedDataParallel, whose model is `module`, and call `record` with every result."""

    def __init__(self, module: nn.Module, record):
        super().__init__()
        self.module, self._record = module, record

    def forward(self, data, **options):
        """Run the model; `record` also gets which concepts have their peak at several pixels."""
        tied: list[bool] = []
        encoder: Any = self.module.prompt_encoder
        original = encoder.forward

        def forward(points, boxes, masks, texts):
            flat = masks.flatten(1)
            tied.extend(((flat >= flat.amax(1, keepdim=True) - SAME).sum(1) > 1).tolist())
            return original(points=points, boxes=boxes, masks=masks, texts=texts)

        encoder.forward = forward
        try:
            with torch.no_grad():
                result = self.module(data, **options)
        finally:
            encoder.forward = original
        self._record(data, result, tied)
        return result


def _backbone() -> nn.Module:
    """Return a DINOv2 of DEPTH blocks with the settings of its hub models."""
    module = importlib.import_module("dinov2.models.vision_transformer")
    return module.DinoVisionTransformer(
        img_size=518,
        patch_size=14,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=WIDTH // 64,
        init_values=1.0,
        block_chunks=0,
        interpolate_antialias=False,
        interpolate_offset=0.1,
    )


def _text_tower() -> CLIPTextModel:
    size = len(byte_tokenizer()["model"]["vocab"])
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=size,
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=WIDTH // 64,
            max_position_embeddings=77,
            bos_token_id=size - 2,
            eos_token_id=size - 1,
        )
    )


def byte_tokenizer() -> dict:
    """Return a tokenizer.json in CLIP's form whose tokens are bytes: a vocabulary without merges."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]
    names = [*characters, *(character + "</w>" for character in characters), START, END]
    vocabulary = {name: number for number, name in enumerate(names)}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    split = {
        "type": "Split",
        "pattern": {"Regex": r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"},
        "behavior": "Removed",
        "invert": True,
    }
    spaces = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocabulary[name], "content": name, **special} for name in (START, END)],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, spaces, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [END, vocabulary[END]],
            "cls": [START, vocabulary[START]],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "unk_token": END,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "vocab": vocabulary,
            "merges": [],
        },
    }
