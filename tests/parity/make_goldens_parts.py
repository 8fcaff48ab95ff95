"""Make the goldens' files about parts of the model, data and scores, of any sizes, with torch, numpy and cv2.

Each function takes the `in.*` arrays of its file and returns the others, following the description of the
official code in the goldens' README; `make_parts` draws such inputs. Nothing of segic_jax is used.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from make_goldens import FIRST, SECOND, Flow, blobs, boundary, iou, model_of, photo, sampled, write
from safetensors.torch import save_file
from torch import nn
from torch_segic import CharacterTokenizer, Dino, Sizes, TextModel

VARIANTS = ("mlp", "reg", "swiglu", "swiglu_reg")


@dataclass(frozen=True)
class Parts:
    """Describe the contents of one folder; sizes are in pixels, `patches` in patches of 14."""

    seed: int
    sizes: Sizes
    batch: int = 1
    patches: tuple[tuple[int, int], ...] = ((8, 12), (8, 8))
    registers: int = 4
    text_rows: int = 6
    prompts: int = 3
    points: int = 2
    tokens: int = 4
    losses: int = 4
    loss_points: int = 400
    small: tuple[int, float, float] = (64, 3.0, 0.75)
    image_sizes: tuple[tuple[int, int], ...] = ((97, 131), (83, 61), (64, 64))
    jitters: tuple[float, ...] = (0.02, 0.31, 0.98)
    frame: tuple[int, int] = (60, 80)
    frames: int = 2
    scores: int = 7
    videos: int = 2
    video_frames: int = 6
    video: tuple[int, int] = (64, 90)
    ids: tuple[int, ...] = (1, 2)
    parameters: int = 7
    short: tuple[int, int] = (3, 2)  # epochs of one step, and the epochs between two drops


class SwiGLU(nn.Module):
    """Multiply silu of the first half of the hidden layer by the second half."""

    def __init__(self, width: int):
        super().__init__()
        self.hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8
        self.w12, self.w3 = nn.Linear(width, 2 * self.hidden), nn.Linear(self.hidden, width)

    def forward(self, x):
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class Vit(Dino):
    """Implement DINOv2 with registers, SwiGLU and antialiased positions."""

    def __init__(self, sizes: Sizes, registers: int, swiglu: bool):
        super().__init__(sizes)
        if registers:
            self.register_tokens = nn.Parameter(torch.randn(1, registers, sizes.vit_width))
        self.antialias, self.offset = bool(registers), 0.0 if registers else 0.1
        self.swiglu = swiglu
        if swiglu:
            for block in self.blocks:
                block.mlp = SwiGLU(sizes.vit_width)

    def positions(self, rows: int, columns: int):
        if rows == columns == self.side:
            return self.pos_embed
        table = self.pos_embed[:, 1:].unflatten(1, (self.side, self.side)).movedim(-1, 1)
        options = {"mode": "bicubic", "antialias": self.antialias}
        if self.offset:
            options["scale_factor"] = [(n + self.offset) / self.side for n in (rows, columns)]
        else:
            options["size"] = (rows, columns)
        table = F.interpolate(table, **options).flatten(2).transpose(1, 2)
        return torch.cat([self.pos_embed[:, :1], table], dim=1)

    @torch.no_grad()
    def stages(self, pixels) -> dict:
        """Return the arrays of a forward pass by name."""
        patches = self.patch_embed(pixels)
        positions = self.positions(*(side // 14 for side in pixels.shape[-2:]))
        x = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], dim=1) + positions
        registers = self.register_tokens.shape[1] if self.antialias else 0
        if registers:
            x = torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], dim=1)
        for block in self.blocks:
            if self.swiglu:
                y = block.norm1(x)
                q, k, v = block.attn["qkv"](y).unflatten(-1, (3, block.heads, -1)).permute(2, 0, 3, 1, 4)
                y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
                x = x + block.ls1["gamma"] * block.attn["proj"](y)
                x = x + block.ls2["gamma"] * block.mlp(block.norm2(x))
            else:
                x = block(x)
        normed = self.norm(x)
        out = {"mid.patch_embed": patches, "mid.pos_embed": positions, "out.x_prenorm": x}
        out |= {
            "out.x_norm_clstoken": normed[:, 0],
            "out.x_norm_patchtokens": normed[:, 1 + registers :],
        }
        return out | ({"out.x_norm_regtokens": normed[:, 1 : 1 + registers]} if registers else {})


def perturb(module: nn.Module, seed: int) -> nn.Module:
    """Move norms and biases away from their neutral initialisation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return module


