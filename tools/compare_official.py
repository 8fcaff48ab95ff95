"""Run the official `evaluate()` beside `eval.py --protocol segic` on the same images and weights.

    python -m tools.compare_official --segic CHECKOUT --dinov2 CHECKOUT --out DIR

CHECKOUTs are those of github.com/MengLcool/SEGIC and github.com/facebookresearch/dinov2. It needs PyTorch,
transformers and safetensors, for videos also scikit-image, and no download: the weights are random and small,
and the images are drawn, in the official layouts. Every episode's mask is compared, and the scores.

Where the similarity has its peak at several pixels, as it may along a border, torch takes any of them, and
this project the first: such episodes are counted apart. Exit code 0 if all other masks are equal but for
pixels whose logits tie within 1e-3, and scores within 0.01.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from tools import official_layouts as layouts

TIE = 1e-3  # of logits
SCORE = 0.01  # of per cent


def main() -> int:
    """Compare and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--segic", type=Path, required=True, help="folder of the official repository")
    parser.add_argument("--dinov2", type=Path, required=True, help="folder of DINOv2's repository")
    parser.add_argument("--out", type=Path, required=True, help="folder for data, weights and results")
    parser.add_argument("--canvas", type=int, default=112, help="side of the input in pixels; officially 896")
    parser.add_argument("--benchmarks", nargs="+", default=list(layouts.WRITE), choices=list(layouts.WRITE))
    options = parser.parse_args()
    import torch
    from safetensors.torch import save_file

    from tools.official_checkout import build_official
    from tools.official_runs import OFFICIAL

    (options.out / "official").mkdir(parents=True, exist_ok=True)
    out = options.out.resolve()
    segic, dinov2 = options.segic.resolve(), options.dinov2.resolve()
    os.chdir(out)  # the official code reads data/ and utils/ of the working folder
    for name in options.benchmarks:
        layouts.WRITE[name](out / "data")
    prepare_names(segic)

    torch.manual_seed(0)
    model, arguments = build_official(segic, dinov2, out, options.canvas)
    state = {name: tensor.contiguous().clone() for name, tensor in torch.nn.Module.state_dict(model).items()}
    save_file(state, out / "official.safetensors")
    official = {name: OFFICIAL[name](model, arguments) for name in options.benchmarks}

    from segic_jax.weights.convert import convert

    weights = out / "model.safetensors"
    convert([out / "official.safetensors", out / "tokenizer.json"], weights, canvas=options.canvas)
    passed = [compare(name, official[name], OURS[name](official[name], weights)) for name in official]
    return 0 if all(passed) else 1


def prepare_names(segic: Path) -> None:
    """Copy the lists of class names to where the official code looks for them."""
    folder = Path("utils/dataset")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("coco80.txt", "dataset/ade20k_classes.json"):
        Path("utils", name).write_bytes((segic / "utils" / name).read_bytes())
    for cache in folder.glob("*_icl.pth"):  # of an earlier run
        cache.unlink()


def evaluate(name: str, root: str, weights: Path, **options) -> dict:
    """Run `eval.py`; return the content of result.json."""
    from segic_jax.commands.eval import Eval

    out = Path(f"ours_{name}")
    result = Eval(name, Path(root), str(weights), out, precision="float32", **options).evaluate()
    assert result is not None
    return result


def our_episodes(name: str, root: str, classes: tuple, official, weights: Path) -> SimpleNamespace:
    """Evaluate the episodes that the official code drew, and return logits at the truth's size, and mIoU."""
    from segic_jax.commands.eval import EpisodeOptions
    from segic_jax.data.benchmarks import find_benchmark, open_benchmark
    from segic_jax.data.episodes import Episode, Manifest
    from segic_jax.evaluate.episode_stream import predict_episodes
    from segic_jax.evaluate.episode_tasks import make_tasks
    from segic_jax.evaluate.protocols import to_image_size
    from segic_jax.inference.engine import Engine
    from segic_jax.weights.bundle import load_bundle

    listing = Path(f"{name}.jsonl.gz")
    manifest = Manifest(name, "segic", 0, 1, classes, tuple(Episode(*row) for row in official.episodes))
    manifest.write(listing)
    options = EpisodeOptions(protocol="segic", episodes=listing, baselines=False)
    result = evaluate(name, root, weights, episode_options=options)
    bundle, source = load_bundle(weights), open_benchmark(find_benchmark(name), Path(root))

    def logits(prediction):
        return to_image_size(prediction.logits["segic"], prediction.size, prediction.target.mask.shape)

    tasks = make_tasks(bundle, source, [manifest], class_names=True)
    engine = Engine(bundle, precision="float32")
    predicted = list(predict_episodes({"segic": engine}, source, tasks, logits, rounded_canvas=False))
    return SimpleNamespace(logits=predicted, score=result["scores"]["miou_seen_classes"])


def our_fss1000(official, weights: Path) -> SimpleNamespace:
    """Evaluate FSS-1000, whose episodes are also drawn here, past its odd files."""
    from segic_jax.data.sources.fss1000 import Fss1000Source

    drawn = Fss1000Source("data/FSS-1000").manifest("segic", 0, 1).episodes
    same = [(e.class_id, e.target, e.references) for e in drawn] == official.episodes
    print(f"fss1000: {len(drawn)} episodes, {'drawn as' if same else 'NOT those that are drawn'} officially")
    ours = our_episodes("fss1000", "data/FSS-1000", layouts.FSS_CLASSES, official, weights)
    return SimpleNamespace(**vars(ours), same_episodes=same)


