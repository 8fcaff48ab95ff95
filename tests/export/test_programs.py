"""Test the exported programs as functions: they give what the API gives."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from exported import REFERENCES, TARGETS, compare, expect, extended_bundle, make_inputs

from segic_jax.errors import ConfigError
from segic_jax.export.programs import make_programs, with_batch
from segic_jax.inference.segmenter import Segmenter


@pytest.mark.parametrize("make", [tiny.bundle, extended_bundle])
def test_programs_give_what_the_api_gives(make):
    bundle = make()
    encode, segment = (jax.jit(program.function) for program in make_programs(bundle))
    inputs = make_inputs(bundle.config.canvas, REFERENCES, TARGETS)
    encoded = jax.tree.map(np.asarray, encode(*inputs[:3]))
    segmented = jax.tree.map(np.asarray, segment(inputs.targets, inputs.target_sizes, *encoded))
    compare(expect(Segmenter(bundle), REFERENCES, TARGETS), encoded, segmented)


def test_ports_describe_the_functions():
    bundle = tiny.bundle()
    for program in make_programs(bundle):
        ports = [
            port._replace(shape=tuple(3 if size == "classes" else size for size in port.shape))
            for port in program.inputs
        ]
        specs = [jax.ShapeDtypeStruct(port.shape, port.dtype) for port in with_batch(ports, 2)]
        outputs = jax.eval_shape(program.function, *specs)
        assert len(outputs) == len(program.outputs)
        for value, port in zip(outputs, with_batch(program.outputs, 2), strict=True):
            assert value.shape == tuple(3 if size == "classes" else size for size in port.shape)
            assert value.dtype == port.dtype


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_backbone_may_be_rounded(precision):
    bundle = tiny.bundle()
    inputs = make_inputs(bundle.config.canvas, REFERENCES, TARGETS)
    exact, rounded = (
        jax.jit(make_programs(bundle, chosen)[0].function)(*inputs[:3])[0]
        for chosen in ("float32", precision)
    )
    assert rounded.dtype == np.float32
    difference = np.abs(np.asarray(exact) - np.asarray(rounded)).max()
    assert 0 < difference < 0.05 * np.abs(exact).max()


def test_weights_that_float16_cannot_hold_are_refused():
    bundle = tiny.bundle()
    name, value = next(iter(bundle.backbone.items()))
    bundle = dataclasses.replace(bundle, backbone=bundle.backbone | {name: np.full_like(value, 1e5)})
    with pytest.raises(ConfigError, match="float16 cannot hold"):
        make_programs(bundle, "float16")
