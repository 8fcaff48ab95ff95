"""Semantic segmentation with many classes, each shown by a reference; all concepts of a picture are decoded.

The official `evaluate_semseg` of train.py decodes the classes that the truth has ("present", an oracle) and
thresholds each by itself ("independent"); here all classes can be decoded ("all"), and the largest logit can
decide ("argmax", background where none is above 0).

Many concepts are decoded in chunks of CHUNK rows. Every row reads the tokens of all concepts, so the chunks
change no result. The number of concepts is padded to 4, 8, 16 or a multiple of 16, and each of these
numbers that occurs is compiled once: at most three, and one for each further 16 of the fullest picture.
"""

import csv
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from tqdm import tqdm

from segic_jax import distributed
from segic_jax.config import ModelConfig
from segic_jax.data.benchmark import Benchmark
from segic_jax.data.canvas import fitted_taps, resample, resize, resize_and_pad
from segic_jax.data.episodes import DataError
from segic_jax.data.semantic import SemanticPicture, SemanticSource, Split, draw_references
from segic_jax.evaluate.records import Records, environment, in_domain, model_identity, percent
from segic_jax.models import segic
from segic_jax.models.correspondence import pool
from segic_jax.models.segic import Context
from segic_jax.params import Params
from segic_jax.weights.bundle import Bundle, BundleError

CHUNK = 16  # concepts decoded together; of 847 at canvas 896 they take about 1 GB
REFERENCE_SEED = 0

Classes = Literal["present", "all"]
Merge = Literal["independent", "argmax"]


class Counts(NamedTuple):
    """Pixels of one class on one picture, or sums of them."""

    intersection: int
    union: int  # without ignored pixels
    union_everywhere: int  # predictions on ignored pixels are wrong, as the official code counts them
    truth: int


@dataclass(frozen=True)
class Bank:
    """What is known about every class from its references."""

    split: Split
    pictures: dict[int, tuple[str, ...]]  # of each class; it may have none
    visual: Float[np.ndarray, "classes slots channels"]
    text: Float[np.ndarray, "classes text_width"]

    def slot(self, number: int, target: str, split: Split) -> int | None:
        """The class's first reference that is not the target itself; None where there is none."""
        for slot, picture in enumerate(self.pictures[number]):
            if split != self.split or picture != target:
                return slot
        return None


def evaluate_semseg(
    bundle: Bundle,
    source: SemanticSource,
    *,
    benchmark: Benchmark,
    classes: Classes,
    merge: Merge,
    bank: Split,
    class_names: bool | None,
    batch_size: int,
    limit: int | None,
    out: Path,
) -> dict:
    """Score the validation pictures, and write result.json and per_class.csv. Every host must call it.

    Args:
        bank: the split that the references are drawn from (`draw_references` with seed 0). In "val" a
            class has two, and a picture is never its own reference. The official references are pictures
            made by Stable Diffusion, which are not distributed.
        class_names: whether the prompts name the classes; None for yes if the model can encode them.
        batch_size: pictures in work at a time; results do not depend on it.
        limit: only the first pictures.

    Returns:
        What result.json holds; percentages in hundredths.

    Raises:
        DataError: data are missing or damaged, or `out` holds another run. What is done stays there.
        BundleError: `class_names` is True, and the model cannot encode them.
    """
    begin = time.perf_counter()
    text, named = _text(bundle, source, class_names)
    listed = source.pictures("val")
    pictures = listed[:limit]
    protocol = {
        "name": "semseg",
        "classes": classes,
        "merge": merge,
        "bank": bank,
        "prediction": "logits, bilinear to the picture's own size, above 0",
        "source": "SegIC train.py, evaluate_semseg",
    }
    identity = {
        "benchmark": benchmark.name,
        "protocol": protocol,
        "class_names_given": named,
        "pictures": hashlib.sha256(json.dumps(listed).encode()).hexdigest(),
        "model": model_identity(bundle),
    }
    records = Records(out, identity)
    devices = jax.local_devices()
    models = [Model(bundle, device) for device in devices]
    references = _bank(models, source, bank, text, out)
    todo = [i for i in range(len(pictures)) if i not in records.done]
    mine = todo[jax.process_index() :: jax.process_count()]

    def row(number: int, model: Model) -> dict:
        picture = pictures[number]
        shown = source.load("val", picture)
        wanted = range(len(source.classes)) if classes == "all" else shown.classes
        slots = {c: references.slot(c, picture, "val") for c in wanted}
        decoded = tuple(c for c, slot in slots.items() if slot is not None)
        rows = model.logits(shown.image, _context(references, decoded, [slots[c] for c in decoded]))
        counts = score(shown, decoded, rows, merge)
        return {"index": number, "picture": picture, "classes": {str(c): [*n] for c, n in counts.items()}}

    kept = [row for i, row in records.done.items() if i < len(pictures)]
    sums = _sums(kept, len(source.classes)).sum(0)
    rows = _spread(row, mine, models, batch_size)
    bar = {"unit": "picture", "desc": benchmark.name, "disable": not distributed.is_main()}
    with tqdm(rows, total=len(kept) + len(mine), initial=len(kept), **bar) as progress:
        for done in progress:
            records.add([done])
            sums += _sums([done], len(source.classes))[0]
            progress.set_postfix(mIoU=f"{100 * _mean_iou(sums[None], 1)[0]:.2f}")
    everything = records.gathered()
    gathered = [everything[i] for i in range(len(pictures))]
    records.close()
    result = {
        "benchmark": benchmark.name,
        "title": benchmark.title,
        "protocol": protocol,
        "class_names_given": named,
        "in_domain": in_domain(bundle, benchmark.pictures),
        **_scores(gathered, source.classes),
        "bank": _bank_facts(references, source.classes),
        "notes": _notes(classes, merge, references),
        "model": model_identity(bundle) | {"notes": bundle.notes},
        "environment": environment(),
        "seconds": round(time.perf_counter() - begin, 1),
    }
    if distributed.is_main():
        _write(out, result, _sums(gathered, len(source.classes)).sum(0), source.classes)
    return result


