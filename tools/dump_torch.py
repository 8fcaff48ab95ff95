"""Run the official SegIC in its own PyTorch environment, and write every stage of its forward pass.

    python tools/dump_torch.py --segic CHECKOUT --checkpoint X.pth --images REFERENCE MASK TARGET --out DIR

This file needs nothing else of the project: copy the file to where the official code runs (torch 1.13 or
newer, transformers, safetensors, numpy, Pillow), with dump_cases.py beside it for --semantic, --video and
--train. DIR then holds manifest.json, weights.safetensors (the complete state dict), pair_0.npz, ... and the
files of these options. `segic parity report DIR --out OUT.html` replays it in JAX.
"""

from __future__ import annotations  # the official environment may have Python 3.8

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1  # of the folder; segic_jax/parity/dump.py reads it
SAMPLED = 64  # tokens of each block that are kept, unless --all-tokens
# Of scripts/segic_dist.sh, those that matter at inference.
FLAGS = ["--encoder_model", "dinov2", "--use_inst_proj", "--use_cross_inst_prompt", "--reverse_context"]
BACKBONES = {768: "b", 1024: "l", 1536: "g"}  # width -> --dinov2_model
STAGES = (
    *("encoder_in", "patch_embed", "pos_embed", "patch_tokens", "image_embeddings"),
    *("prompts", "input_ids", "attention_mask", "text_features", "prompt_proj_out"),
    *("inst_feat", "inst_proj_out", "neck_out", "sim", "mask_input", "point_coords", "point_labels"),
    *("text_tokens", "sparse", "dense", "image_pe", "low_res_masks", "iou_pred"),
)


MARK = "dump_torch.txt"  # in every folder that this script began
DINOV2_FOR_TORCH_1 = "da4b3825f0ed64b7398ace00c5062503811d0cff"  # of 2023-10-27, run with 1.13.1
HUBS = ("URLError", "HTTPError", "ConnectionError", "LocalEntryNotFoundError", "OfflineModeIsEnabled")


class DumpError(Exception):
    """Report what must be fixed before a dump can be made."""


