"""Check that the test suite checks the package's annotations while it runs."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from segic_jax.data.preprocess import resize_and_pad
from segic_jax.models.correspondence import pool

IMAGE, MASKS = np.zeros((6, 4, 3), np.uint8), np.zeros((1, 6, 4), bool)
FEATURES = np.zeros((1, 2, 2, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "parameter"),
    [
        (lambda: resize_and_pad(IMAGE.astype(np.float32), MASKS, 8), "image"),
        (lambda: resize_and_pad(IMAGE[..., 0], MASKS, 8), "image"),
        (lambda: resize_and_pad(IMAGE, MASKS[:, 1:], 8), "masks"),
        (lambda: resize_and_pad(IMAGE, MASKS, 8.5), "canvas"),
        (lambda: pool(FEATURES.astype(int), MASKS), "features"),
        (lambda: pool(FEATURES, MASKS), "masks"),  # they are square
    ],
)
def test_a_wrong_array_is_refused(call, parameter):
    with pytest.raises(TypeCheckError, match=f"typechecking parameter '{parameter}'"):
        call()


@pytest.mark.usefixtures("unchecked_types")
def test_a_test_can_leave_the_checks_out():
    assert resize_and_pad(IMAGE, MASKS, np.int64(8)).image.shape == (8, 8, 3)