class Model:
    """The bundle on one device."""

    def __init__(self, bundle: Bundle, device: jax.Device):
        self.config = bundle.config
        self._device = device
        self._backbone, self._head = jax.device_put((bundle.backbone, bundle.head), device)

    def visual(
        self, image: np.ndarray, mask: Bool[np.ndarray, "height width"]
    ) -> Float[np.ndarray, " channels"]:
        """The feature of a reference; its mask is pooled as soft as resizing leaves it (segic.py:996-998)."""
        placed = resize_and_pad(image, mask[None][:0], self.config.canvas)
        soft = np.zeros((self.config.canvas, self.config.canvas), np.float32)
        rows, columns = placed.size
        height, width = mask.shape
        soft[:rows, :columns] = resample(mask, *fitted_taps(height, width, self.config.canvas))
        inputs = jax.device_put((placed.image, np.array(placed.size), soft), self._device)
        return np.asarray(_visual(self.config, self._backbone, *inputs))

    def logits(
        self, image: np.ndarray, context: Context
    ) -> Iterator[Float[np.ndarray, "chunk height width"]]:
        """Of the concepts in `context`, whose slots need not all be valid, chunk by chunk at the own size."""
        placed = resize_and_pad(image, np.zeros((0, *image.shape[:2]), bool), self.config.canvas)
        height, width = placed.size
        inputs = jax.device_put((placed.image, np.array(placed.size), context), self._device)
        image_on_device, size, context = inputs
        slots, used = context.pooled.shape[1], int(np.asarray(context.valid).sum())
        if not used:
            return
        features = _features(self.config, self._backbone, image_on_device, size)
        chunk = min(slots, CHUNK)
        for start in range(0, used, chunk):
            rows = jax.device_put(np.arange(start, start + chunk, dtype=np.int32), self._device)
            logits = np.asarray(_decode(self.config, self._head, features, context, rows))
            yield resize(logits[: used - start, :height, :width], image.shape[:2])


@partial(jax.jit, static_argnums=0)
def _features(config: ModelConfig, backbone: Params, image: Array, size: Array) -> Array:
    return segic.extract(config, backbone, image[None], size[None])


@partial(jax.jit, static_argnums=0)
def _visual(config: ModelConfig, backbone: Params, image: Array, size: Array, mask: Array) -> Array:
    return pool(segic.extract(config, backbone, image[None], size[None])[0], mask)


@partial(jax.jit, static_argnums=0)
def _decode(
    config: ModelConfig, head: Params, features: Array, context: Context, rows: Int[Array, " chunk"]
) -> Float[Array, "chunk S S"]:
    logits = segic.decode_stages(config, head, features, context, rows=rows).logits
    return segic.upsample(logits, config.canvas)[0]


