"""Go the whole way from a dump of the official code to masks, as a user does, and compare them with torch's.

The weights go through `segic convert`, the class name through the tokenizer and the text tower, the images
through preprocessing, `Segmenter.predict` and the stream of `eval.py`. Nothing of the dump but its inputs and
its masks is read.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np
from jaxtyping import Float

from segic_jax.config import Precision
from segic_jax.data.episodes import ClassId, Episode, LabelledImage, Manifest, View
from segic_jax.data.preprocess import resize
from segic_jax.errors import DumpError
from segic_jax.evaluate.episode_stream import predict_episodes
from segic_jax.evaluate.episode_tasks import make_tasks
from segic_jax.evaluate.metrics import mask_iou
from segic_jax.evaluate.protocols import to_image_size
from segic_jax.inference.engine import Engine
from segic_jax.inference.example import Example
from segic_jax.inference.segmenter import Segmenter
from segic_jax.parity.dump import Dump, read_dump, read_pair
from segic_jax.runtime import progress
from segic_jax.runtime.atomic_write import atomic_write
from segic_jax.weights.bundle import Bundle, load_bundle
from segic_jax.weights.convert import convert

TIE = 1e-3  # logits of torch that may be on the other side of 0
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


WAYS = (
    Way("float32, canvas in float32", "float32", False),
    Way("float32, canvas rounded to uint8", "float32", True),
    Way("bfloat16, canvas rounded to uint8", "bfloat16", True),
)


@dataclass(frozen=True)
class MaskComparison:
    """Compare a mask of one pair with torch's, at the size of the target."""

    file: str
    through: str  # "predict" or "eval"
    way: str
    judged: bool
    logits_apart: float | None  # largest difference; None where the way gives no logits
    pixels_apart: int
    untied: int  # of these, where torch's logit is not within TIE of 0
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
    with TemporaryDirectory() as temporary:
        model = Path(temporary) / "model.safetensors"
        weights = folder / "weights.safetensors"
        convert(
            [weights, tokenizer],
            model,
            canvas=dump.config.canvas,
            num_heads=dump.manifest["model"]["backbone_heads"],
        )
        bundle = load_bundle(model)
        count = len(dump.manifest["pairs"])
        numbers = progress.bar(range(count), desc="pairs", unit="pair")
        rows = [row for number in numbers for row in compare_pair(dump, bundle, number)]
    print(table(rows))
    passed = all(row.passed for row in rows)
    if out is not None:
        content = {"passed": passed, "rows": [asdict(row) for row in rows], "device": str(jax.devices()[0])}
        atomic_write(out, json.dumps(content, indent=2) + "\n", DumpError)
    return passed


def compare_pair(dump: Dump, bundle: Bundle, number: int) -> Iterator[MaskComparison]:
    """Yield the comparison of one pair in every way, through `predict` and the stream of `eval.py`."""
    arrays, file = read_pair(dump, number), str(dump.manifest["pairs"][number]["file"])
    name = str(dump.manifest["pairs"][number].get("class_name") or "")
    image, reference = (_channels_last(arrays[f"in.orig_image{end}"]) for end in ("", "_dual"))
    mask = arrays["in.orig_label_dual"][0] > 127
    theirs = resize(arrays["out.masks"][0, 0].astype(np.float32), image.shape[:2])
    pair = PairSource(
        LabelledImage(image, np.zeros(image.shape[:2], bool)), LabelledImage(reference, mask), name
    )
    for way in WAYS:
        segmenter = Segmenter(bundle, way.precision, rounded_canvas=way.rounded_canvas)
        example = Example(reference, mask, name=name or "object")
        context = segmenter.fit([example], class_names=bool(name))
        result = segmenter.predict(image, context, keep_absent=True)
        yield compare_masks(file, "predict", way, theirs, result.masks[0], None)
        logits = stream_logits(segmenter.engine, pair, way)
        yield compare_masks(file, "eval", way, theirs, logits > 0, logits)


def _channels_last(planes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(planes, 0, -1))


def stream_logits(engine: Engine, pair: "PairSource", way: Way) -> Float[np.ndarray, "height width"]:
    """Return the logits of the stream that `eval.py` scores, at the size of the target."""
    tasks = make_tasks(engine.bundle, pair, [pair.manifest("segic", 0, 1)], class_names=bool(pair.name_given))
    (logits,) = predict_episodes(
        {"segic": engine},
        pair,
        tasks,
        lambda p: to_image_size(p.logits["segic"], p.size, p.target.mask.shape),
        rounded_canvas=way.rounded_canvas,
    )
    return logits


def compare_masks(
    file: str,
    through: str,
    way: Way,
    theirs: Float[np.ndarray, "height width"],
    ours: np.ndarray,
    logits: np.ndarray | None,
) -> MaskComparison:
    """Compare a mask with the logits of torch."""
    apart = (theirs > 0) != ours
    iou = mask_iou(theirs > 0, ours)
    return MaskComparison(
        file,
        through,
        way.name,
        way.exact,
        None if logits is None else float(np.abs(theirs - logits).max()),
        int(apart.sum()),
        int((apart & (np.abs(theirs) > TIE)).sum()),
        None if np.isnan(iou) else float(iou),
    )


def table(rows: list[MaskComparison]) -> str:
    """Return the comparisons as aligned lines."""
    lines = [("file", "through", "computed in", "logits apart", "pixels", "untied", "IoU", "")]
    for row in rows:
        apart = "" if row.logits_apart is None else f"{row.logits_apart:.1e}"
        iou = "both empty" if row.iou is None else f"{row.iou:.6f}"
        verdict = ("ok" if row.passed else "failed") if row.judged else "measured"
        counts = (str(row.pixels_apart), str(row.untied))
        lines.append((row.file, row.through, row.way, apart, *counts, iou, verdict))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


@dataclass(frozen=True)
class PairSource:
    """Give one pair as an episode."""

    target: LabelledImage
    reference: LabelledImage
    name_given: str  # the class name; "" for none
    name: str = "dump"

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        """Return the episode."""
        return Manifest(self.name, protocol, fold, shots, (0,), (Episode(0, "target", ("reference",)),))

    def class_name(self, class_id: ClassId) -> str:
        """Return the name that the official code was given."""
        return self.name_given

    def views(self) -> Iterator[View]:
        """Yield both images."""
        yield from (View("target", 0), View("reference", 0))

    def load(self, view: View) -> LabelledImage:
        """Return an image."""
        return self.target if view.image_name == "target" else self.reference