def backbone(model: Vit, inputs: dict) -> dict:
    """Make backbone_VARIANT."""
    return {
        f"{name}.{i}": value
        for i in range(int(inputs["in.n_inputs"]))
        for name, value in model.stages(torch.as_tensor(inputs[f"in.image.{i}"])).items()
    }


@torch.no_grad()
def text(model: TextModel, inputs: dict) -> dict:
    """Make text."""
    ids, attended = (torch.as_tensor(inputs[f"in.{name}"]) for name in ("input_ids", "attention_mask"))
    tower = model.text_model
    x = tower.embeddings["token_embedding"](ids) + tower.embeddings["position_embedding"].weight
    mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril() & attended.bool()[:, None, None]
    hidden = [x]
    for layer in tower.encoder["layers"]:
        hidden.append(layer(hidden[-1], mask))
    last = tower.final_layer_norm(hidden[-1])
    first_end = (ids == ids.max()).int().argmax(1)
    return {
        "out.hidden_states.0": hidden[0],
        "out.hidden_states.1": hidden[1],
        "out.last_hidden_state": last,
        "out.pooler_output": last[torch.arange(len(ids)), first_end],
    }


@torch.no_grad()
def prompt_decoder(flow: Flow, inputs: dict) -> dict:
    """Make prompt_decoder."""
    model, canvas = flow.model, flow.canvas
    encoder, decoder = model.prompt_encoder, model.mask_decoder
    tensors = {name.removeprefix("in."): torch.as_tensor(value) for name, value in inputs.items()}
    texts, image, position = tensors["texts"], tensors["image_embeddings"], encoder.get_dense_pe()
    kinds = torch.stack([encoder.point_embeddings[i].weight[0] for i in range(4)])
    no_point = encoder.not_a_point_embed.weight
    labels = tensors["point_labels"][..., None]
    points = encoder.pe_layer((tensors["point_coords"] + 0.5) / canvas)
    points = torch.where(labels == -1, no_point, points + torch.where(labels == 1, kinds[1], kinds[0]))
    padding = no_point.expand(len(texts), 1, -1)
    corners = encoder.pe_layer((tensors["boxes"].reshape(-1, 2, 2) + 0.5) / canvas) + kinds[2:]
    downscaled = encoder.mask_downscaling(tensors["masks"])
    no_mask = encoder.no_mask_embed.weight[:, :, None, None].expand_as(downscaled)
    out = {"out.image_pe": position}
    for case, sparse, dense in (
        ("points", [points, padding, texts], downscaled),
        ("boxes", [points, corners, texts], downscaled),
        ("textonly", [texts], no_mask),
    ):
        sparse = torch.cat(sparse, dim=1)
        output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([output_tokens.expand(len(sparse), -1, -1), sparse], dim=1)
        image_tokens = image + dense
        tokens, flat = decoder.transformer(
            image_tokens.flatten(2).transpose(1, 2), position.flatten(2).transpose(1, 2), tokens
        )
        upscaled = decoder.output_upscaling(flat.transpose(1, 2).reshape(image_tokens.shape))
        filters = [head(tokens[:, 1 + i]) for i, head in enumerate(decoder.output_hypernetworks_mlps)]
        masks = torch.einsum("nkc,nchw->nkhw", torch.stack(filters, 1), upscaled)
        ious = decoder.iou_prediction_head(tokens[:, 0])
        out |= {f"out.{case}.sparse": sparse, f"out.{case}.dense": dense}
        out |= {f"out.{case}.low_res_masks": masks[:, :1], f"out.{case}.iou": ious[:, :1]}
        out |= {f"out.{case}.all_masks": masks, f"out.{case}.all_iou": ious}
    rows, task = torch.arange(len(texts)), tensors["task_indicator"].long()
    return out | {
        "out.textonly.task_masks": masks[rows, task][:, None],
        "out.textonly.task_iou": ious[rows, task][:, None],
    }


