"""Go the whole way from a dump of the official code to masks, as a user does, and compare them with torch's.

The weights go through `segic convert`, the class name through the tokenizer and the text tower, the images
through preprocessing, `Segmenter.predict`, and `segic eval` as a process of its own, with torch's masks as
ground truth. Nothing of the dump but its inputs and its masks is read.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np
from jaxtyping import Bool, Float

from segic_jax.config import Precision
from segic_jax.data.episodes import ClassId, Episode, LabelledImage, Manifest, View
from segic_jax.errors import DumpError
from segic_jax.evaluate.episode_stream import predict_episodes
from segic_jax.evaluate.episode_tasks import make_tasks
from segic_jax.evaluate.metrics import mask_iou
from segic_jax.evaluate.protocols import to_image_size
from segic_jax.inference.engine import Engine
from segic_jax.inference.example import Example
from segic_jax.inference.segmenter import Segmenter
from segic_jax.parity.dump import read_dump
from segic_jax.parity.eval_process import run_eval, write_pairs
from segic_jax.parity.pairs import TIE, Pair, load_pair
from segic_jax.parity.tf32 import tf32_products
from segic_jax.runtime import progress
from segic_jax.runtime.atomic_write import atomic_write
from segic_jax.weights.bundle import Bundle, load_bundle
from segic_jax.weights.convert import convert

TOKENIZER = "tokenizer.json"  # in the dump


@dataclass(frozen=True)
class Way:
    """Name a way to compute a mask; only exact ones are judged."""

    name: str
    precision: Precision
    rounded_canvas: bool

    @property
    def exact(self) -> bool:
        """Return whether the way computes what the official code computes."""
        return self.precision == "float32" and not self.rounded_canvas


EXACT = Way("float32, canvas in float32", "float32", False)
WAYS = (
    EXACT,
    Way("float32, canvas rounded to uint8", "float32", True),
    Way("bfloat16, canvas rounded to uint8", "bfloat16", True),
)


@dataclass(frozen=True)
class MaskComparison:
    """Compare a mask with torch's, at the size of the target."""

    file: str
    through: str  # "segic eval", "predict", or "logits" of the stream that an evaluation scores
    way: str
    judged: bool
    logits_apart: float | None  # largest difference; None where the way gives no logits
    pixels_apart: int
    untied: int  # pixels that are apart and where torch's logit is not within TIE of 0
    iou: float | None  # None if both masks are empty

    @property
    def passed(self) -> bool:
        """Return whether the masks are equal but for ties; a way that is not exact only measures."""
        return not self.judged or not self.untied


def compare_end_to_end(folder: Path, out: Path | None, tokenizer: Path | None = None) -> bool:
    """Compare every pair of a dump in all ways, print a table, and write it to `out` as JSON.

    Args:
        tokenizer: CLIP's tokenizer.json, for dumps that do not hold it.

    Returns:
        Whether the masks of the exact way are torch's in all pairs.

    Raises:
        DumpError: the dump cannot be read, or there is no tokenizer.
    """
    dump = read_dump(folder)
    tokenizer = tokenizer or folder / TOKENIZER
    if not tokenizer.is_file():
        raise DumpError(f"{tokenizer} is missing: give CLIP's tokenizer.json with --tokenizer.")
    pairs = [load_pair(dump, number) for number in range(len(dump.manifest["pairs"]))]
    with TemporaryDirectory() as temporary:
        model = Path(temporary) / "model.safetensors"
        weights = folder / "weights.safetensors"
        convert(
            [weights, tokenizer],
            model,
            canvas=dump.config.canvas,
            num_heads=dump.manifest["model"]["backbone_heads"],
        )
        rows = list(evaluated(pairs, model, Path(temporary)))  # before this process takes the device
        bundle = load_bundle(model)
        for way in progress.bar(WAYS, desc="ways", unit="way"):
            rows += compare_pairs(pairs, bundle, way)
        with tf32_products() as how:
            rows += [replace(row, way=how, judged=False) for row in compare_pairs(pairs, bundle, EXACT)]
    print(table(rows))
    passed = all(row.passed for row in rows)
    if out is not None:
        content = {"passed": passed, "rows": [asdict(row) for row in rows], "device": str(jax.devices()[0])}
        atomic_write(out, json.dumps(content, indent=2) + "\n", DumpError)
    return passed


