"""Programs for TPUs and GPUs never hold the scores of all pairs of tokens."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from requirements import require_module

from segic_jax.config import ViTConfig
from segic_jax.models.backbones import backbone_template
from segic_jax.runtime.topology import ENVIRONMENT, compile_only_devices, parse_target

pytestmark = pytest.mark.compilers
CANVAS = 896
TOKENS = (CANVAS // 14) ** 2 + 1
TARGETS = (
    ("libtpu", "v5e:2x2", jnp.bfloat16),
    ("libtpu", "v5e:2x2", jnp.float32),
    ("libtpu", "v6e:2x2", jnp.bfloat16),
    ("jax_cuda12_plugin", "h100:2", jnp.bfloat16),
    ("jax_cuda12_plugin", "h100:2", jnp.float32),
)


@pytest.fixture(autouse=True)
def _no_device(monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def compiled_text(target: str, dtype) -> str:
    """Compile a block of DINOv2-L for the devices of a target, an image on each."""
    devices = np.array(compile_only_devices(parse_target(target)))
    mesh = Mesh(devices.reshape(-1), ("data",), axis_types=(AxisType.Auto,))
    template = backbone_template(dataclasses.replace(ViTConfig.dinov2("l"), depth=1))

    def sharded(shape, *axes):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*axes)))

    params = {name: sharded(spec.shape) for name, spec in template.shapes.items()}
    images = sharded((devices.size, CANVAS, CANVAS, 3), "data")
    with jax.set_mesh(mesh):
        lowered = jax.jit(lambda params, images: template.bind(params)(images).patches).lower(params, images)
    return lowered.compile().as_text()


def buffers(text: str) -> set[tuple[int, ...]]:
    """Return the shapes of all arrays of a compiled program."""
    return {tuple(map(int, dims.split(","))) for dims in re.findall(r"\w\[(\d+(?:,\d+)+)\]", text)}


@pytest.mark.parametrize(("compiler", "target", "dtype"), TARGETS)
def test_no_array_holds_the_scores_of_all_tokens(compiler, target, dtype):
    require_module(compiler)
    text = compiled_text(target, dtype)
    shapes = buffers(text)
    assert any(TOKENS in shape for shape in shapes)  # the pattern finds the activations
    tokens = range(TOKENS, TOKENS + 1024)  # padding included; the hidden layer of the MLP is 4096 wide
    assert [shape for shape in shapes if sum(side in tokens for side in shape) > 1] == []
    if target.startswith("v"):
        assert "flash_attention" in text
    elif dtype == jnp.bfloat16:
        assert "cudnn" in text
