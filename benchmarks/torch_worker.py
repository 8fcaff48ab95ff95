"""Run the PyTorch side of a comparison in a separate process: `python -m benchmarks.torch_worker`.

Reads one JSON request a line and answers each with one: {"build": kind, ...} makes a model and its inputs,
{} runs it once. It needs torch, transformers, `tools/dump_torch.py` and `benchmarks/official_worker.py`, but
nothing else of this project, so that it can run in the environment of the official code.
"""

from __future__ import annotations  # the official environment may have Python 3.8

import json
import os
import sys
import time
from pathlib import Path

import torch

from benchmarks.memory import resident_rise

CUDA = False  # whether the models are on a GPU
_MODEL = {}  # the last one, by what it was made from: cells that differ in their inputs share it


def main():
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not lie between the answers
    run = None
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict
        try:
            if "device" in request:
                answer = start(request["device"])
            elif "build" in request:
                with torch.inference_mode():
                    run, answer = BUILDERS[request.pop("build")](**request)
            elif request.get("memory"):
                answer = {"memory": memory(run)}
            else:
                answer = {"seconds": seconds(run)}
        except Exception as error:  # any error is reported to the other side
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            if isinstance(error, (getattr(torch, "OutOfMemoryError", MemoryError), MemoryError)):
                answer["out_of_memory"] = True
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def start(device):
    """Choose the device; return versions and threads."""
    global CUDA
    CUDA = device == "gpu" and torch.cuda.is_available()
    if CUDA:
        torch.set_float32_matmul_precision("high")  # TF32, as JAX does by default
    if hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))  # as many as XLA has
    return {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if CUDA else "cpu",
    }


def seconds(run):
    """Return the seconds of one call until its result is ready."""
    begin = time.perf_counter()
    _finished(run)
    return time.perf_counter() - begin


def memory(run):
    """Return the bytes that one call takes in addition to weights and inputs."""
    if not CUDA:
        return resident_rise(lambda: _finished(run))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _finished(run)
    return torch.cuda.max_memory_allocated() - before


def _finished(run):
    with torch.inference_mode():
        run()
    if CUDA:
        torch.cuda.synchronize()


def backbone(vit, canvas, batch, precision):
    """Build Hugging Face's Dinov2Model with scaled-dot-product attention; compile it on a GPU."""
    from transformers import Dinov2Config, Dinov2Model

    def make():
        config = Dinov2Config(
            hidden_size=vit["width"],
            num_hidden_layers=vit["depth"],
            num_attention_heads=vit["num_heads"],
            mlp_ratio=int(vit["mlp_ratio"]),
            use_swiglu_ffn=vit["ffn"] == "swiglu",
            image_size=vit["patch_size"] * vit["pos_grid"],
            patch_size=vit["patch_size"],
        )
        return Dinov2Model._from_config(config, attn_implementation="sdpa")

    model = _placed([vit, precision], make, precision)
    pixels = _numbers(batch, 3, canvas, canvas, precision=precision)
    return lambda: model(pixels).last_hidden_state, {}


def products(tokens, shapes, precision):
    """Build matrix products [tokens, inputs] x [inputs, outputs] as in linear layers."""
    weights = [_numbers(outputs, inputs, precision=precision) for inputs, outputs in shapes]
    inputs_of_width = {inputs: _numbers(tokens, inputs, precision=precision) for inputs, _ in shapes}

    def run():
        for weight in weights:
            torch.nn.functional.linear(inputs_of_width[weight.shape[1]], weight)

    return run, {}


def decoder(head, grid, rows, slots, precision):
    """Build transformers' SAM mask decoder with a row for each concept of each image, as officially."""
    from transformers.models.sam.configuration_sam import SamMaskDecoderConfig
    from transformers.models.sam.modeling_sam import SamMaskDecoder

    def make():
        config = SamMaskDecoderConfig(
            hidden_size=head["width"],
            mlp_dim=head["mlp_width"],
            num_hidden_layers=head["depth"],
            num_attention_heads=head["num_heads"],
            attention_downsample_rate=head["cross_attention_downsample"],
            num_multimask_outputs=head["num_mask_tokens"] - 1,
            iou_head_depth=head["iou_depth"],
            iou_head_hidden_dim=head["iou_width"],
        )
        config._attn_implementation = "sdpa"
        return SamMaskDecoder(config)

    model, width = _placed([head, precision], make, precision), head["width"]
    image, position, dense = (_numbers(rows, width, grid, grid, precision=precision) for _ in range(3))
    sparse = _numbers(rows, 1, slots, width, precision=precision)
    return lambda: model(image, position, sparse, dense, multimask_output=False), {}


def official(checkout, vit, canvas, concepts, dinov2):
    """Build the official whole inference: one reference with `concepts` masks, and one target.

    The head has random weights. The entry points are those of `tools/dump_torch.py`.
    """
    from benchmarks import official_worker

    def make():
        folder = dinov2 and Path(dinov2)
        model, model.canvas_of_benchmark = official_worker.build(Path(checkout), vit, canvas, folder)
        return model

    model = _placed([checkout, vit, canvas], make, "float32")
    canvas = model.canvas_of_benchmark
    image, reference = (255 * torch.rand(1, 3, canvas, canvas) for _ in range(2))
    size = torch.tensor([[canvas, canvas]])
    masks = torch.zeros(concepts, canvas, canvas)
    for i, mask in enumerate(masks):  # strips of the image
        mask[i * canvas // concepts : (i + 1) * canvas // concepts] = 255
    data = {
        "image": image,
        "image_dual": reference,
        "ori_size": size,
        "ori_size_dual": size.clone(),
        "label": [torch.zeros_like(masks)],  # only their number is read
        "label_dual": [masks],
        "class_name": [""],
        "is_inst": torch.tensor([concepts > 1]),
    }
    return lambda: model(data, inference=True), {"canvas": canvas}


BUILDERS = {"backbone": backbone, "products": products, "decoder": decoder, "official": official}


def _placed(key, make, precision):
    key = json.dumps(key, sort_keys=True)
    if key not in _MODEL:
        _MODEL.clear()
        model = make()
        model.eval()  # returns None in the official code
        model.to("cuda" if CUDA else "cpu", getattr(torch, precision))
        compiled = CUDA and not hasattr(model, "canvas_of_benchmark")
        _MODEL[key] = torch.compile(model) if compiled else model
    return _MODEL[key]


def _numbers(*shape, precision):
    return torch.randn(shape, dtype=getattr(torch, precision), device="cuda" if CUDA else "cpu")


if __name__ == "__main__":
    main()
