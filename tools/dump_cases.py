"""Dump the paths of the official model beside the plain pair: semantic segmentation, video, a training step.

`dump_torch.py` calls `write_cases` for --semantic, --video and --train; this file lies beside it. Arrays have
the names of this project's goldens (segic_jax/parity/replays), and `rounding.NAME` is how far an array is
from the same computation in float64.
"""

from __future__ import annotations  # the official environment may have Python 3.8

import argparse
import random
from pathlib import Path

import numpy as np
from dump_torch import (  # pyrefly: ignore[missing-import] - beside this file, wherever both are copied
    DumpError,
    Stages,
    doubled,
    imported,
    in_float64,
    placed,
    watch,
)

PASSES = ("fwd", "rev")
MOST_CLASSES = 16  # the official code reads the references in parts of 16
OF_TARGET = (
    *("encoder_in", "image_embeddings", "input_ids", "attention_mask", "text_features", "inst_proj_out"),
    *("neck_out", "sim", "mask_input", "point_coords", "point_labels", "text_tokens", "sparse", "dense"),
    *("image_pe", "low_res_masks", "iou_pred"),
)
OF_REFERENCES = ("image_embeddings", "input_ids", "attention_mask", "text_features")


def write_cases(torch, model, resize, pairs: list, options: argparse.Namespace) -> list:
    """Write a file for each case that the options ask for; return their entries of the manifest."""
    cases = []

    def write(kind: str, compute) -> None:
        inputs, outputs = compute(model, lambda value: value, None)
        if options.float64:
            with in_float64(torch, model):
                exact = compute(model, lambda value: doubled(torch, value), {**inputs, **outputs})[1]
            outputs.update(distances(outputs, exact))
        gradients = {n[5:]: outputs.pop(n) for n in list(outputs) if n.startswith("grad ")}
        if gradients:
            save_file = imported("safetensors.numpy").save_file
            save_file(gradients, options.out / f"{kind}_grads.safetensors")
        np.savez(options.out / f"{kind}.npz", **inputs, **outputs)
        print(f"{kind}.npz: {len(inputs) + len(outputs)} arrays", flush=True)
        cases.append({"kind": kind, "file": f"{kind}.npz"})

    if options.semantic:
        if len(pairs) > MOST_CLASSES:
            raise DumpError(f"--semantic takes at most {MOST_CLASSES} references, not {len(pairs)}.")
        samples = [placed(torch, resize, pair) for pair in pairs]
        write("semantic", lambda *arguments: semantic(torch, pairs, samples, *arguments))
    if options.video:
        write("video", lambda *arguments: video(torch, resize, options.video, *arguments))
    if options.train:
        # Python 3.8 of the official environment has no zip(strict=).
        targets = [{**pair, "orig_label": read_mask(path)} for pair, path in zip(pairs, options.train)]  # noqa: B905
        samples = [placed(torch, resize, pair) for pair in targets]
        write("train", lambda *arguments: train(torch, targets, samples, *arguments))
    return cases


def distances(computed: dict, exact: dict) -> dict:
    """Return the largest difference of each array of fractions, by `rounding.NAME`."""
    return {
        f"rounding.{name}": np.abs(computed[name].astype(np.float64) - value).max()
        for name, value in exact.items()
        if value.dtype.kind == "f" and value.size
    }


def read_image(path: Path, mode: str) -> np.ndarray:
    """Read an image in a mode of Pillow; "" keeps its own."""
    try:
        with imported("PIL.Image").open(path) as image:
            return np.array(image.convert(mode) if mode else image)
    except OSError as error:
        raise DumpError(f"{path} is not a readable image: {error}") from error


def read_mask(path: Path) -> np.ndarray:
    """Read a mask as dump_torch.sample does."""
    return read_image(path, "L")[None]


def stored(tensor) -> np.ndarray:
    """Return a tensor as an array."""
    tensor = tensor.detach().float() if tensor.is_floating_point() else tensor
    return tensor.cpu().numpy().copy()


