"""Hold what a backbone gives for images: features of patches, and finer levels where it has them."""

from typing import NamedTuple

from jaxtyping import Float

from segic_jax.models.params import AnyArray


class Features(NamedTuple):
    """Hold the features of images on the canvas, not of unit length.

    Similarity, prototypes and the neck read the patches; the finer levels are for the decoding of masks.
    """

    patches: Float[AnyArray, "*images g g channels"]
    # Coarse to fine, of 2 g, then 4 g positions a side; `fine_widths` of the backbone's configuration.
    fine: tuple[Float[AnyArray, "*images side side channels"], ...] = ()