def main() -> int:
    """Run; return the exit code, 2 for a wrong input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--segic", type=Path, required=True, help="folder of the official repository")
    parser.add_argument("--checkpoint", type=Path, required=True, help="its .pth of the trained part")
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="REFERENCE MASK TARGET, once or more often",
    )
    parser.add_argument(
        "--class-name",
        nargs="+",
        default=[""],
        metavar="NAME",
        help="what the masks show, one name for all or one for each; without it the prompt is empty",
    )
    parser.add_argument("--out", type=Path, required=True, help="new or empty folder")
    parser.add_argument(
        "--all-tokens", action="store_true", help=f"keep all tokens of each block instead of {SAMPLED}"
    )
    parser.add_argument(
        "--instances",
        action="store_true",
        help="each MASK is a map of numbers: each number but 0 is an object, and all are segmented at once",
    )
    parser.add_argument(
        "--semantic",
        action="store_true",
        help="also segment the first TARGET with all references as its classes, as evaluate_semseg() does",
    )
    parser.add_argument(
        "--video",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="also follow the objects of a video, as evaluate_vos() does: MAP FRAME FRAME ...",
    )
    parser.add_argument(
        "--train",
        type=Path,
        nargs="+",
        default=[],
        metavar="MASK",
        help="also compute losses and gradients of a training step; MASKs of the TARGETs, in their order",
    )
    parser.add_argument(
        "--float64",
        action="store_true",
        help="run again in float64, to store how far float32 is from it in each stage; takes longer",
    )
    parser.add_argument(
        "--segic-args",
        default="",
        metavar="FLAGS",
        help="further flags for the official parser, as --segic-args='--FLAG VALUE --FLAG'",
    )
    options = parser.parse_args()
    try:
        dump(options)
    except DumpError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def dump(options: argparse.Namespace) -> None:
    """Check the inputs, build the official model, and run it on every pair."""
    if len(options.images) % 3:
        raise DumpError(f"--images takes REFERENCE MASK TARGET each time; {len(options.images)} files came.")
    for path in [options.checkpoint, *options.images, *options.video, *options.train]:
        if not path.is_file():
            raise DumpError(f"{path}: there is no such file.")
    check_checkout(options.segic)
    if options.out.exists() and any(options.out.iterdir()):
        half = not (options.out / "manifest.json").is_file()
        why = (
            "holds a dump that was interrupted" if half and (options.out / MARK).is_file() else "is not empty"
        )
        raise DumpError(f"{options.out} {why}; delete it, or give a new folder.")
    require_arguments(options.segic_args)
    triples = [options.images[i : i + 3] for i in range(0, len(options.images), 3)]
    if len(options.class_name) not in (1, len(triples)):
        raise DumpError(f"--class-name takes one name, or one for each of the {len(triples)} references.")
    names = options.class_name * (len(triples) if len(options.class_name) == 1 else 1)
    if options.train and len(options.train) != len(triples):
        raise DumpError(
            f"--train takes the mask of each of the {len(triples)} targets, not {len(options.train)}."
        )
    if options.instances and (options.semantic or options.train):
        raise DumpError("--semantic and --train take masks of one class: leave --instances out.")
    if len(options.video) in (1, 2):
        raise DumpError("--video takes MAP FRAME FRAME, or more frames.")
    samples = [sample(first, mask, last, options.instances) for first, mask, last in triples]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / MARK).write_text("This folder is complete when manifest.json is in it.\n")

    torch = imported("torch")
    require_loadable(torch)
    overrides = without_cuda(torch)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model, arguments, flags = official_model(torch, options)
    resize = imported("utils.dataloader").Resize(arguments.input_size)

    print(
        f"About {estimate_size(model, arguments, options, len(samples)):.1f} GB go to {options.out}.",
        flush=True,
    )
    write_weights(torch, model, options.out / "weights.safetensors")
    if tokenizer := getattr(model.encoder.tokenizer, "backend_tokenizer", None):
        tokenizer.save(str(options.out / "tokenizer.json"))  # for `segic parity end-to-end`
    for index, pair in enumerate(samples):
        pair["class_name"] = "" if options.instances else names[index]
        arrays = run(torch, model, resize, pair, options)
        np.savez(options.out / f"pair_{index}.npz", **arrays)
        print(f"pair_{index}.npz: {len(arrays)} arrays", flush=True)
    cases = []
    if options.semantic or options.video or options.train:
        sys.modules.setdefault("dump_torch", sys.modules[__name__])
        cases = imported("dump_cases").write_cases(torch, model, resize, samples, options)

    # Last: a folder without a manifest is one that was interrupted.
    content = manifest(torch, model, arguments, options, flags, overrides)
    for index, pair in enumerate(content["pairs"]):
        pair["class_name"] = samples[index]["class_name"]
        pair["objects"] = len(samples[index]["orig_label_dual"])
    content["cases"] = cases
    (options.out / "manifest.json").write_text(json.dumps(content, indent=2, default=str) + "\n")


def check_checkout(folder: Path) -> None:
    """Refuse a folder that is not the official repository."""
    for file in ("train.py", "model/segic.py", "utils/dataloader.py"):
        if not (folder / file).is_file():
            raise DumpError(f"{folder} is no checkout of the official repository: no {file} in it.")


def sample(reference: Path, mask: Path, target: Path, instances: bool = False) -> dict:
    """Read the three images as the official EvalDataProcessor does (utils/dataloader.py).

    Args:
        instances: the mask is a map of numbers, each of which but 0 is an object.
    """
    Image = imported("PIL.Image")

    def read(path: Path, mode: str) -> np.ndarray:
        try:
            with Image.open(path) as image:
                return np.array(image.convert(mode) if mode else image)
        except OSError as error:
            raise DumpError(f"{path} is not a readable image: {error}") from error

    arrays = {
        "orig_image": read(target, "RGB").transpose(2, 0, 1),
        "orig_image_dual": read(reference, "RGB").transpose(2, 0, 1),
        "orig_label_dual": objects(read(mask, ""), mask) if instances else read(mask, "L")[None],
    }
    label, image = arrays["orig_label_dual"], arrays["orig_image_dual"]
    if label.shape[1:] != image.shape[1:]:
        raise DumpError(f"{mask} and {reference} differ in size: {label.shape[1:]} and {image.shape[1:]}.")
    if label.max() <= 127:
        raise DumpError(f"{mask} marks nothing: the official code reads grey values above 127 as inside.")
    return arrays


def objects(numbers: np.ndarray, path: Path) -> np.ndarray:
    """Return a mask of 0 and 255 for each number but 0 in a map of numbers."""
    if numbers.ndim != 2:
        raise DumpError(f"{path} is a colour image: --instances needs a grey or palette image of numbers.")
    present = [number for number in np.unique(numbers) if number]
    if not present:
        raise DumpError(f"{path} marks nothing: give each object a number above 0.")
    return np.stack([np.where(numbers == number, 255, 0).astype(np.uint8) for number in present])


def imported(name: str):
    """Import a module of the environment or of the checkout."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise DumpError(
            f"The Python package {error.name!r} is missing (needed for {name}): run this script in the "
            "environment of the official repository, or install the package there."
        ) from error