def watched(torch, model, call, first=None) -> tuple:
    """Call with all stages recorded; return the result and the stages.

    Args:
        first: coordinates that take the place of the peak of the similarity.
    """
    stages = watch(model, False)
    if first is not None:
        point = torch.tensor(first).to(model.pixel_mean)
        stages.before(
            model.prompt_encoder, "forward", lambda prompts: {"points": (point, prompts["points"][1])}
        )
    try:
        with torch.no_grad():
            return call(), stages.arrays
    finally:
        stages.undo()


def semantic(torch, pairs: list, samples: list, model, cast, before) -> tuple:
    """Segment the first target with every reference as a class (train.py:595-643, segic.py:787-802).

    Args:
        cast: applied to the tensors.
        before: arrays of the run in float32, whose peaks this run takes; None in that run.
    """
    names = [pair["class_name"] for pair in pairs]
    references = {
        "image": torch.stack([sample["image_dual"] for sample in samples]),
        "ori_size": torch.stack([sample["ori_size_dual"] for sample in samples]),
        "label": [sample["label_dual"] for sample in samples],
        "class_name": names,
    }
    target = {"image": samples[0]["image"][None], "ori_size": samples[0]["ori_size"][None]}
    size = pairs[0]["orig_image"].shape[1:]
    inputs = {
        "in.image": stored(target["image"]),
        "in.ori_size": stored(target["ori_size"]),
        "in.ref_image": stored(references["image"]),
        "in.ref_ori_size": stored(references["ori_size"]),
        "in.ref_label": stored(torch.cat(references["label"])),
        "in.class_name": np.array(names),
        "in.full_hw": np.array(size),
    }
    read, of_references = watched(
        torch, model, lambda: model.forward_cls_extraction(cast(references), MOST_CLASSES)
    )
    first = before["mid.tgt_point_coords"] if before else None
    result, of_target = watched(
        torch, model, lambda: model(cast(target), inference=True, semseg_meta=list(read)), first
    )
    whole = torch.nn.functional.interpolate(result[0], size, mode="bilinear", align_corners=False) > 0
    outputs = {
        **{f"mid.ref_{name}": of_references[f"mid.{name}"] for name in OF_REFERENCES},
        **{f"mid.tgt_{name}": of_target[f"mid.{name}"] for name in OF_TARGET},
        "out.prompt_tokens": stored(read[0]),
        "out.inst_feats": stored(read[1]),
        "out.masks": stored(result[0]),
        "out.iou_pred": stored(result[1]),
        "out.full_masks": stored(whole).astype(np.uint8),
    }
    return inputs, outputs


def video(torch, resize, files: list, model, cast, before) -> tuple:
    """Follow the objects of the first map through the frames (utils/vos_dataset.py, segic.py:804-990)."""
    index = read_image(files[0], "")
    frames = np.stack([read_image(path, "RGB").transpose(2, 0, 1) for path in files[1:]])
    if index.ndim != 2 or index.shape != frames.shape[2:]:
        raise DumpError(f"{files[0]} must be a map of numbers of the size of the frames.")
    ids = np.unique(index)[1:]
    if not len(ids):
        raise DumpError(f"{files[0]} has no object beside its smallest number, which is the background.")
    masks = (index == ids[:, None, None]) * np.uint8(255)
    sample = {
        "images": torch.tensor(frames, dtype=torch.float32),
        "inst_masks": torch.tensor(masks),
        "inst_ids": torch.tensor(ids),
    }
    sample = imported("utils.dataloader").ResizeVOS(resize.size)(sample)
    sample["ori_inst_masks"] = torch.tensor(masks)
    data = {name: value[None] for name, value in sample.items()}
    inputs = {
        "in.frames": frames,
        "in.inst_masks": masks,
        "in.inst_ids": ids,
        "in.first_frame_index": index,
        "mid.images": stored(sample["images"]),
        "mid.inst_masks": stored(sample["inst_masks"]),
        "mid.ori_size": stored(sample["ori_size"]),
    }
    stages = Stages()
    text, logits, scores = [], [], []
    stages.after(
        model.encoder.text_model,
        "forward",
        lambda result, input_ids, attention_mask: text.append((stored(input_ids), stored(attention_mask))),
    )

    def decoded(result, *arguments, **keywords):
        logits.append(stored(result[0]))
        scores.append(stored(result[1]))

    stages.after(model.mask_decoder, "forward", decoded)
    try:
        maps = model(cast(data), inference=True, forward_vos=True)
    finally:
        stages.undo()
    # Python 3.8 of the official environment has no zip(strict=).
    inputs["mid.input_ids"], inputs["mid.attention_mask"] = (np.concatenate(part) for part in zip(*text))  # noqa: B905
    by_frame = (len(frames) - 1, len(ids))
    outputs = {
        "mid.low_res_masks": np.stack(logits).reshape(*by_frame, *logits[0].shape[1:]),
        "mid.iou_pred": np.stack(scores).reshape(*by_frame, *scores[0].shape[1:]),
        "out.index_masks": stored(maps),
    }
    return inputs, outputs


