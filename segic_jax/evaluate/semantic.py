"""Semantic segmentation with many classes, each shown by a reference; all concepts of an image are decoded.

The official `evaluate_semseg` of train.py decodes the classes that the truth has ("present", an oracle) and
thresholds each by itself ("independent"); here all classes can be decoded ("all"), and the largest logit can
decide ("argmax", background where none is above 0).
"""

import csv
import io
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

import segic_jax
from segic_jax.data.benchmark_spec import BenchmarkSpec
from segic_jax.data.preprocess import resize_and_pad
from segic_jax.data.semantic import SemanticSource, Split
from segic_jax.errors import ConfigError
from segic_jax.evaluate.records import (
    Records,
    environment,
    in_domain,
    list_hash,
    model_identity,
    percent,
    spread,
)
from segic_jax.evaluate.report import render
from segic_jax.evaluate.semantic_bank import REFERENCE_SEED, Bank, make_bank, text_features
from segic_jax.evaluate.semantic_metrics import Merge, class_sums, image_iou, mean_iou, score, summary
from segic_jax.inference.engine import Engine
from segic_jax.models.segic import Prototypes
from segic_jax.runtime import distributed, progress
from segic_jax.runtime.atomic_write import atomic_write
from segic_jax.runtime.prefetch import prefetch_results
from segic_jax.weights.bundle import Bundle

Classes = Literal["present", "all"]


