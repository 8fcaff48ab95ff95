"""After the device: what negatives take away, and whether each class is in the image at all.

Presence is a logistic model over EVIDENCE, fitted by `segic calibrate` and kept in the
notes of the model's file under "presence".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float

from segic_jax.data.preprocess import resize
from segic_jax.errors import ConfigError
from segic_jax.inference.matching import INSIDE, OUTSIDE, ConceptMatches

EVIDENCE = (
    "similarity",  # the largest cosine to the mean feature of the examples
    "inside",  # its mean inside the predicted mask
    "confidence",  # mean probability inside the mask
    "match",  # mean cosine, inside the mask, to the best cell of the object in the references
    "margin",  # the same less the cosine to the best other cell, a negative's among them
    "cycle",  # share of the mask whose best cell in the references is one of the object's
    "mutual",  # share of the object's reference cells whose best cell in the target matches back to them
    "area",  # share of the image
    "shots",  # 1 / their number: the mean feature of several is more like everything
)
# A negative takes a place where its logit, and GAP for each unit of cosine by which its cells match better,
# are more than MARGIN above the class's. Chosen on the validation classes (`evaluate.negatives`).
GAP, MARGIN = 10.0, 0.5


def refused(
    logits: Float[np.ndarray, "side side"],
    negative: Float[np.ndarray, "side side"],
    gap: Float[np.ndarray, "g g"],
) -> Float[np.ndarray, "side side"]:
    """The logits of a class after a negative has taken what is rather its own.

    Args:
        negative: logits of the negative as a class of its own.
        gap: by how much each cell matches the negative better than the class.
    """
    smooth = cv2.blur(gap.astype(np.float32), (3, 3))
    wins = negative - logits - MARGIN + GAP * resize(smooth, logits.shape)
    return np.where((negative > 0) & (wins > 0), np.minimum(logits, -wins), logits)


def settle(
    found: ConceptMatches,
    against: Sequence[Sequence[int]],
    shots: Sequence[int],
    on_image: Bool[np.ndarray, "g g"],
) -> tuple[Float[np.ndarray, "concepts side side"], Float[np.ndarray, "concepts evidence"]]:
    """Final logits and evidence of every class on one target.

    Args:
        found: of one target, without the batch axis; the negatives' rows come after those of the classes.
        against: for each class, the rows of the negatives that speak against it.
        shots: positive examples of each class.
        on_picture: the cells that are no padding.
    """
    logits, evidence = [], []
    for row, (negatives, count) in enumerate(zip(against, shots, strict=True)):
        own = found.matched[row, INSIDE]
        values, other = found.logits[row], found.matched[row, OUTSIDE]
        for negative in negatives:
            theirs = found.matched[negative, INSIDE]
            values = refused(values, found.logits[negative], theirs - own)
            other = np.maximum(other, theirs)
        logits.append(values)
        known = {"mutual": found.mutual[row], "shots": 1 / count}
        evidence.append(_evidence(values, found.similarity[row], own, other, on_image, known))
    return np.stack(logits), np.array(evidence, np.float32)


def _evidence(logits, similarity, own, other, on_image, known) -> list[float]:
    grid = len(on_image)
    probability = 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
    probability = cv2.resize(probability, (grid, grid), interpolation=cv2.INTER_AREA)
    inside = (probability > 0.5) & on_image
    area = max(int(inside.sum()), 1)
    values = known | {
        "similarity": similarity[on_image].max(),
        "inside": similarity[inside].sum() / area,
        "confidence": probability[inside].sum() / area,
        "match": own[inside].sum() / area,
        "margin": (own - other)[inside].sum() / area,
        "cycle": (own > other)[inside].sum() / area,
        "area": inside.sum() / on_image.sum(),
    }
    return [float(values[name]) for name in EVIDENCE]


_ANOTHER = (
    "The model file's calibration of presence is of another version; make it again: "
    "segic calibrate --weights FILE --save"
)


@dataclass(frozen=True)
class Calibration:
    """Of one model."""

    weights: Mapping[str, float]  # by name of the evidence
    bias: float
    least: float  # a class is present from this probability on

    def __post_init__(self):
        if set(self.weights) != set(EVIDENCE):
            raise ConfigError(_ANOTHER)

    def presence(self, evidence: Float[np.ndarray, "*n evidence"]) -> Float[np.ndarray, "*n"]:
        """Probability that the class is there, where it is there in half of the images."""
        score = evidence @ np.array([self.weights[name] for name in EVIDENCE]) + self.bias
        return (1 / (1 + np.exp(-np.clip(score, -80, 80)))).astype(np.float32)


def judged(
    calibration: Calibration | None, evidence: Float[np.ndarray, "concepts evidence"]
) -> tuple[Float[np.ndarray, " concepts"], Bool[np.ndarray, " concepts"]]:
    """Presence 0..1, and whether each class counts as present; an empty mask gives 0.

    Without a calibration the presence is the mask's own mean probability, and no class is called absent.
    """
    found = evidence[:, EVIDENCE.index("area")] > 0
    if calibration is None:
        presence = evidence[:, EVIDENCE.index("confidence")]
        return np.where(found, presence, 0).astype(np.float32), np.ones(len(evidence), bool)
    presence = np.where(found, calibration.presence(evidence), 0).astype(np.float32)
    return presence, presence >= calibration.least


def calibration_of(notes: Mapping) -> Calibration | None:
    """What a model file's notes say; None where the model was never calibrated.

    Raises:
        ConfigError: a calibration of another version.
    """
    if "presence" not in notes:
        return None
    try:
        return Calibration(**notes["presence"])
    except TypeError as error:  # other fields than today's
        raise ConfigError(_ANOTHER) from error