def evaluated(pairs: Sequence[Pair], model: Path, folder: Path) -> Iterator[MaskComparison]:
    """Run `segic eval` in every way, and yield what it counts of each pair; it never decodes instances."""
    pairs = [pair for pair in pairs if not pair.instances]
    if not pairs:
        return
    write_pairs(pairs, folder)
    for way in progress.bar(WAYS, desc="segic eval", unit="run"):
        counts = run_eval(pairs, folder, model, way.precision, rounded_canvas=way.rounded_canvas)
        for pair, (apart, untied, iou) in zip(pairs, counts, strict=True):
            yield MaskComparison(pair.file, "segic eval", way.name, way.exact, None, apart, untied, iou)


def compare_pairs(pairs: Sequence[Pair], bundle: Bundle, way: Way) -> Iterator[MaskComparison]:
    """Yield the comparisons of all pairs; instances are decoded together."""
    segmenter = Segmenter(bundle, way.precision, rounded_canvas=way.rounded_canvas)
    for pair in pairs:
        names = [pair.name or f"object {number}" for number in range(len(pair.masks))]
        examples = [Example(pair.reference, mask, name=n) for mask, n in zip(pair.masks, names, strict=True)]
        named = bool(pair.name) and not pair.instances
        context = segmenter.fit(examples, class_names=named, instances=pair.instances)
        masks = segmenter.predict(pair.image, context, keep_absent=True, together=pair.instances).masks
        for expected, mask in zip(pair.torch_logits, masks, strict=True):
            yield compare_masks(pair.file, "predict", way, expected, mask, None)
    source = PairSource([pair for pair in pairs if not pair.instances])
    if source.pairs:
        for pair, logits in zip(source.pairs, stream_logits(segmenter.engine, source, way), strict=True):
            yield compare_masks(pair.file, "logits", way, pair.torch_logits[0], logits > 0, logits)


def stream_logits(engine: Engine, source: "PairSource", way: Way) -> list[Float[np.ndarray, "height width"]]:
    """Return the logits that an evaluation scores, at the size of each target."""
    tasks = make_tasks(engine.bundle, source, [source.manifest("segic", 0, 1)], class_names=True)
    return list(
        predict_episodes(
            {"segic": engine},
            source,
            tasks,
            lambda p: to_image_size(p.logits["segic"], p.size, p.target.mask.shape),
            rounded_canvas=way.rounded_canvas,
        )
    )


def compare_masks(
    file: str,
    through: str,
    way: Way,
    expected: Float[np.ndarray, "height width"],
    ours: Bool[np.ndarray, "height width"],
    logits: Float[np.ndarray, "height width"] | None,
) -> MaskComparison:
    """Compare a mask with the logits of torch."""
    apart = (expected > 0) != ours
    iou = mask_iou(expected > 0, ours)
    return MaskComparison(
        file,
        through,
        way.name,
        way.exact,
        None if logits is None else float(np.abs(expected - logits).max()),
        int(apart.sum()),
        int((apart & (np.abs(expected) > TIE)).sum()),
        None if np.isnan(iou) else float(iou),
    )


def table(rows: list[MaskComparison]) -> str:
    """Return the comparisons as aligned lines."""
    lines = [("file", "through", "computed in", "logits apart", "pixels", "untied", "IoU", "")]
    for row in rows:
        apart = "" if row.logits_apart is None else f"{row.logits_apart:.1e}"
        iou = "both empty" if row.iou is None else f"{row.iou:.6f}"
        verdict = ("ok" if row.passed else "failed") if row.judged else "measured"
        counts = str(row.pixels_apart), str(row.untied)
        lines.append((row.file, row.through, row.way, apart, *counts, iou, verdict))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


@dataclass(frozen=True)
class PairSource:
    """Give pairs of one mask as episodes of a class each."""

    pairs: Sequence[Pair]
    name: str = "dump"

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        """Return the episodes."""
        numbers = range(len(self.pairs))
        episodes = tuple(Episode(number, f"target {number}", (f"reference {number}",)) for number in numbers)
        return Manifest(self.name, protocol, fold, shots, tuple(numbers), episodes)

    def class_name(self, class_id: ClassId) -> str:
        """Return the name that the official code was given."""
        return self.pairs[int(class_id)].name

    def views(self) -> Iterator[View]:
        """Yield both images of every pair."""
        for number in range(len(self.pairs)):
            yield from (View(f"target {number}", number), View(f"reference {number}", number))

    def load(self, view: View) -> LabelledImage:
        """Return an image; the mask of a target is torch's."""
        pair = self.pairs[int(view.class_id)]
        if view.image_name.startswith("reference"):
            return LabelledImage(pair.reference, pair.masks[0])
        return LabelledImage(pair.image, pair.torch_logits[0] > 0)