def losses_at(logits, targets, coords):
    """Return cross-entropy and dice loss at the points, averaged over masks [n, 1, h, w]."""
    x, t = sampled(logits[:, 0], coords), sampled(targets[:, 0], coords)
    p = x.sigmoid()
    dice = 1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
    return F.binary_cross_entropy_with_logits(x, t, reduction="none").mean(1).mean(), dice.mean()


def select_points(logits, candidates, uniform, count: int):
    """Select the `count` least certain candidates, and append the uniform points."""
    uncertainty = -sampled(logits[:, 0], candidates).abs()
    index = uncertainty.topk(count, dim=1).indices
    return torch.cat([candidates.gather(1, index[..., None].expand(-1, -1, 2)), uniform], 1), uncertainty


def loss_masks(inputs: dict) -> dict:
    """Make loss_masks."""
    tensors = {name.removeprefix("in."): torch.as_tensor(value) for name, value in inputs.items()}
    logits, targets = tensors["logits"].clone().requires_grad_(), tensors["targets"]
    coords = tensors["point_coords"]
    mask, dice = losses_at(logits, targets, coords)
    out = {"out.loss_mask": mask, "out.loss_dice": dice}
    for name, value in (("mask", mask), ("dice", dice)):
        out[f"out.grad_loss_{name}"] = torch.autograd.grad(value, logits, retain_graph=True)[0]
    logits = logits.detach()
    out |= {"mid.point_logits": sampled(logits[:, 0], coords)}
    out["mid.point_labels"] = sampled(targets[:, 0], coords)
    uniform = tensors["uniform_random"]
    points, _ = select_points(
        logits, tensors["uniform_oversampled"], uniform, coords.shape[1] - uniform.shape[1]
    )
    mask, dice = losses_at(logits, targets, points)
    out |= {"out.sampled_coords": points, "out.sampled_loss_mask": mask, "out.sampled_loss_dice": dice}
    count = int(float(tensors["small_importance"]) * int(tensors["small_num_points"]))
    out["out.small_coords"], out["mid.small_uncertainty"] = select_points(
        logits, tensors["small_uniform_oversampled"], tensors["small_uniform_random"], count
    )
    out["out.border_samples"] = sampled(logits[:, 0], tensors["border_coords"])[:, None]
    return out


def on_canvas(planes, canvas: int, value: int):
    """Pad at the right and at the bottom."""
    return F.pad(planes, (0, canvas - planes.shape[-1], 0, canvas - planes.shape[-2]), value=value)


