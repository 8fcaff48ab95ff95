"""Is the class in the picture at all? A logistic model over `finding.EVIDENCE`, fitted by
`python -m segic_jax.evaluate.presence` and kept in the notes of the model's file under "presence"."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from segic_jax.config import ConfigError
from segic_jax.finding import EVIDENCE


@dataclass(frozen=True)
class Calibration:
    """Of one model."""

    weights: Mapping[str, float]  # by name of the evidence
    bias: float
    least: float  # a class is present from this probability on

    def __post_init__(self):
        if set(self.weights) != set(EVIDENCE):
            raise ConfigError(
                "The model file's calibration of presence is of another version; make it again: "
                "python -m segic_jax.evaluate.presence --weights FILE --save"
            )

    def presence(self, evidence: Float[np.ndarray, "*n evidence"]) -> Float[np.ndarray, "*n"]:
        """Probability that the class is there, where it is there in half of the pictures."""
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
    return Calibration(**notes["presence"]) if "presence" in notes else None
