"""The official checkpoint (segic_official.pth.gz) through our reader, against the same weights elsewhere."""

import jax
import numpy as np

from segic_jax.parity.goldens import Goldens
from segic_jax.parity.table import Checker, Row, max_abs_error


def replay_checkpoint(golden: Goldens, check: Checker, dtype: jax.typing.DTypeLike) -> None:
    """One row for all tensors: each equals the one of that name in segic.safetensors."""
    expected = golden.weights("segic")
    errors = [
        max_abs_error(tensor, expected[name]) if name in expected else np.nan
        for name, tensor in golden.weights("segic_official").items()
    ]
    error = float(np.max(errors)) if errors else float("nan")  # NaN if one is NaN
    check.rows.append(Row(check.file, f"{len(errors)} tensors", error, 0.0, error == 0))
