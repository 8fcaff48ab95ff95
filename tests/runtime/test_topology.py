"""Targets, and the figures of their chips."""

import subprocess
import sys
from pathlib import Path

import pytest
from requirements import require_module

from segic_jax.errors import InputError
from segic_jax.runtime import topology
from segic_jax.runtime.topology import CHIPS, compile_only_devices, parse_target

ROOT = Path(__file__).parents[2]


def test_targets():
    target = parse_target("v5p:2x2x4")
    assert (target.size, target.chip.name, str(target)) == (16, "TPU v5p", "v5p:2x2x4")
    assert parse_target(" H100:8").shape == (8,)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "'' is no known target: give v5e:AxB, v6e:AxB, v5p:AxBxC or h100:N."),
        ("v4:2x2", "'v4:2x2' is no known target: give v5e:AxB, v6e:AxB, v5p:AxBxC or h100:N."),
        ("v5e", "'v5e' does not say how the chips are arranged: give, for example, v5e:4x4."),
        ("v5e:4x4x4", "'v5e:4x4x4' does not say how the chips are arranged: give, for example, v5e:4x4."),
        ("v5p:0x2x2", "'v5p:0x2x2' does not say how the chips are arranged: give, for example, v5p:2x2x2."),
        ("h100:4x2", "'h100:4x2' does not say how the chips are arranged: give, for example, h100:8."),
        ("h100:12", "'h100:12': give up to 8 NVIDIA H100 SXM or a multiple of that."),
    ],
)
def test_wrong_targets(text, sentence):
    with pytest.raises(InputError) as error:
        parse_target(text)
    assert str(error.value) == sentence


def test_the_figures_of_the_chips():
    assert {name: chip.flops for name, chip in CHIPS.items()} == {
        "v5e": 197e12, "v6e": 918e12, "v5p": 459e12, "h100": 989e12,
    }  # fmt: skip
    chip = CHIPS["h100"]
    assert [chip.slowdown("bfloat16", "HIGHEST"), chip.slowdown("float32", "DEFAULT")] == [1, 2]
    assert parse_target("h100:16").network_bandwidth < parse_target("h100:8").network_bandwidth


def test_a_missing_compiler(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs libtpu, which is not installed: pip install"):
        compile_only_devices(parse_target("v5e:2x2"))


@pytest.mark.compilers
@pytest.mark.parametrize(
    ("package", "text", "kind"),
    [
        ("libtpu", "v6e:2x4", "TPU v6 lite"),
        ("libtpu", "v5e:1x1", "TPU v5 lite"),
        ("jax_cuda12_plugin", "h100:8", "NVIDIA H100 80GB HBM3"),
    ],
)
def test_devices_to_compile_for(package, text, kind):
    """In a process of its own: a plug-in looks for devices as soon as JAX starts. Nothing is said of them."""
    require_module(package)
    code = (
        "from segic_jax.runtime import topology as t; t.start_compilers();"
        f"devices = t.compile_only_devices(t.parse_target('{text}'));"
        "print(len(devices), devices[0].device_kind)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (ran.stdout, ran.stderr) == (f"{parse_target(text).size} {kind}\n", "")


@pytest.mark.compilers
def test_an_arrangement_that_no_chip_has(monkeypatch):
    require_module("libtpu")
    for name, value in topology.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="v5e:3x3 cannot be compiled for"):
        compile_only_devices(parse_target("v5e:3x3"))
