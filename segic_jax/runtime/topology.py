"""Describe accelerators: peak rates of their data sheets, and targets that programs can be compiled for.

A target is a chip and an arrangement, such as v5e:4x4 or h100:8. Its devices exist only for the compiler
(libtpu or JAX's CUDA plugin), so that a machine without any accelerator can compile for it.
"""

import contextlib
import importlib.util
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segic_jax.errors import InputError

if TYPE_CHECKING:
    import jax

# Dense bfloat16 operations a second of one JAX device, by words of its `device_kind`; the first match counts.
# NVIDIA's data sheets give twice as much, with sparsity. Cloud TPU: cloud.google.com/tpu/docs/v6e and so on.
PEAK_FLOPS = (
    ("H200 NVL", 835e12),  # NVIDIA H200 data sheet
    ("H200", 989e12),
    ("H100 NVL", 835e12),  # NVIDIA H100 data sheet
    ("H100 PCIe", 756e12),
    ("H100", 989e12),  # SXM
    ("A100", 312e12),  # NVIDIA A100 data sheet
    ("L4", 121e12),  # NVIDIA L4 data sheet
    ("RTX 4090", 165e12),  # NVIDIA Ada architecture paper; sums in float32
    ("V100", 125e12),  # NVIDIA V100 data sheet; float16, for it has no bfloat16
    ("TPU v6 lite", 918e12),
    ("TPU v6e", 918e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5e", 197e12),
    ("TPU v5p", 459e12),
    ("TPU v5", 459e12),
    ("TPU v4", 275e12),
    ("TPU v3", 61.5e12),  # half a chip, which is two devices
    ("TPU v2", 22.5e12),  # half a chip
)
_SLOWER = {"mig", "laptop", "d"}  # a part of a card, or a slower card of nearly the same name


def peak_flops(device_kind: str) -> float | None:
    """Return the peak of one device; None where it is not known, as for a CPU."""
    words = set(re.findall(r"\w+", device_kind.lower()))
    if words & _SLOWER:
        return None
    return next((peak for name, peak in PEAK_FLOPS if set(name.lower().split()) <= words), None)


@dataclass(frozen=True)
class Chip:
    """Hold the figures of one JAX device from its maker's documents; rates are peaks a second."""

    name: str
    platform: str  # of JAX: tpu or cuda
    axes: int  # numbers of an arrangement
    memory: int  # bytes that programs can use
    memory_bandwidth: float  # bytes
    network_bandwidth: float  # bytes that leave a chip on all its links together
    float32_slowdown: float  # time of a float32 product at JAX's default precision, relative to bfloat16
    highest_slowdown: float  # the same at `Precision.HIGHEST`
    source: str
    per_host: int | None = None  # chips that the network connects; more use `host_bandwidth`
    host_bandwidth: float = 0.0  # bytes that leave a chip for another host

    @property
    def flops(self) -> float:
        """Return the bfloat16 operations a second."""
        peak = peak_flops(self.name)
        assert peak is not None
        return peak

    def slowdown(self, dtype: str, precision: str) -> float:
        """Return the time of a matrix product relative to one in bfloat16.

        Args:
            precision: DEFAULT, HIGH or HIGHEST.
        """
        if dtype != "float32":
            return 1.0
        middle = math.sqrt(self.float32_slowdown * self.highest_slowdown)
        return {"HIGHEST": self.highest_slowdown, "HIGH": middle}.get(precision, self.float32_slowdown)


_GIB = 2**30
# A TPU computes float32 products in one pass of bfloat16 by default and in six at the highest precision; an
# H100 in TF32 (494.5 TFLOP/s) and on its CUDA cores (66.9 TFLOP/s). The memory of a TPU is what its compiler
# allows a program. Cloud TPU's documents give the interconnect in both directions together, as NVIDIA does.
CHIPS = {
    "v5e": Chip(
        "TPU v5e", "tpu", 2, int(15.75 * _GIB), 819e9, 200e9, 1, 6,
        "https://docs.cloud.google.com/tpu/docs/v5e",
    ),
    "v6e": Chip(
        "TPU v6e", "tpu", 2, int(31.25 * _GIB), 1638e9, 400e9, 1, 6,
        "https://docs.cloud.google.com/tpu/docs/v6e",
    ),
    "v5p": Chip(
        "TPU v5p", "tpu", 3, int(95.74 * _GIB), 2765e9, 600e9, 1, 6,
        "https://docs.cloud.google.com/tpu/docs/v5p",
    ),
    "h100": Chip(
        "NVIDIA H100 SXM", "cuda", 1, 80 * 10**9, 3350e9, 450e9, 2, 14.8,
        "https://www.nvidia.com/en-us/data-center/h100/",
        per_host=8, host_bandwidth=50e9,  # 400 Gbit/s a GPU in a DGX H100
    ),
}  # fmt: skip
TARGETS = "v5e:AxB, v6e:AxB, v5p:AxBxC or h100:N"
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",  # ask no metadata server which TPU this machine is
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no device is used, so none has to be locked
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
_PACKAGES = {"tpu": ("libtpu",), "cuda": ("jax_cuda12_plugin", "jax_cuda13_plugin")}
_NAMES = {"tpu": "libtpu", "cuda": "JAX's CUDA plugin"}


@dataclass(frozen=True)
class Target:
    """Represent a number of chips in an arrangement."""

    chip: Chip
    kind: str  # a key of CHIPS
    shape: tuple[int, ...]  # chips along each axis

    def __str__(self) -> str:
        return f"{self.kind}:{'x'.join(map(str, self.shape))}"

    @property
    def size(self) -> int:
        """Return the number of devices."""
        return math.prod(self.shape)

    @property
    def network_bandwidth(self) -> float:
        """Return the bytes a second that leave a device in a collective over all devices."""
        chip = self.chip
        return chip.host_bandwidth if chip.per_host and self.size > chip.per_host else chip.network_bandwidth


def parse_target(text: str) -> Target:
    """Read a target such as v5e:4x4, v5p:2x2x2 or h100:8.

    Raises:
        InputError: there is no such chip, or it is not arranged like this.
    """
    kind, _, arrangement = text.strip().lower().partition(":")
    chip = CHIPS.get(kind)
    if chip is None:
        raise InputError(f"{text!r} is no known target: give {TARGETS}.")
    if not re.fullmatch(r"[1-9]\d{0,4}" + r"x[1-9]\d{0,4}" * (chip.axes - 1), arrangement):
        example = {1: "8", 2: "4x4", 3: "2x2x2"}[chip.axes]
        raise InputError(
            f"{text!r} does not say how the chips are arranged: give, for example, {kind}:{example}."
        )
    target = Target(chip, kind, tuple(map(int, arrangement.split("x"))))
    if chip.per_host and target.size > chip.per_host and target.size % chip.per_host:
        raise InputError(f"{text!r}: give up to {chip.per_host} {chip.name} or a multiple of that.")
    return target


def require_compiler(target: Target) -> None:
    """Check, without importing it, that the compiler of a target is installed.

    Raises:
        InputError: it is not.
    """
    if not any(importlib.util.find_spec(name) for name in _PACKAGES[target.chip.platform]):
        raise InputError(
            f"Compiling for {target} needs {_NAMES[target.chip.platform]}, which is not installed: "
            "pip install 'segic_jax[plan]'."
        )


def start_compilers() -> None:
    """Import JAX for compiling only; call it before anything else imports it.

    No device of this machine is used, and what the compilers' libraries say about missing ones is discarded.
    """
    os.environ |= ENVIRONMENT
    with _without_stderr():
        import jax

        jax.config.update("jax_platforms", "cpu")
        jax.devices()  # loads every plug-in


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Discard what libraries write to stderr, before any setting of theirs is read; exceptions pass."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def compile_only_devices(target: Target) -> "Sequence[jax.Device]":
    """Return the devices of a target, which can be compiled for and not run on.

    Raises:
        InputError: the compiler is missing, or knows no such arrangement.
    """
    from jax.experimental import topologies

    require_compiler(target)
    chip, arrangement = target.chip, "x".join(map(str, target.shape))
    options = {}
    if chip.platform == "cuda":
        hosts = -(-target.size // (chip.per_host or target.size))
        options = {
            "target_config": (Path(__file__).parent / f"{target.kind}.txtpb").read_text("utf-8"),
            "topology": f"1x{hosts}x{target.size // hosts}",
        }
    else:
        options = {"chips_per_host_bounds": (*(min(2, size) for size in target.shape[:2]), 1)}
    name = target.kind if chip.platform == "cuda" else f"{target.kind}:{arrangement}"
    try:
        # The warnings are about variables that a TPU's own machine sets.
        with _without_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return topologies.get_topology_desc(name, chip.platform, **options).devices
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{target} cannot be compiled for ({reason}): give another arrangement.") from error
