"""Write a program as StableHLO, by `jax.export`: a file for CPUs, CUDA and TPUs, which JAX alone runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax import export

from segic_jax.export.programs import Port, Program, input_specs
from segic_jax.models.portable import portable_operations

PLATFORMS = ("cpu", "cuda", "tpu")


def write_stablehlo(program: Program, inputs: Sequence[Port], folder: Path) -> list[Path]:
    """Write NAME.stablehlo, which `jax.export.deserialize` reads, and return its path."""
    with portable_operations("xla"):  # a kernel of one platform cannot be in a program for several
        exported = export.export(jax.jit(program.function), platforms=PLATFORMS)(*input_specs(inputs))
    path = folder / f"{program.name}.stablehlo"
    path.write_bytes(exported.serialize())
    return [path]


def describe_stablehlo() -> dict[str, Any]:
    """Return what the manifest says about the format."""
    return {
        "name": "stablehlo",
        "platforms": list(PLATFORMS),
        "jax": jax.__version__,
        "calling_convention": export.maximum_supported_calling_convention_version,
        "read_with": "jax.export.deserialize(bytes).call(*inputs in order)",
        "compatibility": "JAX reads it for at least six months after its own release date; see "
        "docs.jax.dev, Exporting and serializing, Compatibility guarantees",
    }
