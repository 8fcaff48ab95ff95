"""Make reference batches from the goldens, which hold them in PyTorch's layout."""

import jax.numpy as jnp
import numpy as np

from segic_jax.models import encoding


def channels_last(array):
    """Return an NCHW array as NHWC."""
    return jnp.moveaxis(jnp.asarray(array), 1, -1)


def references(images, sizes, masks, image_index, text):
    """Return a batch of one with one shot for each concept."""
    return encoding.ReferenceBatch(
        images=channels_last(images)[None],
        sizes=jnp.asarray(sizes)[None],
        masks=jnp.asarray(masks)[None, :, None],
        image_index=jnp.asarray(image_index)[None, :, None],
        valid=jnp.ones((1, len(masks), 1), bool),
        text=jnp.asarray(text)[None],
    )


def golden_references(g):
    """Return the reference batch of a golden file."""
    masks = g["in.label_dual"] / 255 > 0.5
    return references(
        g["in.image_dual"],
        g["in.ori_size_dual"],
        masks,
        np.zeros(len(masks), int),
        np.repeat(g["mid.text_features"][:1], len(masks), axis=0),
    )
