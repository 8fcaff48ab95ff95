"""Take positions out of features: what a blank image gives depends on nothing else (insid3.py:234-261)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from segic_jax.models.layers import l2_normalise
from segic_jax.models.params import AnyArray

EPSILON = 1e-12  # least norm, as torch's `normalize`


def unit_patches(patches: Float[AnyArray, "*batch g g channels"]) -> Float[Array, "*batch patches channels"]:
    """Return features of patches in reading order, of unit length."""
    return l2_normalise(patches.reshape(*patches.shape[:-3], -1, patches.shape[-1]), EPSILON)


def positional_basis(
    blank: Float[np.ndarray, "g g channels"], components: int
) -> Float[np.ndarray, "channels components"]:
    """Return the directions in which the patches of a blank image differ most, the strongest first.

    They are the first left singular vectors of the centred features, from the eigenvectors of the
    covariance in float64.
    """
    flat = blank.reshape(-1, blank.shape[-1]).astype(np.float64)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), EPSILON)
    flat -= flat.mean(0)
    _, vectors = np.linalg.eigh(flat.T @ flat)
    return vectors[:, ::-1][:, :components].astype(np.float32)


def debias(
    unit: Float[AnyArray, "*batch channels"], basis: Float[AnyArray, "channels components"]
) -> Float[Array, "*batch channels"]:
    """Return features without their part in the directions of `basis`, again of unit length."""
    if not basis.shape[1]:
        return jnp.asarray(unit)
    return l2_normalise(unit - (unit @ basis) @ basis.T, EPSILON)
