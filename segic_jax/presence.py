"""Is the class in the picture at all? A logistic model over `finding.EVIDENCE`."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from segic_jax.finding import EVIDENCE


@dataclass(frozen=True)
class Calibration:
    """Of one model; kept in the notes of its file under "presence"."""

    weights: dict[str, float]  # by name of the evidence
    bias: float
    least: float  # a class is present from this probability on

    def presence(self, evidence: Float[np.ndarray, "*n evidence"]) -> Float[np.ndarray, "*n"]:
        """Probability that the class is there; 0 where no mask was found."""
        score = evidence @ np.array([self.weights.get(name, 0.0) for name in EVIDENCE]) + self.bias
        found = evidence[..., EVIDENCE.index("area")] > 0
        return np.where(found, 1 / (1 + np.exp(-np.clip(score, -80, 80))), 0).astype(np.float32)

    def present(self, presence: Float[np.ndarray, "*n"]) -> Bool[np.ndarray, "*n"]:
        """The decision."""
        return presence >= self.least


def calibration_of(notes: dict) -> Calibration | None:
    """What the file's notes say; None where the model was never calibrated."""
    return Calibration(**notes["presence"]) if "presence" in notes else None


# For models that were never calibrated: the mask's own confidence, and no class is called absent for it.
UNCALIBRATED = Calibration({"confidence": 8.0}, -6.0, 0.0)
