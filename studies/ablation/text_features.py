"""Make text features for a model without text tower: every word is a fixed random direction.

They replace CLIP's, which the embedded model does not have. Only names that share a word have similar
features: the name of a class that was never trained on carries no information, and that of a base class can
be memorised.
"""

import zlib

import numpy as np
from jaxtyping import Float

from segic_jax.config import EMPTY_PROMPT, INSTANCE_PROMPT


def text_feature(prompt: str, width: int) -> Float[np.ndarray, " width"]:
    """Return a feature of length 1; zeros for the empty prompt."""
    if prompt == EMPTY_PROMPT:
        return np.zeros(width, np.float32)
    # Skip the words that all class prompts share: "a photo of a".
    words = [prompt] if prompt == INSTANCE_PROMPT else prompt.lower().replace("-", " ").split()[4:]
    rows = [np.random.default_rng(zlib.crc32(word.encode())).normal(size=width) for word in words]
    total = np.sum(rows, axis=0)
    return (total / np.linalg.norm(total)).astype(np.float32)
