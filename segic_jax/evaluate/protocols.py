"""How predictions are compared with truth; numbers of different protocols must never be mixed.

The model always sees a target as it was trained to, on its own canvas. A protocol says at which size and
how its logits meet the truth.
"""

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool

from segic_jax.errors import ConfigError


@dataclass(frozen=True)
class Protocol:
    """One convention of the field."""

    name: str
    size: int | None  # side of the square that logits and truth are brought to; None: the target's own size
    mean_over: Literal["fold", "seen"]  # a class without an episode counts as 0, or is left out
    class_names: bool  # whether the official numbers were made with class names as text
    source: str

    def to_dict(self) -> dict:
        """For results."""
        return asdict(self) | {
            "truth": "own size" if self.size is None else f"nearest to {self.size} x {self.size}",
            "prediction": "logits, bilinear to the truth's size, above 0",
        }


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("matcher", 518, "fold", False, "Matcher main_oss.py, data/dataset.py; seed 0, no workers"),
        Protocol("insid3", 1024, "fold", False, "INSID3 inference_segmentation.py; seed 0, no workers"),
        Protocol("segic", None, "seen", True, "SegIC train.py:443-560, utils/meter.py:19-42"),
        Protocol(
            "segic-leak", None, "seen", True, "SegIC, utils/fss.py:347-353: a target may be its reference"
        ),
        Protocol("original", None, "seen", False, "this project: as segic, without class names"),
    )
}


def find_protocol(name: str) -> Protocol:
    """Raises ConfigError for a name that is none."""
    if name not in PROTOCOLS:
        raise ConfigError(f"There is no protocol {name!r}: choose one of {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]


def nearest(mask: Bool[np.ndarray, "height width"], size: int) -> Bool[np.ndarray, "size size"]:
    """To a square as torch's `interpolate(mode="nearest")`: index floor(i * in / out), in float32."""
    rows, columns = (
        np.minimum(
            np.floor(np.arange(size, dtype=np.float32) * (np.float32(side) / np.float32(size))), side - 1
        ).astype(np.intp)
        for side in mask.shape
    )
    return mask[rows[:, None], columns]