def evaluate_semseg(
    bundle: Bundle,
    source: SemanticSource,
    *,
    benchmark: BenchmarkSpec,
    classes: Classes,
    merge: Merge,
    bank: Split,
    class_names: bool | None,
    batch_size: int,
    limit: int | None,
    out: Path,
) -> dict:
    """Score the validation images, write `out`, and give the content of its result.json.

    Started again with the same `out`, it goes on after the rows that are there. Several hosts share the work.

    Args:
        bank: the split that the references are drawn from (`draw_references` with seed 0). In "val" a
            class has two, and an image is never its own reference. The official references are images
            made by Stable Diffusion, which are not distributed.
        class_names: whether the prompts name the classes; None for yes if the model can encode them.
        batch_size: images in work at a time; results do not depend on it.
        limit: only about every len / limit-th image.

    Raises:
        ConfigError: `batch_size` or `limit` below 1.
        DataError: data are missing or damaged, or `out` holds another run. What is done stays there.
        BundleError: `class_names` is True, and the model cannot encode them.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size {batch_size} must be at least 1.")
    begin = time.perf_counter()
    text, named = text_features(bundle, source, class_names)
    pictures = source.image_names("val")
    chosen = spread(range(len(pictures)), limit)
    protocol = {
        "name": "semseg",
        "classes": classes,
        "merge": merge,
        "bank": bank,
        "prediction": "logits, bilinear to the image's own size, above 0",
        "source": "SegIC train.py, evaluate_semseg",
    }
    identity = {
        "benchmark": benchmark.name,
        "protocol": protocol,
        "class_names_given": named,
        "pictures": list_hash(pictures),
        "model": model_identity(bundle),
        "version": segic_jax.__version__,
    }
    engine = Engine(bundle)
    with Records(out, identity) as records:
        with distributed.raise_on_all_hosts():
            references = make_bank(engine, source, bank, text, out)
        todo = [i for i in chosen if i not in records.done]
        mine = todo[jax.process_index() :: jax.process_count()]

        def row(number: int) -> dict:
            shown = source.load("val", pictures[number])
            wanted = range(len(source.classes)) if classes == "all" else shown.classes
            decoded, context = references.context(wanted, pictures[number], "val")
            counts = score(shown, decoded, class_logits(engine, shown.image, context), merge)
            return {
                "index": number,
                "picture": pictures[number],
                "iou": image_iou(counts),
                "classes": {str(c): [*n] for c, n in counts.items()},
            }

        kept = [records.done[i] for i in chosen if i in records.done]
        sums = class_sums(kept, len(source.classes)).sum(0)
        bar = progress.bar(
            total=len(kept) + len(mine),
            initial=len(kept),
            unit="picture",
            desc=benchmark.name,
            enabled=distributed.is_main_host(),
        )
        with distributed.raise_on_all_hosts(), closing(bar):
            for done in prefetch_results(row, mine, threads=batch_size, limit=2 * batch_size - 1):
                records.add(done)
                sums += class_sums([done], len(source.classes))[0]
                bar.set_postfix(mIoU=f"{100 * mean_iou(sums[None])[0]:.2f}", refresh=False)
                bar.update()
        everything = records.gathered()
    rows = [everything[i] for i in chosen]
    result = {
        "benchmark": benchmark.name,
        "title": benchmark.title,
        "protocol": protocol,
        "class_names_given": named,
        "in_domain": in_domain(bundle, benchmark.domain),
        "manifest": {"sha256": identity["pictures"]},
        "pictures": len(rows),
        "pictures_in_list": len(pictures),
        **summary(rows, source.classes),
        "bank": references.facts(source.classes),
        "notes": _notes(classes, merge, references),
        "model": model_identity(bundle) | {"notes": bundle.notes},
        "environment": environment(),
        "seconds": round(time.perf_counter() - begin, 1),
    }
    if distributed.is_main_host():
        _write(out, result, rows, source.classes)
    return result


def class_logits(
    engine: Engine, image: UInt8[np.ndarray, "height width 3"], prototypes: Prototypes
) -> Iterator[Float[np.ndarray, "valid_height valid_width"]]:
    """Yield the logits of each valid concept on the part of the canvas that has the image."""
    count = int(np.asarray(prototypes.valid).sum())
    if not count:
        return
    placed = resize_and_pad(image, np.zeros((0, *image.shape[:2]), bool), engine.config.canvas)
    height, width = placed.size
    for logits in engine.decode_each(engine.features([placed], 1), prototypes, count):
        yield logits[:height, :width]


def _notes(classes: Classes, merge: Merge, bank: Bank) -> list[str]:
    notes = [
        "miou leaves ignored pixels out; miou_official counts predictions there as wrong, as the official "
        "code does. Both are means over the classes that the truth has, each from pixels summed over all "
        "pictures.",
        f"One reference a class, drawn from the {bank.split} split with seed {REFERENCE_SEED}; the official "
        "references are generated images that are not distributed.",
    ]
    if bank.split == "val":
        notes.append(
            "An image that is a class's reference is decoded with the class's second one; where there is "
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
        f"{result['benchmark']}: {result['pictures']} images, {result['classes_seen']} of "
        f"{result['classes']} classes seen, mIoU in per cent",
        f"  decoded: {protocol['classes']}; merge: {protocol['merge']}; references: {protocol['bank']}; "
        f"class names {'given' if result['class_names_given'] else 'not given'}",
        f"  mIoU {scores['miou']:.2f}   95 % interval {low:.1f} - {high:.1f}",
        f"  as the official code counts ignored pixels {scores['miou_official']:.2f}",
    ]
    return "\n".join([*lines, *(f"  {note}" for note in result["notes"])])


def _write(out: Path, result: dict, rows: Sequence[dict], names: Sequence[str]) -> None:
    """per_class.csv, episodes.jsonl (a line an image), report.html and result.json, each whole."""
    bars = sorted(result["class_iou"].items(), key=lambda one: -one[1])
    page = render("semseg.html.j2", result, bars, [row["iou"] for row in rows])
    atomic_write(out / "per_class.csv", _per_class(class_sums(rows, len(names)).sum(0), names).encode())
    atomic_write(out / "episodes.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    atomic_write(out / "report.html", page.encode())
    atomic_write(out / "result.json", (json.dumps(result, indent=2) + "\n").encode())


def _per_class(sums: Int[np.ndarray, "classes 4"], names: Sequence[str]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["class", "name", "iou", "intersection", "union", "union_everywhere", "truth"])
    for number, (name, of) in enumerate(zip(names, sums.tolist(), strict=True)):
        iou = percent(of[0] / max(of[1], 1)) if of[3] else ""
        table.writerow([number, name, iou, *of])
    return text.getvalue()
