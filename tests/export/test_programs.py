"""Test the exported programs as functions: they give what the API gives."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from exported import REFERENCES, TARGETS, calibrated, compare, expect, extended_bundle, make_inputs

from segic_jax.errors import ConfigError
from segic_jax.export.presence_program import kept_patches
from segic_jax.export.programs import make_programs, with_batch
from segic_jax.inference.context import subsample
from segic_jax.inference.example import Example
from segic_jax.inference.matching import PATCHES, PooledReference
from segic_jax.inference.segmenter import Segmenter


@pytest.mark.parametrize("make", [tiny.bundle, extended_bundle, lambda: calibrated(extended_bundle())])
def test_programs_give_what_the_api_gives(make):
    bundle = make()
    encode, segment = (jax.jit(program.function) for program in make_programs(bundle))
    inputs = make_inputs(bundle.config.canvas, REFERENCES, TARGETS)
    encoded = jax.tree.map(np.asarray, encode(*inputs[:3]))
    shots = [np.ones(len(REFERENCES), np.int32)] * (len(encoded) > 2)
    segmented = jax.tree.map(np.asarray, segment(inputs.targets, inputs.target_sizes, *encoded, *shots))
    compare(expect(Segmenter(bundle), REFERENCES, TARGETS), encoded, segmented)


@pytest.mark.parametrize("make", [tiny.bundle, lambda: calibrated(tiny.bundle())])
def test_ports_describe_the_functions(make):
    bundle = make()
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


def merge_patches(patches: np.ndarray) -> np.ndarray:
    """Put patches of several references of a class together, as `presence` in the manifest says."""
    merged = np.zeros_like(patches[0])
    for kind, rows in enumerate(np.swapaxes(patches, 0, 1)):
        kept = rows.reshape(-1, rows.shape[-1])
        kept = kept[kept.any(-1)]
        count, most = len(kept), len(merged[kind])
        kept = kept[np.arange(most) * count // most] if count > most else kept
        merged[kind, : len(kept)] = kept
    return merged


def test_several_references_of_a_class_give_the_presence_of_the_api():
    bundle = calibrated(tiny.bundle())
    encode, segment = (jax.jit(program.function) for program in make_programs(bundle))
    inputs = make_inputs(bundle.config.canvas, REFERENCES, TARGETS)
    prototypes, text, patches = map(np.asarray, encode(*inputs[:3]))
    merged = prototypes.mean(0, keepdims=True), text[:1], merge_patches(patches)[None]
    shots = np.array([len(REFERENCES)], np.int32)
    presence = np.asarray(segment(inputs.targets, inputs.target_sizes, *merged, shots)[3])
    segmenter = Segmenter(bundle)
    context = segmenter.fit([Example(image, mask, name="disk") for image, mask in REFERENCES])
    expected = [segmenter.predict(image, context).presence for image, _ in TARGETS]
    np.testing.assert_allclose(presence, expected, atol=1e-3)


def test_patches_are_spread_as_the_api_spreads_them():
    random, side = np.random.default_rng(0), 20
    features = random.normal(size=(side, side, 4)).astype(np.float32)
    for share in (0, 0.2, 0.5, 1):
        inside = random.random((side, side)) < share
        pooled = PooledReference(np.zeros(4, np.float32), inside, np.ones((side, side), bool))
        kept = np.asarray(kept_patches(jnp.asarray(features), jax.tree.map(jnp.asarray, pooled)))
        for rows, selected in zip(kept, (inside, ~inside), strict=True):
            at = np.argwhere(selected)
            at = at[subsample(np.arange(len(at)), PATCHES)]
            expected = features[at[:, 0], at[:, 1]]
            expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
            np.testing.assert_allclose(rows[: len(at)], expected, atol=1e-3)
            assert not rows[len(at) :].any()