def train(torch, pairs: list, samples: list, model, cast, before) -> tuple:
    """Compute losses and gradients of one step with all pairs in a batch (train.py:399-420)."""
    data = {
        **{name: torch.stack([sample[name] for sample in samples]) for name in ("image", "image_dual")},
        **{name: torch.stack([sample[name] for sample in samples]) for name in ("ori_size", "ori_size_dual")},
        **{name: [sample[name] for sample in samples] for name in ("label", "label_dual")},
        "class_name": [pair["class_name"] for pair in pairs],
        "is_inst": torch.zeros(len(pairs), dtype=torch.bool),
        "is_box_mask": torch.zeros(len(pairs), dtype=torch.bool),
    }
    count = len(pairs)
    draws, points, logits, text, features = [], [], [], [], []
    losses, draw = imported("utils.loss_mask"), random.random
    sampler = losses.get_uncertain_point_coords_with_randomness
    random.seed(0)
    torch.manual_seed(0)

    def drawn():
        draws.append(draw())
        return draws[-1]

    def sampled(*arguments):
        if before:
            chosen = torch.tensor(before[f"mid.{PASSES[len(points)]}.loss_point_coords"])
            points.append(chosen.to(model.pixel_mean))
        else:
            points.append(sampler(*arguments))
        return points[-1]

    stages = Stages()
    stages.after(
        model.mask_decoder, "forward", lambda result, *args, **kwargs: logits.append(stored(result[0]))
    )
    stages.after(model.encoder, "forward", lambda result, *args: features.append(stored(result)))
    stages.after(
        model.encoder.text_model,
        "forward",
        lambda result, input_ids, attention_mask: text.append((stored(input_ids), stored(attention_mask))),
    )
    random.random, losses.get_uncertain_point_coords_with_randomness = drawn, sampled
    model.train()
    model.zero_grad()
    try:
        _, _, loss, parts = model(cast(data))
        loss.backward()
    finally:
        random.random, losses.get_uncertain_point_coords_with_randomness = draw, sampler
        stages.undo()
        model.eval()
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    inputs = {
        **{f"in.{name}": stored(data[name]) for name in ("image", "image_dual", "ori_size", "ori_size_dual")},
        **{f"in.{name}": stored(torch.cat(data[name])) for name in ("label", "label_dual")},
        **{f"in.{name}": stored(data[name]) for name in ("is_inst", "is_box_mask")},
        "in.counts": np.ones(count, np.int64),
        "in.class_name": np.array(data["class_name"]),
        "in.random_draws": np.array(draws),
        "in.text_keep": np.array(draws[: 2 * count]) < 0.75,
        "mid.input_ids": text[0][0],
        "mid.attention_mask": text[0][1],
    }
    outputs = {
        "mid.image_embeddings": features[0],
        "out.loss": stored(loss),
        **{f"out.{name}": stored(value) for name, value in parts.items()},
        "out.params_without_grad": np.array([name for name, each in trained.items() if each.grad is None]),
        **{f"grad {name}": stored(each.grad) for name, each in trained.items() if each.grad is not None},
    }
    for number, way in enumerate(PASSES):
        of_way = draws[2 * count * (1 + number) : 2 * count * (2 + number)]
        inputs[f"in.{way}.use_box"] = np.array(of_way[::2]) > 0.5
        inputs[f"in.{way}.use_cross"] = np.array(of_way[1::2]) > 0.5
        inputs[f"mid.{way}.loss_point_coords"] = stored(points[number])
        outputs[f"mid.{way}.low_res_masks"] = np.concatenate(logits[number * count : (number + 1) * count])
    return inputs, outputs