def without_cuda(torch) -> list[str]:
    """Make .cuda(), which the official code calls everywhere, the identity on a machine without a GPU."""
    if torch.cuda.is_available():
        return []

    def stay(self, *args, **kwargs):
        return self

    torch.Tensor.cuda = torch.nn.Module.cuda = stay
    return ["torch.Tensor.cuda and torch.nn.Module.cuda are the identity: there is no CUDA device"]


def official_model(torch, options: argparse.Namespace):
    """Return the official model with the checkpoint, its arguments, and the flags they came from."""
    try:
        state = torch.load(options.checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is no checkpoint
        raise DumpError(f"{options.checkpoint} is not a readable checkpoint: {error}") from error
    if not isinstance(state, dict) or "neck.0.weight" not in state:
        raise DumpError(f"{options.checkpoint} is no SegIC checkpoint: there is no neck.0.weight in it.")

    size = BACKBONES.get(state["neck.0.weight"].shape[1])
    flags = [*FLAGS, *(["--dinov2_model", size] if size else []), *options.segic_args.split()]
    model, arguments = built_model(options.segic, flags, options.out)
    try:
        missing, unknown = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise DumpError(f"{options.checkpoint} does not fit the model of {flags}: {error}") from error
    # The official state_dict() lists what a checkpoint holds; encoders and constants are not in it.
    missing = sorted(set(missing) & set(model.state_dict()))
    if missing or unknown:
        raise DumpError(
            f"{options.checkpoint} does not fit the model of {' '.join(flags)}; "
            f"missing: {missing or 'none'}, unknown: {list(unknown) or 'none'}. "
            "Give the flags of its training with --segic-args."
        )
    model.cuda()
    model.eval()  # returns None in the official code
    return model, arguments, flags


def built_model(checkout: Path, flags: list[str], output: Path):
    """Return the official model before a checkpoint is loaded, and its arguments."""
    sys.path.insert(0, str(checkout.resolve()))
    argv, sys.argv = sys.argv, ["train.py", *flags, "--output", str(output)]
    try:
        arguments = imported("train").get_args_parser()  # parses sys.argv by itself
    finally:
        sys.argv = argv
    try:
        return imported("model.segic").build_model(arguments), arguments
    except Exception as error:  # the hubs raise many kinds
        raise DumpError(explained(error)) from error


def explained(error: Exception) -> str:
    """Say in one sentence why the official model could not be built, and what to do."""
    kinds = {
        kind.__name__
        for each in (error, error.__cause__, error.__context__)
        if each
        for kind in type(each).__mro__
    }
    text = " ".join(str(error).split())[:200]
    if kinds & set(HUBS) or "huggingface.co" in text or "couldn't connect" in text:
        return (
            "DINOv2 (github.com/facebookresearch/dinov2) or CLIP (huggingface.co) cannot be downloaded "
            f"({text}): run this once where both are reachable, or copy ~/.cache/torch/hub and "
            "~/.cache/huggingface from there."
        )
    return f"The official model cannot be built ({type(error).__name__}: {text})."


def require_arguments(text: str) -> None:
    """Refuse flags that the official code accepts and then fails with."""
    if "--force_input_size" in text.split():
        raise DumpError(
            "--force_input_size changes the prompt encoder only, and the official model fails: leave it out."
        )


def require_loadable(torch) -> None:
    """Refuse torch 1 with the code of DINOv2's hub that needs torch 2, before anything is downloaded."""
    if int(torch.__version__.split(".")[0]) >= 2:
        return
    hub = Path(torch.hub.get_dir()) / "facebookresearch_dinov2_main"
    attention = hub / "dinov2/layers/attention.py"
    if not attention.is_file() or "scaled_dot_product_attention" in attention.read_text():
        raise DumpError(
            f"torch {torch.__version__} cannot run today's DINOv2, which needs torch 2: put its commit "
            f"{DINOV2_FOR_TORCH_1} into {hub}, as torch.hub would (git clone, then git checkout)."
        )


def estimate_size(model, arguments, options: argparse.Namespace, pairs: int) -> float:
    """Estimate the size of the folder in GB."""
    dino, side = model.encoder.dinov2, max(arguments.input_size)
    tokens = (side // dino.patch_size) ** 2
    width = dino.cls_token.shape[-1]
    sampled = tokens if options.all_tokens else SAMPLED
    stages = 7 * tokens * width + 2 * len(dino.blocks) * sampled * width + 16 * side * side
    weights = sum(p.numel() for p in model.parameters())
    return 4e-9 * (weights + pairs * stages)


def write_weights(torch, model, path: Path) -> None:
    """Return the complete state dict; the official state_dict() leaves the encoders out."""
    save_file = imported("safetensors.numpy").save_file
    tensors = {}
    for name, tensor in torch.nn.Module.state_dict(model).items():
        tensor = tensor.detach().cpu()
        tensors[name] = np.ascontiguousarray(
            (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        )
    save_file(tensors, path)


class Stages:
    """Record the inputs and results of the model's parts by wrapping their methods."""

    def __init__(self):
        self.arrays = {}
        self._wrapped = []

    def keep(self, name: str, tensor, kind: str = "mid") -> None:
        """Store one stage; a later call overwrites it."""
        tensor = tensor.detach().float() if tensor.is_floating_point() else tensor
        self.arrays[f"{kind}.{name}"] = tensor.cpu().numpy().copy()  # later code may write into the tensor

    def before(self, owner, method: str, change) -> None:
        """Replace those keywords of every call of `owner.method` that `change(keywords)` returns."""
        original = getattr(owner, method)

        def wrapper(**keywords):
            return original(**{**keywords, **change(keywords)})

        self._wrapped.append((owner, method, vars(owner).get(method)))
        setattr(owner, method, wrapper)

    def after(self, owner, method: str, callback) -> None:
        """Call `callback(result, *args, **kwargs)` after every call of `owner.method`."""
        original = getattr(owner, method)

        def wrapper(*args, **kwargs):
            result = original(*args, **kwargs)
            callback(result, *args, **kwargs)
            return result

        self._wrapped.append((owner, method, vars(owner).get(method)))
        setattr(owner, method, wrapper)

    def undo(self) -> None:
        """Remove the wrappers."""
        for owner, method, original in reversed(self._wrapped):
            if original is None:
                delattr(owner, method)
            else:
                setattr(owner, method, original)


def watch(model, all_tokens: bool) -> Stages:
    """Wrap every part whose result is a stage; attribute names are those of the state dict."""
    stages = Stages()
    keep, after = stages.keep, stages.after
    encoder, dino = model.encoder, model.encoder.dinov2
    before_patches = 1 + getattr(dino, "num_register_tokens", 0)

    def result(name):
        return lambda output, *args, **kwargs: keep(name, output)

    def encoded(output, pixels):
        keep("image_embeddings", output)

    def block(index):
        def record(output, *args, **kwargs):
            if all_tokens:
                selected = np.arange(output.shape[1])
            else:
                random = np.random.default_rng(0)  # the same tokens of every block and pair
                selected = np.sort(random.permutation(output.shape[1])[:SAMPLED])
            stages.arrays["mid.block_tokens"] = selected
            keep(f"block.{index}", output[:, selected])

        return record

    def prompted(output, prompts):
        stages.arrays["mid.prompts"] = np.array(prompts)

    def text(output, input_ids, attention_mask):
        keep("input_ids", input_ids)
        keep("attention_mask", attention_mask)
        keep("text_features", output.pooler_output)

    def prompts(output, points, boxes, masks, texts):
        if points is None or masks is None:
            raise DumpError("The model ran without similarity prompts; leave --no_sim_prompt out.")
        keep("point_coords", points[0])
        keep("point_labels", points[1])
        keep("mask_input", masks)
        keep("text_tokens", texts)
        keep("sparse", output[0])
        keep("dense", output[1])

    def decoded(output, *args, **kwargs):
        keep("low_res_masks", output[0])
        keep("iou_pred", output[1])

    after(dino, "forward_features", lambda output, pixels, *rest: keep("encoder_in", pixels))
    after(dino.patch_embed, "forward", result("patch_embed"))
    after(dino, "interpolate_pos_encoding", result("pos_embed"))
    for index, module in enumerate(dino.blocks):
        after(module, "forward", block(index))
    after(dino.norm, "forward", lambda output, *args: keep("patch_tokens", output[:, before_patches:]))
    after(encoder, "forward", encoded)
    after(encoder, "get_prompt_features", prompted)
    after(encoder.text_model, "forward", text)
    after(model.prompt_proj, "forward", result("prompt_proj_out"))
    after(model, "extract_inst_feat", result("inst_feat"))
    after(model.inst_proj, "forward", result("inst_proj_out"))
    after(model.neck, "forward", result("neck_out"))
    after(imported("utils.misc"), "cal_sim", result("sim"))
    after(model.prompt_encoder, "forward", prompts)
    after(model.prompt_encoder, "get_dense_pe", result("image_pe"))
    after(model.mask_decoder, "forward", decoded)
    return stages


def placed(torch, resize, pair: dict) -> dict:
    """Place a pair on the canvas as the official loaders do."""
    sample = {
        "imidx": 0,
        "image": torch.tensor(pair["orig_image"], dtype=torch.float32),
        "image_dual": torch.tensor(pair["orig_image_dual"], dtype=torch.float32),
        "label_dual": torch.tensor(pair["orig_label_dual"], dtype=torch.float32),
    }
    # The target's masks are read in training only.
    empty = np.zeros((len(pair["orig_label_dual"]), *pair["orig_image"].shape[1:]), np.uint8)
    sample["label"] = torch.tensor(pair.get("orig_label", empty), dtype=torch.float32)
    sample["shape"] = torch.tensor(sample["image"].shape[-2:])
    return resize(sample)


def run(torch, model, resize, pair: dict, options: argparse.Namespace) -> dict:
    """Run one forward pass; return arrays by their names in the goldens' format."""
    sample = placed(torch, resize, pair)
    data: dict[str, Any] = {
        **{key: sample[key][None] for key in ("image", "image_dual", "ori_size", "ori_size_dual")},
        "label": [sample["label"]],
        "label_dual": [sample["label_dual"]],
        "class_name": [pair["class_name"]],
        "is_inst": torch.tensor([options.instances]),
    }
    arrays = {
        **{f"in.{key}": pair[key] for key in ("orig_image", "orig_image_dual", "orig_label_dual")},
        **{f"in.{key}": data[key].numpy().copy() for key in ("image", "image_dual")},
        **{f"in.{key}": data[key].numpy().copy() for key in ("ori_size", "ori_size_dual", "is_inst")},
        "in.label_dual": sample["label_dual"].numpy().copy(),
        "in.class_name": np.array(data["class_name"]),
        "in.counts": np.array([len(pair["orig_label_dual"])]),
    }
    computed = forward(torch, model, data, options.all_tokens)
    missing = [name for name in STAGES if f"mid.{name}" not in computed]
    if missing:
        raise DumpError(f"The forward pass never came through {', '.join(missing)}: is this SegIC's code?")
    arrays.update(computed)
    if options.float64:
        arrays.update(rounding(torch, model, data, computed, options.all_tokens))
    return arrays


def forward(torch, model, data: dict, all_tokens: bool, point=None) -> dict:
    """Run the model; return its stages and results.

    Args:
        point: coordinates that take the place of the peak of the similarity.
    """
    stages = watch(model, all_tokens)
    if point is not None:
        stages.before(
            model.prompt_encoder, "forward", lambda prompts: {"points": (point, prompts["points"][1])}
        )
    # The official code writes into the images, which a second run needs.
    data = {key: value.clone() if hasattr(value, "clone") else value for key, value in data.items()}
    try:
        with torch.no_grad():
            masks, iou = model(data, inference=True)[:2]
    finally:
        stages.undo()
    stages.keep("masks", masks, "out")
    stages.keep("iou_pred", iou, "out")
    return stages.arrays


def rounding(torch, model, data: dict, computed: dict, all_tokens: bool) -> dict:
    """Return how far each float32 stage is from the same model in float64, as arrays `rounding.STAGE`.

    Both take the same place for the peak of the similarity.
    """
    with in_float64(torch, model):
        point = doubled(torch, torch.tensor(computed["mid.point_coords"]).to(model.pixel_mean.device))
        exact = forward(torch, model, doubled(torch, data), all_tokens, point)
    return {
        f"rounding.{name}": np.abs(computed[name].astype(np.float64) - value).max()
        for name, value in exact.items()
        if value.dtype.kind == "f" and value.size
    }


def doubled(torch, value):
    """Return a tensor of fractions, or those in a list or dict, in float64; anything else as it is."""
    if isinstance(value, dict):
        return {key: doubled(torch, each) for key, each in value.items()}
    if isinstance(value, list):
        return [doubled(torch, each) for each in value]
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


@contextlib.contextmanager
def in_float64(torch, model):
    """Let the model and all that the official code calls float32 be float64."""
    names = ("float", "float32")
    kept, method = {name: getattr(torch, name) for name in names}, torch.Tensor.float
    default = torch.get_default_dtype()
    model.double()
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    for name in names:
        setattr(torch, name, torch.float64)
    try:
        yield
    finally:
        for name, kind in kept.items():
            setattr(torch, name, kind)
        torch.Tensor.float = method
        torch.set_default_dtype(default)
        model.float()


def manifest(torch, model, arguments, options: argparse.Namespace, flags: list, overrides: list) -> dict:
    """Return the manifest: what ran, on which machine, and the hashes of the files."""
    dino = model.encoder.dinov2
    files = sorted([*options.out.glob("*.npz"), *options.out.glob("*.safetensors")])
    return {
        "format": FORMAT,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": {
            "python": platform.python_version(),
            **{name: imported(name).__version__ for name in ("torch", "numpy", "safetensors")},
            "transformers": getattr(sys.modules.get("transformers"), "__version__", None),
        },
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU ({platform.machine()})",
        "system": platform.platform(),
        "threads": torch.get_num_threads(),
        "settings": "; ".join(["TF32 off", "eval mode", "no gradient", *overrides]),
        "float64": options.float64,
        "segic": {"commit": commit(options.segic), "flags": flags, "arguments": vars(arguments)},
        "checkpoint": {"file": options.checkpoint.name, "sha256": sha256(options.checkpoint)},
        "model": {
            "canvas": max(arguments.input_size),
            "backbone_heads": dino.num_heads,
            "text_heads": model.encoder.text_model.config.num_attention_heads,
            "decoder_heads": model.mask_decoder.transformer.num_heads,
            "eos_id": model.encoder.tokenizer.eos_token_id,
            # Hub versions before the register models have neither attribute.
            "pos_offset": getattr(dino, "interpolate_offset", 0.1),
            "pos_antialias": getattr(dino, "interpolate_antialias", False),
        },
        "files": {path.name: sha256(path) for path in files},
        "pairs": [
            {
                "file": f"pair_{i // 3}.npz",
                "reference": options.images[i].name,
                "mask": options.images[i + 1].name,
                "target": options.images[i + 2].name,
                "instances": options.instances,
            }
            for i in range(0, len(options.images), 3)
        ],
    }


def commit(checkout: Path) -> str | None:
    """Return the checkout's git commit; None if it is not a repository."""
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(checkout.resolve().parent)}

    def git(*command: str) -> str:
        process = subprocess.run(
            ["git", "-C", str(checkout), *command],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        return process.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + (" with local changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
