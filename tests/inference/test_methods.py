"""Test the choice of a method of segmentation."""

import pytest
import tiny

from segic_jax.errors import ConfigError
from segic_jax.inference.methods import load_model, make_engine


@pytest.mark.usefixtures("unchecked_types")
def test_an_unknown_method_is_refused():
    for name in ("float32", "SEGIC", None):
        with pytest.raises(ConfigError, match=rf"no method {name!r}: choose one of segic, training_free, "):
            load_model("model.safetensors", name)
        with pytest.raises(ConfigError, match="no method"):
            make_engine(tiny.bundle(), name)
