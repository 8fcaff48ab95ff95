"""Apply negatives to the logits of a target, and decide whether each class is in the image at all.

This runs on the host, after the device. Presence is a logistic model over EVIDENCE, fitted by
`segic calibrate` and kept in the notes of the model's file, one for each method.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Bool, Float

from segic_jax.config import Method
from segic_jax.data.preprocess import resize
from segic_jax.errors import ConfigError
from segic_jax.inference.matching import INSIDE, OUTSIDE, ConceptMatches

EVIDENCE = (
    "similarity",  # the largest cosine to the prototype of the class
    "inside",  # its mean inside the predicted mask
    "confidence",  # mean probability inside the mask
    "match",  # mean cosine, inside the mask, to the best patch of the object in the references
    "margin",  # the same less the cosine to the best other patch, those of negatives included
    "cycle",  # share of the mask whose best patch in the references is one of the object's
    "mutual",  # share of the object's reference patches whose best patch in the target matches back to them
    "area",  # share of the image
    "shots",  # 1 / their number: the mean feature of several is more like everything
)
# A negative lowers the logit of its class where its own logit, plus GAP times the cosine by which its patches
# match better, exceeds it by more than MARGIN. Chosen on the validation classes (`studies.negatives`).
GAP, MARGIN = 10.0, 0.5
NOTE: dict[Method, str] = {"segic": "presence", "training_free": "presence_training_free"}
_OLD_CALIBRATION = (
    "The model file's calibration of presence is of another version; make it again: "
    "segic calibrate --weights FILE --save"
)


def apply_negative(
    logits: Float[np.ndarray, "side side"],
    negative: Float[np.ndarray, "side side"],
    gap: Float[np.ndarray, "g g"],
) -> Float[np.ndarray, "side side"]:
    """Return the logits of a class, lowered where a negative fits better.

    Args:
        negative: logits of the negative as a class of its own.
        gap: by how much each patch matches the negative better than the class, in cosine.
    """
    smooth = cv2.blur(gap.astype(np.float32), (3, 3))
    excess = negative - logits - MARGIN + GAP * resize(smooth, logits.shape)
    return np.where((negative > 0) & (excess > 0), np.minimum(logits, -excess), logits)


def apply_negatives(
    matches: ConceptMatches,
    negatives: Sequence[Sequence[int]],
    shots: Sequence[int],
    on_image: Bool[np.ndarray, "g g"],
) -> tuple[Float[np.ndarray, "classes side side"], Float[np.ndarray, "classes evidence"]]:
    """Return the final logits and the evidence of every class on one target.

    Args:
        matches: of one target, without the batch axis; the rows of negatives come after those of the classes.
        negatives: for each class, the rows of its negatives.
        shots: how many positive examples each class has.
        on_image: the patches that are not padding.
    """
    all_logits, evidence = [], []
    for row, (rows, count) in enumerate(zip(negatives, shots, strict=True)):
        inside, outside = matches.matched[row, INSIDE], matches.matched[row, OUTSIDE]
        logits = matches.logits[row]
        for negative in rows:
            gap = matches.matched[negative, INSIDE] - inside
            logits = apply_negative(logits, matches.logits[negative], gap)
            outside = np.maximum(outside, matches.matched[negative, INSIDE])
        all_logits.append(logits)
        values = _mask_evidence(logits, matches.similarity[row], inside, outside, on_image)
        values |= {"mutual": matches.mutual[row], "shots": 1 / count}
        evidence.append([float(values[name]) for name in EVIDENCE])
    return np.stack(all_logits), np.array(evidence, np.float32)


def _mask_evidence(logits, similarity, inside, outside, on_image) -> dict:
    grid = len(on_image)
    probability = 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
    probability = cv2.resize(probability, (grid, grid), interpolation=cv2.INTER_AREA)
    mask = (probability > 0.5) & on_image
    area = max(int(mask.sum()), 1)
    return {
        "similarity": similarity[on_image].max(),
        "inside": similarity[mask].sum() / area,
        "confidence": probability[mask].sum() / area,
        "match": inside[mask].sum() / area,
        "margin": (inside - outside)[mask].sum() / area,
        "cycle": (inside > outside)[mask].sum() / area,
        "area": mask.sum() / on_image.sum(),
    }


@dataclass(frozen=True)
class Calibration:
    """Hold the calibration of presence of one model and method."""

    weights: Mapping[str, float]  # by name of the evidence
    bias: float
    least: float  # a class is present from this probability on
    settings: Mapping = field(default_factory=dict)  # of the method: the fit holds for no others

    def __post_init__(self):
        if set(self.weights) != set(EVIDENCE):
            raise ConfigError(_OLD_CALIBRATION)

    def presence(self, evidence: Float[np.ndarray, "*n evidence"]) -> Float[np.ndarray, "*n"]:
        """Return the probability that a class is present, assuming that half of all images show it."""
        score = evidence @ np.array([self.weights[name] for name in EVIDENCE]) + self.bias
        return (1 / (1 + np.exp(-np.clip(score, -80, 80)))).astype(np.float32)


def decide_presence(
    calibration: Calibration | None, evidence: Float[np.ndarray, "classes evidence"]
) -> tuple[Float[np.ndarray, " classes"], Bool[np.ndarray, " classes"]]:
    """Return the presence of each class, 0..1, and whether it counts as present; an empty mask gives 0.

    Without a calibration the presence is the mean probability inside the mask, and every class with a mask is
    present.
    """
    not_empty = evidence[:, EVIDENCE.index("area")] > 0
    if calibration is None:
        confidence = evidence[:, EVIDENCE.index("confidence")]
        return np.where(not_empty, confidence, 0).astype(np.float32), not_empty
    presence = np.where(not_empty, calibration.presence(evidence), 0).astype(np.float32)
    return presence, presence >= calibration.least


def read_calibration(
    notes: Mapping, method: Method = "segic", settings: Mapping | None = None
) -> Calibration | None:
    """Read the calibration of a method from the notes of a model file.

    Args:
        settings: of the method, if it has any.

    Returns:
        The calibration; None where the model was never calibrated for this method and these settings.

    Raises:
        ConfigError: it is of another version.
    """
    if NOTE[method] not in notes:
        return None
    try:
        calibration = Calibration(**notes[NOTE[method]])
    except TypeError as error:  # other fields than today's
        raise ConfigError(_OLD_CALIBRATION) from error
    return calibration if calibration.settings == (settings or {}) else None
