"""Is the class there? Calibrate and measure it: `python -m segic_jax.evaluate.calibration`.

Scenes of two to four emoji; the model is asked for eight classes of which the others are absent. The logistic
model is fitted on the validation classes and measured on the novel ones; neither were in the training.
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from scipy.stats import rankdata

from segic_jax.data.emoji.scenes import scene
from segic_jax.data.emoji.source import EmojiSource
from segic_jax.data.emoji.sprites import Split
from segic_jax.data.episodes import View
from segic_jax.inference.context import Context
from segic_jax.inference.example import Example
from segic_jax.inference.presence import EVIDENCE, Calibration
from segic_jax.inference.segmenter import Segmenter
from segic_jax.runtime.command_line import run_command
from segic_jax.weights.bundle import load_bundle, read_weights, write_weights
from segic_jax.weights.fetch import find

ASKED = 8  # classes a scene
SHOTS = (1, 5)
LEAST_VISIBLE = 0.005  # of the scene, for an object to count as there
RECALL = 0.95  # of what is there must count as present


class Asked(NamedTuple):
    """One row a question: a class on a scene."""

    evidence: Float[np.ndarray, "questions evidence"]
    there: Bool[np.ndarray, " questions"]


def ask(segmenter: Segmenter, split: Split, scenes: int, shots: int) -> Asked:
    """All questions about `scenes` scenes of a split's classes, from `shots` examples a class."""
    source = EmojiSource(split)
    classes = source.bank.classes
    taught = {one.name: taught_class(segmenter, source, one.name, shots) for one in classes}
    evidence, there = [], []
    for number in range(scenes):
        rng = np.random.default_rng([number, shots])
        asked = [classes[i] for i in rng.choice(len(classes), ASKED, replace=False)]
        shown = scene(asked[: rng.integers(2, 5)], f"presence {split}", number)
        context = taught[asked[0].name]
        for one in asked[1:]:
            context = context + taught[one.name]
        result = segmenter.predict(shown.image, context)
        visible = np.bincount(shown.labels.ravel(), minlength=ASKED + 1)[1:] / shown.labels.size
        clear = (visible == 0) | (visible >= LEAST_VISIBLE)
        evidence.append(result.evidence[clear])
        there.append(visible[clear] > 0)
    return Asked(np.concatenate(evidence), np.concatenate(there))


def taught_class(segmenter: Segmenter, source: EmojiSource, name: str, shots: int) -> Context:
    """A Context of one class from its first scenes."""
    views = [source.load(View(str(number), name)) for number in range(1, shots + 1)]
    return segmenter.fit([Example(view.image, view.mask, name=name) for view in views])


def calibrate(asked: Asked) -> Calibration:
    """Logistic regression, present and absent weighing the same; RECALL of what is there is present."""
    mean, spread = asked.evidence.mean(0), asked.evidence.std(0) + 1e-6
    inputs = np.column_stack([(asked.evidence - mean) / spread, np.ones(len(asked.there))])
    sign = np.where(asked.there, 1.0, -1.0)
    weight = np.where(asked.there, 0.5 / asked.there.sum(), 0.5 / (~asked.there).sum())

    def loss(factors):
        margin = sign * (inputs @ factors)
        slope = -(inputs * (weight * sign / (1 + np.exp(margin)))[:, None]).sum(0)
        decay = np.append(1e-3 * factors[:-1], 0)
        return weight @ np.logaddexp(0, -margin) + 0.5 * factors @ decay, slope + decay

    factors = minimize(loss, np.zeros(inputs.shape[1]), jac=True).x
    weights = factors[:-1] / spread
    fitted = Calibration(
        {name: float(value) for name, value in zip(EVIDENCE, weights, strict=True)},
        float(factors[-1] - weights @ mean),
        least=0.0,
    )
    least = np.quantile(fitted.presence(asked.evidence[asked.there]), 1 - RECALL)
    return dataclasses.replace(fitted, least=float(least))


def auroc(score: Float[np.ndarray, " n"], there: Bool[np.ndarray, " n"]) -> float:
    """Probability that something there scores above something absent."""
    count = int(there.sum())
    ranks = rankdata(score)[there].sum()
    return float((ranks - count * (count + 1) / 2) / (count * (len(there) - count)))


def false_rate(score: Float[np.ndarray, " n"], there: Bool[np.ndarray, " n"]) -> float:
    """Share of the absent that still count as present where RECALL of what is there does."""
    return float((score[~there] >= np.quantile(score[there], 1 - RECALL)).mean())


@dataclass
class Args:
    """Calibrate on the validation classes, and print what it gives on the novel ones."""

    weights: str = ""
    """Model file, or a name of `segic weights list`."""
    scenes: int = 300
    """Scenes of each split and number of shots."""
    save: bool = False
    """Write the calibration into the model file's notes."""


def main(args: Args) -> None:
    """Fit on all numbers of shots together; measure each."""
    path = find(args.weights)
    segmenter = Segmenter(load_bundle(path))
    parts = [ask(segmenter, "validation", args.scenes, shots) for shots in SHOTS]
    calibration = calibrate(Asked(*map(np.concatenate, zip(*parts, strict=True))))
    print("| shots | measure | similarity alone | calibrated |\n| --- | --- | --- | --- |")
    for shots in SHOTS:
        novel = ask(segmenter, "novel", args.scenes, shots)
        scores = novel.evidence[:, EVIDENCE.index("similarity")], calibration.presence(novel.evidence)
        for name, measure in (("AUROC", auroc), ("false masks at 95 % recall", false_rate)):
            values = " | ".join(f"{measure(score, novel.there):.3f}" for score in scores)
            print(f"| {shots} | {name} | {values} |", flush=True)
        kept = calibration.presence(novel.evidence) >= calibration.least
        print(
            f"| {shots} | recall, false masks at the saved threshold | | "
            f"{kept[novel.there].mean():.3f}, {kept[~novel.there].mean():.3f} |"
        )
    if args.save:
        save(path, calibration)
        print(f"{path}: calibration saved")


def save(path: Path, calibration: Calibration) -> None:
    """Put it into the notes of a model file; its tensors stay as they are."""
    weights = read_weights(path)
    notes = weights.notes | {"presence": dataclasses.asdict(calibration)}
    write_weights(path, dataclasses.replace(weights, notes=notes))


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(tyro.cli(Args))))