def our_coco20i(official, weights: Path) -> SimpleNamespace:
    """Evaluate fold 0 of COCO-20i."""
    return our_episodes("coco20i", "data/COCO2014", tuple(range(0, 80, 4)), official, weights)


def our_ade20k(official, weights: Path) -> SimpleNamespace:
    """Evaluate the references that the official code drew."""
    from segic_jax.data.preprocess import resize
    from segic_jax.data.sources.ade20k import open_source
    from segic_jax.evaluate.semantic import class_logits, encode_class_prompts
    from segic_jax.evaluate.semantic_bank import make_bank
    from segic_jax.inference.engine import Engine
    from segic_jax.weights.bundle import load_bundle

    Path("ours_ade20k").mkdir(exist_ok=True)
    Path("ours_ade20k/references.json").write_text(json.dumps(official.references))
    result = evaluate("ade20k", "data/ade20k", weights)
    bundle, source = load_bundle(weights), open_source(Path("data/ade20k"))
    engine = Engine(bundle, precision="float32")
    bank = make_bank(
        engine, source, "train", encode_class_prompts(bundle, source, True)[0], Path("ours_ade20k")
    )
    logits = []
    for name in official.names:
        image = source.load("val", name)
        _, prototypes = bank.prototypes(image.classes, name, "val")
        values = class_logits(engine, image.image, prototypes)
        logits += [resize(value, image.image.shape[:2]) for value in values]
    return SimpleNamespace(logits=logits, score=result["scores"]["miou_official"])


def our_davis17(official, weights: Path) -> SimpleNamespace:
    """Evaluate the videos."""
    result = evaluate("davis17", "data/DAVIS", weights)
    return SimpleNamespace(folder=Path("ours_davis17/predictions").resolve(), score=result["scores"]["jf"])


OURS = {"fss1000": our_fss1000, "coco20i": our_coco20i, "ade20k": our_ade20k, "davis17": our_davis17}


def compare(name: str, official, ours) -> bool:
    """Print how far the two are apart; return whether they are equal in the sense of this program."""
    if name == "davis17":
        return compare_videos(official, ours)
    masks, gap = official.masks, abs(official.score - ours.score)
    pairs = list(zip(masks.logits, ours.logits, strict=True))
    different = [(theirs > 0) != (mine > 0) for theirs, mine in pairs]
    wrong = [apart & (np.abs(theirs) > TIE) for apart, (theirs, _) in zip(different, pairs, strict=True)]
    single = [index for index, tied in enumerate(masks.ties) if not tied]
    apart = max((float(np.abs(pairs[i][0] - pairs[i][1]).max()) for i in single), default=0.0)
    largest = max(float(np.abs(theirs).max()) for theirs, _ in pairs)
    pixels, untied = (sum(int(each[i].sum()) for i in single) for each in (different, wrong))
    print(
        f"{name}: {len(pairs)} masks, {len(single)} of them with a single peak of similarity: their logits "
        f"(up to {largest:.0f}) differ by at most {apart:.1e}, masks in {pixels} pixels, {untied} do not tie."
    )
    print(f"{name}: mIoU of evaluate() {official.score:.4f}, of eval.py {ours.score:.4f}")
    if len(single) < len(pairs):
        scores = [mean_iou([pair[side] for pair in pairs], masks, single) for side in (0, 1)]
        gap = abs(scores[0] - scores[1])
        print(f"{name}: mIoU of the masks with a single peak {scores[0]:.4f} and {scores[1]:.4f}")
    same_episodes = getattr(ours, "same_episodes", True)
    return same_episodes and not any(wrong[i].any() for i in single) and gap <= SCORE


def mean_iou(logits: list, masks, chosen: list[int]) -> float:
    """Return the mean over classes of the summed intersections over the summed unions, in per cent."""
    sums: dict = {}
    for index in chosen:
        inside, truth = logits[index] > 0, masks.truths[index]
        counts = sums.setdefault(masks.classes[index], np.zeros(2))
        counts += (inside & truth).sum(), (inside | truth).sum()
    return 100 * float(np.mean([intersection / max(union, 1) for intersection, union in sums.values()]))


def compare_videos(official, ours) -> bool:
    """Compare the label maps of all frames, and J&F."""
    from PIL import Image

    different, pixels = 0, 0
    for path in sorted(official.folder.rglob("*.png")):
        theirs = np.asarray(Image.open(path))
        mine = np.asarray(Image.open(ours.folder / path.relative_to(official.folder)))
        different, pixels = different + int((theirs != mine).sum()), pixels + theirs.size
    gap = abs(official.score - ours.score)
    print(
        f"davis17: label maps differ in {different} of {pixels} pixels; J&F {official.score:.4f} and "
        f"{ours.score:.4f}, apart {gap:.4f}"
    )
    return different <= 1e-4 * pixels and gap <= SCORE


if __name__ == "__main__":
    sys.exit(main())
