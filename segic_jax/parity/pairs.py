"""Read the pairs of a dump as a user has them: images at their own size, the masks of a reference, a name."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from segic_jax.data.preprocess import resize
from segic_jax.parity.dump import Dump, read_pair

TIE = 1e-3  # logits of torch that may be on the other side of 0


@dataclass(frozen=True, eq=False)
class Pair:
    """Hold what is read of one pair of a dump."""

    file: str
    name: str  # of the class; "" for none
    instances: bool  # the masks are objects that are decoded together
    image: UInt8[np.ndarray, "height width 3"]  # the target
    reference: UInt8[np.ndarray, "_ _ 3"]
    masks: Bool[np.ndarray, "objects _ _"]  # of the reference
    torch_logits: Float[np.ndarray, "objects height width"]  # at the size of the target


def load_pair(dump: Dump, number: int) -> Pair:
    """Read one pair."""
    arrays, entry = read_pair(dump, number), dump.manifest["pairs"][number]
    image, reference = (_channels_last(arrays[f"in.orig_image{end}"]) for end in ("", "_dual"))
    return Pair(
        file=str(entry["file"]),
        name=str(entry.get("class_name") or ""),
        instances=bool(entry.get("instances")),
        image=image,
        reference=reference,
        masks=arrays["in.orig_label_dual"] > 127,
        torch_logits=resize(arrays["out.masks"][:, 0].astype(np.float32), image.shape[:2]),
    )


def _channels_last(planes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(planes, 0, -1))