def preprocess(inputs: dict, canvas: int) -> dict:
    """Make preprocess."""
    out = {}
    for i in range(int(inputs["in.n_resize"])):
        planes = [torch.as_tensor(inputs[f"in.resize.{i}.{kind}"]).float() for kind in ("image", "label")]
        scale = canvas / max(planes[0].shape[1:])
        planes = [F.interpolate(x[None], scale_factor=scale, mode="bilinear")[0] for x in planes]
        out[f"out.resize.{i}.ori_size"] = np.array(planes[0].shape[1:])
        for kind, x, value in zip(("image", "label"), planes, (128, 0), strict=True):
            out[f"out.resize.{i}.{kind}"] = on_canvas(x, canvas, value)
    for i in range(int(inputs["in.n_lsj"])):
        planes = [torch.as_tensor(inputs[f"in.lsj.{i}.{kind}"]).float() for kind in ("image", "label")]
        sides = torch.tensor(planes[0].shape[1:])
        longer = ((torch.as_tensor(inputs[f"in.lsj.{i}.u_scale"]) * 1.9 + 0.1) * canvas).round()
        sides = (sides * torch.minimum(longer / sides[0], longer / sides[1])).round().long().tolist()
        u = inputs[f"in.lsj.{i}.u_offset"]
        starts = [math.floor(u[axis] * (max(side - canvas, 0) + 1)) for axis, side in enumerate(sides)]
        rows, columns = (slice(start, start + canvas) for start in starts)
        planes = [F.interpolate(x[None], sides, mode="bilinear")[0][:, rows, columns] for x in planes]
        out[f"out.lsj.{i}.ori_size"] = np.array(planes[0].shape[1:])
        out[f"out.lsj.{i}.offsets"] = np.array(starts)
        for kind, x, value in zip(("image", "label"), planes, (128, 0), strict=True):
            out[f"out.lsj.{i}.{kind}"] = on_canvas(x, canvas, value)
    for i in range(int(inputs["in.n_flip"])):
        for kind in ("image", "label"):
            plain = inputs[f"in.resize.{i}.{kind}"]
            out[f"out.flip.{i}.{kind}"] = plain[:, :, ::-1] if inputs["in.flip_u"][i] >= 0.5 else plain
    frames = torch.as_tensor(inputs["in.vos.images"]).float()
    masks = torch.as_tensor(inputs["in.vos.inst_masks"])[None].float()
    scale = canvas / max(frames.shape[-2:])
    frames, masks = (F.interpolate(x, scale_factor=scale, mode="bilinear") for x in (frames, masks))
    out["out.vos.ori_size"] = np.array(frames.shape[-2:])
    out["out.vos.images"], out["out.vos.inst_masks"] = (
        on_canvas(x, canvas, value) for x, value in ((frames, 128), (masks[0], 0))
    )
    return out