def padded_slots(concepts: int) -> int:
    """How many slots a program for so many concepts has: 4, 8, 16, 32, 48, ..."""
    small = next((size for size in (4, 8) if concepts <= size), None)
    return small or -(-max(concepts, 1) // CHUNK) * CHUNK


def _context(bank: Bank, concepts: Sequence[int], slots: Sequence[int | None]) -> Context:
    count = padded_slots(len(concepts))
    visual = np.zeros((1, count, 1, bank.visual.shape[-1]), np.float32)
    text = np.zeros((1, count, bank.text.shape[-1]), np.float32)
    valid = np.zeros((1, count, 1), bool)
    for row, (concept, slot) in enumerate(zip(concepts, slots, strict=True)):
        visual[0, row, 0], text[0, row], valid[0, row] = bank.visual[concept, slot], bank.text[concept], True
    return Context(pooled=visual[:, :, 0], visual=visual, visual_valid=valid, text=text)


def score(
    shown: SemanticPicture,
    decoded: Sequence[int],
    chunks: Iterator[Float[np.ndarray, "chunk height width"]],
    merge: Merge,
) -> dict[int, Counts]:
    """Pixels of every class that is decoded or true; classes without any are left out.

    Args:
        decoded: class of each row of logits, in the order of `chunks`, rising.
    """
    truth = dict(zip(shown.classes, shown.masks, strict=True))
    counts = {c: Counts(0, int(mask.sum()), int(mask.sum()), int(mask.sum())) for c, mask in truth.items()}

    def count(number: int, prediction: Bool[np.ndarray, "height width"]) -> None:
        true = truth.get(number)
        pixels = counts[number].truth if true is not None else 0
        both = int((prediction & true).sum()) if true is not None else 0
        everywhere = int(prediction.sum()) + pixels - both
        ignored = int((prediction & shown.ignored).sum())
        if everywhere:
            counts[number] = Counts(both, everywhere - ignored, everywhere, pixels)

    best = np.zeros(shown.ignored.shape, np.float32)  # logits of the winner; 0 is the background's
    winner = np.full(shown.ignored.shape, -1, np.int32)
    numbers = iter(decoded)
    for chunk in chunks:
        for logits, number in zip(chunk, numbers, strict=False):
            if merge == "independent":
                count(number, logits > 0)
            else:  # the lower class where two are equal
                better = logits > best
                best[better] = logits[better]
                winner[better] = number
    if merge == "argmax":
        for number in np.unique(winner[winner >= 0]).tolist():
            count(number, winner == number)
    return dict(sorted(counts.items()))


def _text(
    bundle: Bundle, source: SemanticSource, class_names: bool | None
) -> tuple[Float[np.ndarray, "classes text_width"], bool]:
    if class_names is not False:
        try:
            return bundle.text_features(source.classes), True
        except BundleError:
            if class_names:
                raise
    return bundle.text_features([""] * len(source.classes)), False


def _bank(
    models: Sequence["Model"], source: SemanticSource, split: Split, text: np.ndarray, out: Path
) -> Bank:
    """Draw the references, once for a folder, and encode them, on every host."""
    source.pictures(split)  # raises where there is no such split
    path = out / "references.json"
    try:
        drawn = {int(number): tuple(of) for number, of in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError):  # not there yet, or damaged: draw again
        drawn = draw_references(source, split, 2 if split == "val" else 1, seed=REFERENCE_SEED)
        if distributed.is_main():
            _replace(path, json.dumps(drawn) + "\n")
    views = [(number, slot) for number, of in drawn.items() for slot in range(len(of))]
    if not views:
        raise DataError(f"The {split} split of {source.name} shows no class at all: get its labels again.")

    def encode(view: tuple[int, int], model: Model) -> np.ndarray:
        number, slot = view
        shown = source.load(split, drawn[number][slot])
        if number not in shown.classes:
            raise DataError(f"{path} does not fit the data, which have changed: delete {out}.")
        return model.visual(shown.image, shown.masks[shown.classes.index(number)])

    visual = np.zeros((len(drawn), max(map(len, drawn.values())), models[0].config.vit.width), np.float32)
    features = _spread(encode, views, models, 2 * len(models))
    for view, feature in zip(views, tqdm(features, total=len(views), desc="references"), strict=True):
        visual[view] = feature
    return Bank(split, drawn, visual, text)


def _spread(work: Callable, items: Sequence, models: Sequence["Model"], at_a_time: int) -> Iterator:
    """`work(item, model)` in order, `at_a_time` of them in threads, on all devices in turn."""
    with ThreadPoolExecutor(max(at_a_time, 1)) as threads:
        waiting = []
        try:
            for i, item in enumerate(items):
                waiting.append(threads.submit(work, item, models[i % len(models)]))
                if len(waiting) >= 2 * at_a_time:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:  # an error, or nobody wants the rest
            for future in waiting:
                future.cancel()


def _sums(rows: Sequence[dict], classes: int) -> Int[np.ndarray, "pictures classes 4"]:
    counts = np.zeros((len(rows), classes, 4), np.int64)
    for i, row in enumerate(rows):
        for number, of in row["classes"].items():
            counts[i, int(number)] = of
    return counts


def _mean_iou(sums: Int[np.ndarray, "draws classes 4"], union: int) -> Float[np.ndarray, " draws"]:
    """Mean over the classes that the truth has of the IoU of the summed pixels, 0..1."""
    seen = sums[..., 3] > 0
    iou = sums[..., 0] / np.maximum(sums[..., union], 1)
    return (iou * seen).sum(-1) / np.maximum(seen.sum(-1), 1)


def bootstrap_interval(
    counts: Int[np.ndarray, "pictures classes 4"], *, samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the mIoU over pictures drawn anew with replacement, in per cent.

    A class that a draw misses is left out of that draw's mean.
    """
    random = np.random.default_rng(seed)
    pictures, classes, _ = counts.shape
    flat = counts.reshape(pictures, -1).astype(np.float64)  # sums of whole numbers below 2 ** 53 are exact
    means = []
    for start in range(0, samples, 100):
        times = random.multinomial(pictures, np.full(pictures, 1 / pictures), min(100, samples - start))
        means.append(_mean_iou((times @ flat).reshape(-1, classes, 4), union=1))
    low, high = np.percentile(100 * np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def _scores(rows: Sequence[dict], names: Sequence[str]) -> dict:
    counts = _sums(rows, len(names))
    sums = counts.sum(0)
    interval = bootstrap_interval(counts) if rows else (float("nan"),) * 2
    seen = sums[:, 3] > 0
    iou = sums[:, 0] / np.maximum(sums[:, 1], 1)
    return {
        "pictures": len(rows),
        "classes": len(names),
        "classes_seen": int(seen.sum()),
        "scores": {
            "miou": percent(_mean_iou(sums[None], 1)[0]),
            "interval_95": [percent(value / 100) for value in interval],
            "miou_official": percent(_mean_iou(sums[None], 2)[0]),
        },
        "class_iou": {
            name: percent(value)
            for name, value, there in zip(unique_names(names), iou, seen, strict=True)
            if there
        },
    }


def unique_names(names: Sequence[str]) -> list[str]:
    """Names that several classes share get their numbers."""
    return [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names)]


def _bank_facts(bank: Bank, names: Sequence[str]) -> dict:
    labels = unique_names(names)
    content = json.dumps({str(number): of for number, of in bank.pictures.items()})
    empty = [labels[c] for c, of in bank.pictures.items() if of and not bank.visual[c, 0].any()]
    return {
        "split": bank.split,
        "sha256": hashlib.sha256(content.encode()).hexdigest(),
        "classes_without_reference": [labels[c] for c, of in bank.pictures.items() if not of],
        "classes_with_empty_reference": empty,  # too small for the feature grid
    }


def _notes(classes: Classes, merge: Merge, bank: Bank) -> list[str]:
    notes = [
        "miou leaves ignored pixels out; miou_official counts predictions there as wrong, as the official "
        "code does. Both are means over the classes that the truth has, each from pixels summed over all "
        "pictures.",
        f"One reference a class, drawn from the {bank.split} split with seed {REFERENCE_SEED}; the official "
        "references are generated pictures that are not distributed.",
    ]
    if bank.split == "val":
        notes.append(
            "A picture that is a class's reference is decoded with the class's second one; where there is "
            "none, the class predicts nothing (the official code decodes zeros)."
        )
    if classes == "present":
        notes.append(
            "Only the classes that the truth has are decoded (oracle presence, as in the official code): "
            "not to be compared with segmenters that choose among all classes."
        )
    if merge == "independent":
        notes.append("Each class is thresholded by itself: a pixel may be given to several.")
    if any(not of for of in bank.pictures.values()):
        notes.append("A class without a reference predicts nothing, and its truth counts.")
    return notes


def table(result: dict) -> str:
    """The scores as aligned lines, one screen."""
    protocol, scores = result["protocol"], result["scores"]
    low, high = scores["interval_95"]
    lines = [
        f"{result['benchmark']}: {result['pictures']} pictures, {result['classes_seen']} of "
        f"{result['classes']} classes seen, mIoU in per cent",
        f"  decoded: {protocol['classes']}; merge: {protocol['merge']}; references: {protocol['bank']}; "
        f"class names {'given' if result['class_names_given'] else 'not given'}",
        f"  mIoU {scores['miou']:.2f}   95 % interval {low:.1f} - {high:.1f}",
        f"  as the official code counts ignored pixels {scores['miou_official']:.2f}",
    ]
    return "\n".join([*lines, *(f"  {note}" for note in result["notes"])])


def _write(out: Path, result: dict, sums: Int[np.ndarray, "classes 4"], names: Sequence[str]) -> None:
    part = out / "per_class.csv.part"
    with part.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["class", "name", "iou", "intersection", "union", "union_everywhere", "truth"])
        for number, (name, of) in enumerate(zip(names, sums.tolist(), strict=True)):
            iou = percent(of[0] / max(of[1], 1)) if of[3] else ""
            table.writerow([number, name, iou, *of])
    part.replace(out / "per_class.csv")
    _replace(out / "result.json", json.dumps(result, indent=2) + "\n")


def _replace(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
