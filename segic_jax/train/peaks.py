"""How fast a device can be, from its vendor's data sheet: what FLOP/s are measured against."""

import re

# Dense bfloat16 operations a second of one JAX device, by words of its `device_kind`; the first that fits.
# NVIDIA's sheets give twice as much, with sparsity. Cloud TPU: cloud.google.com/tpu/docs/v6e and so on.
PEAKS = (
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
_LESS = {"mig", "laptop", "d"}  # a part of a card, or a slower one of nearly the same name


def peak_flops(device_kind: str) -> float | None:
    """Of one device; None where it is not known, as for a CPU."""
    words = set(re.findall(r"\w+", device_kind.lower()))
    if words & _LESS:
        return None
    return next((peak for name, peak in PEAKS if set(name.lower().split()) <= words), None)