def contour(mask: np.ndarray) -> np.ndarray:
    """Return the pixels that differ from a neighbour to the right, below, or right below."""
    out = np.zeros_like(mask)
    out[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    out[:-1] |= mask[:-1] != mask[1:]
    out[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return out


def j_and_f(truth: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Return J and F of one object in one frame."""
    union = (truth | predicted).sum()
    j = (truth & predicted).sum() / union if union else 1.0
    radius = math.ceil(0.008 * math.hypot(*truth.shape))
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x**2 + y**2 <= radius**2).astype(np.uint8)
    lines = contour(truth), contour(predicted)
    wide = [cv2.dilate(line.astype(np.uint8), disk) > 0 for line in lines]
    if not lines[0].any() or not lines[1].any():
        return j, float(lines[0].any() == lines[1].any())
    precision, recall = (
        (lines[1] & wide[0]).sum() / lines[1].sum(),
        (lines[0] & wide[1]).sum() / lines[0].sum(),
    )
    return j, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def score_video(truth: np.ndarray, predicted: np.ndarray):
    """Return {id: J of each frame}, {id: F of each frame}, and the ids in the truth, of one video."""
    j, f, ids, in_truth = {}, {}, set(), set()
    for t, p in zip(truth, predicted, strict=True):
        in_truth |= set(np.unique(t).tolist()) - {0}
        ids |= in_truth | set(np.unique(p).tolist()) - {0}
        for i in ids:
            scores = j_and_f(t == i, p == i)
            j.setdefault(i, []).append(scores[0])
            f.setdefault(i, []).append(scores[1])
    return j, f, list(in_truth)


def metrics(inputs: dict) -> dict:
    """Make metrics."""
    count = int(inputs["in.n"])
    pairs = []
    for i in range(count):
        label = inputs[f"in.label.{i}"]
        logits = torch.as_tensor(inputs[f"in.logits.{i}"])
        logits = F.interpolate(logits, label.shape[2:], mode="bilinear")
        pairs.append((logits[0, 0].numpy() > 0, label[0, 0] > 128))
    intersections, unions = (
        np.array(x) for x in zip(*(((a & b).sum(), (a | b).sum()) for a, b in pairs), strict=True)
    )
    out = {"out.intersection": intersections, "out.union": unions}
    out["out.mask_iou"] = np.array([np.float32(iou(a, b)) for a, b in pairs], np.float64)
    out["out.boundary_iou"] = np.array(
        [np.float32(iou(boundary(a), boundary(b))) for a, b in pairs], np.float64
    )
    ids = np.unique(inputs["in.class_id"])
    sums = [[x[inputs["in.class_id"] == i].sum() for i in ids] for x in (intersections, unions)]
    sums = np.array(sums, np.float32)
    out |= {"out.valid_ids": ids, "out.class_intersection": sums[0], "out.class_union": sums[1]}
    out["out.miou"] = np.float32((sums[0] / np.maximum(sums[1], 1)).mean() * 100)
    lines, scores = [], []
    for v in range(int(inputs["in.jf.n_videos"])):
        videos = inputs[f"in.jf.gt.{v}"], inputs[f"in.jf.pred.{v}"]
        j, f, in_truth = score_video(*videos)
        name = f"out.jf.{v}"
        out[f"{name}.object_ids"] = np.array(list(j))
        out[f"{name}.frames_counted"] = np.array([len(x) for x in j.values()])
        out |= {f"{name}.frame_j.{i}": np.array(x, np.float64) for i, x in j.items()}
        out |= {f"{name}.frame_f.{i}": np.array(x, np.float64) for i, x in f.items()}
        out[f"{name}.gt_ids"] = np.array(in_truth)
        out[f"{name}.j"], out[f"{name}.f"] = (
            np.array([np.mean(x[i]) * 100 for i in in_truth]) for x in (j, f)
        )
    for name, v in sorted((f"v{v}", v) for v in range(int(inputs["in.jf.n_videos"]))):
        j, f, in_truth = score_video(inputs[f"in.jf.gt.{v}"][1:-1], inputs[f"in.jf.pred.{v}"][1:-1])
        for i in in_truth:
            scores.append((np.mean(j[i]) * 100, np.mean(f[i]) * 100))
            mean = sum(scores[-1]) / 2
            lines.append(f"{name:<12},{i:03}, {mean:>4.1f}, {scores[-1][0]:>4.1f}, {scores[-1][1]:>4.1f}\n")
    j, f = np.mean(scores, axis=0)
    head = "sequence    ,obj,  J&F,    J,    F\n"
    head += f"Global score,   , {(j + f) / 2:.1f}, {j:.1f}, {f:.1f}\n"
    out |= {"out.benchmark.j": j, "out.benchmark.f": f, "out.benchmark.jf": (j + f) / 2}
    return out | {"out.benchmark.csv": np.array(head + "".join(lines))}


def optim(inputs: dict) -> dict:
    """Make optim."""
    out = {}
    for tag in ("short", "long"):
        names = "param", "param_zero_grad", "param_no_grad"
        parameters = [nn.Parameter(torch.as_tensor(inputs[f"in.{name}"]).clone()) for name in names]
        optimizer = torch.optim.AdamW(parameters, lr=float(inputs["in.lr"]), weight_decay=1e-4)
        drop = int(inputs["in.short.drop"]) if tag == "short" else 10
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, drop)
        steps_per_epoch = 1 if tag == "short" else int(inputs["in.long.steps_per_epoch"])
        history, rates = [], []
        for step, grad in enumerate(inputs[f"in.{tag}.grads"]):
            parameters[0].grad = torch.as_tensor(grad)
            parameters[1].grad = torch.zeros_like(parameters[1])
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            history.append([p.detach().clone() for p in parameters])
            if (step + 1) % steps_per_epoch == 0:
                schedule.step()
        out |= {
            f"out.{tag}.{name}": torch.stack(values)
            for name, values in zip(names, zip(*history, strict=True), strict=True)
        }
        out[f"out.{tag}.lr"] = np.array(rates)
        for moment in ("exp_avg", "exp_avg_sq"):
            out[f"out.{tag}.{moment}"] = optimizer.state[parameters[0]][moment]
    return out


def make_parts(folder: Path, spec: Parts) -> None:
    """Write all files and the encoders' weights; prompt_decoder uses the folder's segic.safetensors.gz."""
    rng, sizes, canvas = np.random.default_rng(spec.seed), spec.sizes, spec.sizes.canvas

    def floats(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * rng.normal(size=shape)).astype(np.float32)

    for variant in VARIANTS:
        torch.manual_seed(spec.seed)
        registers = spec.registers if "reg" in variant else 0
        model = perturb(Vit(sizes, registers, "swiglu" in variant), spec.seed)
        save_file(model.state_dict(), folder / f"backbone_{variant}.safetensors")
        inputs = {"in.n_inputs": np.array(len(spec.patches)), "in.antialias": np.array(bool(registers))}
        inputs |= {"in.offset": np.array(model.offset), "in.num_register_tokens": np.array(registers)}
        for i, (rows, columns) in enumerate(spec.patches):
            inputs[f"in.image.{i}"] = floats(spec.batch, 3, 14 * rows, 14 * columns)
        write(folder, f"backbone_{variant}", inputs | backbone(model, inputs))

    torch.manual_seed(spec.seed)
    tower = perturb(TextModel(sizes), spec.seed)
    save_file(tower.state_dict(), folder / "text.safetensors")
    lengths = [0, 90, *rng.integers(1, 70, spec.text_rows - 2)]
    tokens = CharacterTokenizer(sizes.text_vocab)(
        ["".join(chr(c) for c in rng.integers(32, 127, n)) for n in lengths]
    )
    ids, attended = tokens["input_ids"].numpy(), tokens["attention_mask"].numpy()
    ids[-1][attended[-1] == 0] = 0
    inputs = {"in.input_ids": ids, "in.attention_mask": attended}
    write(folder, "text", inputs | text(tower, inputs))

    flow = Flow(model_of(sizes, spec.seed))
    n, grid = spec.prompts, canvas // 14
    inputs = {
        "in.point_coords": rng.uniform(0, canvas, (n, spec.points, 2)).astype(np.float32),
        "in.point_labels": rng.choice([1, 0, -1], (n, spec.points)).astype(np.float32),
        "in.boxes": np.sort(rng.uniform(0, canvas, (n, 2, 2)), axis=1).reshape(n, 4).astype(np.float32),
        "in.masks": floats(n, 1, canvas, canvas),
        "in.texts": floats(n, spec.tokens, sizes.width),
        "in.image_embeddings": floats(1, sizes.width, grid, grid),
        "in.task_indicator": rng.random(n) < 0.5,
    }
    inputs["in.boxes"][-1] = 0
    write(folder, "prompt_decoder", inputs | prompt_decoder(flow, inputs))

    n, points, low = spec.losses, spec.loss_points, 4 * grid
    count, oversample, importance = spec.small
    least_certain, small = int(0.75 * points), int(importance * count)
    sides = [*np.linspace(0, 1, 7)]
    border = np.array([(x, y) for x in sides for y in sides], np.float32)
    inputs = {
        "in.logits": cv2.resize(floats(8, 8, n, scale=3), (low, low))
        .reshape(low, low, n)
        .transpose(2, 0, 1)[:, None],
        "in.targets": (blobs(rng, n, canvas, canvas)[:, None] > 0).astype(np.float32),
        "in.point_coords": rng.random((n, points, 2), np.float32),
        "in.uniform_oversampled": rng.random((n, 3 * points, 2), np.float32),
        "in.uniform_random": rng.random((n, points - least_certain, 2), np.float32),
        "in.small_num_points": np.array(count),
        "in.small_oversample": np.array(oversample),
        "in.small_importance": np.array(importance),
        "in.small_uniform_oversampled": rng.random((n, int(count * oversample), 2), np.float32),
        "in.small_uniform_random": rng.random((n, count - small, 2), np.float32),
        "in.border_coords": np.broadcast_to(border, (n, *border.shape)).copy(),
    }
    inputs["in.targets"][-1] = 0
    write(folder, "loss_masks", inputs | loss_masks(inputs))

    inputs = {"in.n_resize": np.array(len(spec.image_sizes)), "in.n_lsj": np.array(len(spec.jitters))}
    for i, size in enumerate(spec.image_sizes):
        inputs |= {
            f"in.resize.{i}.image": photo(rng, *size),
            f"in.resize.{i}.label": blobs(rng, 1 + i % 3, *size),
        }
    for i, u in enumerate(spec.jitters):
        size = spec.image_sizes[i % len(spec.image_sizes)]
        inputs |= {f"in.lsj.{i}.image": photo(rng, *size), f"in.lsj.{i}.label": blobs(rng, 1 + i % 3, *size)}
        inputs |= {f"in.lsj.{i}.u_scale": np.array([u], np.float32), f"in.lsj.{i}.u_offset": rng.random(2)}
    inputs |= {"in.n_flip": np.array(3), "in.flip_u": np.array([0.5, 0.49, 0.9])}
    inputs["in.vos.images"] = np.stack([photo(rng, *spec.frame) for _ in range(spec.frames)])
    inputs["in.vos.inst_masks"] = blobs(rng, len(spec.ids), *spec.frame)
    write(folder, "preprocess", inputs | preprocess(inputs, canvas))

    inputs = {"in.n": np.array(spec.scores), "in.class_id": rng.choice([3, 7, 42], spec.scores)}
    for i in range(spec.scores):
        height, width = rng.integers(20, 60, 2)
        low = rng.integers(10, 70, 2)
        inputs[f"in.logits.{i}"] = cv2.resize(floats(6, 6), tuple(low.tolist()))[None, None]
        inputs[f"in.label.{i}"] = cv2.blur(blobs(rng, 1, height, width)[0], (3, 3))[None, None].astype(
            np.float32
        )
        if i < 3:  # 0: nothing found, 1: nothing there, 2: neither
            if i != 1:
                inputs[f"in.logits.{i}"][:] = -1
            if i != 0:
                inputs[f"in.label.{i}"][:] = 0
    inputs["in.class_id"][2] = 77
    inputs["in.jf.n_videos"] = np.array(spec.videos)
    for v in range(spec.videos):
        size = spec.video if v % 2 == 0 else spec.video[::-1]
        for side in ("gt", "pred"):
            frames = np.zeros((spec.video_frames, *size), np.uint8)
            for t, frame in enumerate(frames):
                for i, mask in zip(spec.ids, blobs(rng, len(spec.ids), *size), strict=True):
                    if not (v and (t + i) % 3 == 0):  # objects come late and go
                        frame[mask > 0] = i
                if side == "pred" and v and t > spec.video_frames // 2:
                    frame[:5, :5] = 99  # never in the truth
            inputs[f"in.jf.{side}.{v}"] = frames
    write(folder, "metrics", inputs | metrics(inputs))

    steps_per_epoch, (epochs, drop) = 3, spec.short
    inputs = {
        "in.param": floats(spec.parameters),
        "in.param_zero_grad": floats(4),
        "in.param_no_grad": floats(2),
    }
    inputs |= {"in.lr": np.array(1e-4), "in.short.drop": np.array(drop), "in.short.epochs": np.array(epochs)}
    inputs |= {
        "in.short.grads": floats(epochs, spec.parameters),
        "in.long.steps_per_epoch": np.array(steps_per_epoch),
    }
    inputs["in.long.grads"] = floats(12 * steps_per_epoch, spec.parameters)
    write(folder, "optim", inputs | optim(inputs))


FIRST_PARTS = Parts(
    seed=FIRST.seed,
    sizes=FIRST.sizes,
    batch=2,
    patches=((9, 9), (3, 27), (12, 5)),  # the first two have as many patches as the stored positions
    registers=2,
    text_rows=3,
    prompts=5,
    points=3,
    tokens=2,
    losses=3,
    small=(33, 2.5, 0.5),
    image_sizes=((84, 50), (85, 84), (7, 300)),
    jitters=(0.0, 0.5, 0.999, 0.26),
    frame=(91, 64),
    scores=4,
    videos=3,
    video_frames=5,
    video=(50, 121),
    ids=(7, 3, 200),
    parameters=64,
    short=(5, 1),
)
SECOND_PARTS = Parts(
    seed=SECOND.seed,
    sizes=SECOND.sizes,
    patches=((1, 1), (38, 37), (37, 37)),
    registers=1,
    prompts=1,
    points=1,
    tokens=1,
    losses=1,
    image_sizes=((140, 139), (142, 9), (333, 500)),
    frame=(140, 140),
    frames=1,
    videos=1,
    video_frames=3,
    ids=(255,),
    parameters=1,
)
