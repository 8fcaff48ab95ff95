"""Every form of attention gives the plain one, with values and gradients, at the lengths of real canvases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType, PartitionSpec

from segic_jax.models import attention as forms

LENGTHS = (1025, 1369 + 5, 4097)  # 448 and 518 pixels with 4 registers, 896 pixels; patches and class token


def _inputs(tokens: int, *, batch: int = 1, heads: int = 1) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(tokens), 3)
    return [jax.random.normal(key, (batch, tokens, heads, 64)) for key in keys]


def _plain(q, k, v):
    """Compute softmax(q k^T / 8) v in float64."""
    q, k, v = (np.moveaxis(np.asarray(x, np.float64), -2, -3) for x in (q, k, v))
    scores = q @ np.swapaxes(k, -1, -2) / 8
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.moveaxis(weights / weights.sum(-1, keepdims=True) @ v, -3, -2)


@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize("form", ["_flash", "_head_by_head", "_query_blocks"])
def test_each_form_gives_the_plain_softmax(form, tokens):
    inputs = _inputs(tokens)
    with pltpu.force_tpu_interpret_mode():
        out = jax.jit(getattr(forms, form))(*inputs)
    np.testing.assert_allclose(out, _plain(*inputs), atol=1e-5)


@pytest.mark.parametrize("form", ["_flash", "_head_by_head", "_query_blocks"])
def test_each_form_gives_the_gradients_of_the_plain_form(form):
    def gradients(attend):
        def loss(q, k, v):
            return jnp.sin(attend(q, k, v)).sum()

        return jax.jit(jax.grad(loss, (0, 1, 2)))(*_inputs(1100, heads=2))

    expected = gradients(forms._at_once)
    with pltpu.force_tpu_interpret_mode():
        actual = gradients(getattr(forms, form))
    for gradient, plain in zip(actual, expected, strict=True):
        np.testing.assert_allclose(gradient, plain, atol=1e-5 * np.abs(plain).max())


def test_torch_gives_the_same_attention():
    torch = pytest.importorskip("torch")
    inputs = _inputs(1025, heads=2)
    tensors = [torch.from_numpy(np.array(x)).transpose(1, 2) for x in inputs]
    expected = torch.nn.functional.scaled_dot_product_attention(*tensors).transpose(1, 2).numpy()
    np.testing.assert_allclose(jax.jit(forms.attention)(*inputs), expected, atol=1e-5)


def test_each_device_of_a_mesh_runs_the_flash_kernel_on_its_rows():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    inputs = _inputs(1025, batch=2)
    with jax.set_mesh(mesh):
        program = str(jax.make_jaxpr(forms._flash)(*inputs))
        with pltpu.force_tpu_interpret_mode():
            out = jax.jit(forms._flash)(*inputs)
    assert "shard_map" in program
    assert str(PartitionSpec("data")) in program or "'data'" in program
    np.testing.assert_allclose(out, _plain(*inputs), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1025, 1, 64), (2, 3, 1025, 1, 64)])
def test_leading_dimensions_are_kept(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    with pltpu.force_tpu_interpret_mode():
        out = jax.jit(forms._flash)(x, x, x)
    np.testing.assert_allclose(out, _plain(x, x, x), atol=1e-5)
