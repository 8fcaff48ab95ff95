"""Define `segic doctor`: report what is installed, what this machine has, and how fast it will be.

No check may end the command: what cannot be found out is reported as such.
"""

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from segic_jax.config import cache_folder
from segic_jax.runtime.compile_cache import VARIABLE, compile_cache_folder, cpu_flags, use_compile_cache
from segic_jax.runtime.processors import usable_processors

LIBRARIES = (
    "jax",
    "jaxlib",
    "flax",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "orbax-checkpoint",
    "grain",
)
INSTRUCTION_SETS = {  # Linux's name, and the common one
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX-512 BF16",
    "amx_tile": "AMX",
    "amx_bf16": "AMX BF16",
    "neon": "NEON",
    "asimd": "NEON",
    "sve": "SVE",
}


@dataclass
class Doctor:
    """Report versions, devices, weights and caches, and what will be fast or slow on this machine and why.

    segic doctor
    """

    def run(self) -> int:
        """Print the report, which can be pasted into a bug report."""
        print(report())
        return 0


def report() -> str:
    """Return one line for each fact; a failed check gives a line with its error."""
    sections: list[tuple[str, Callable[[], list[str]]]] = [
        ("versions", _versions),
        ("processor", lambda: [processor()]),
        ("memory", _memory),
        ("devices", _devices),
        ("weights", _weights),
        ("programs", _programs),
        ("disk", _disk),
        ("speed", _speed),
        ("advice", _advice),
    ]
    text = []
    for name, section in sections:
        try:
            lines = section()
        except Exception as error:  # a defect of this machine is what the report is for
            lines = [f"cannot be found out: {type(error).__name__}: {' '.join(str(error).split())[:200]}"]
        text += [f"{name if not i else '':<11}{line}" for i, line in enumerate(lines)]
    return "\n".join(text)


def _versions() -> list[str]:
    from segic_jax import __version__

    return [
        f"segic_jax {__version__}, Python {platform.python_version()}, {platform.platform()}",
        ", ".join(f"{name} {_version(name)}" for name in LIBRARIES),
    ]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def processor() -> str:
    """Return the processor's name, the number of usable cores, and its vector and matrix instructions."""
    names = dict.fromkeys(INSTRUCTION_SETS[flag] for flag in cpu_flags() if flag in INSTRUCTION_SETS)
    usable = f"{usable_processors()} of {os.cpu_count()} cores usable"
    return ", ".join([_processor_name(), usable, *names])


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except (OSError, UnicodeDecodeError):
        pass
    return platform.processor() or platform.machine()


def _memory() -> list[str]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    try:  # on Linux, memory that caches would give back is free as well
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        pass
    return [f"{_bytes(total)}, {_bytes(free)} of it free"]


def _devices() -> list[str]:
    import jax

    lines = []
    for device in jax.devices():
        limit = (device.memory_stats() or {}).get("bytes_limit")
        lines.append(f"{device.id}: {device.device_kind}" + (f", {_bytes(limit)} for JAX" if limit else ""))
    return lines


def _weights() -> list[str]:
    from segic_jax.weights.catalog import DEFAULT, PACKAGED

    folder = cache_folder()
    files = sorted(folder.glob("*.safetensors"))
    lines = [
        f"{model.name}, in the package, {_bytes(model.path.stat().st_size)}"
        + (", the default" if model.name == DEFAULT else "")
        for model in PACKAGED.values()
        if model.path.is_file()
    ]
    lines += [f"{path.stem}, {_bytes(path.stat().st_size)}" for path in files]
    return [*lines, f"fetched and converted weights: {folder}" + ("" if files else " (none yet)")]


def _programs() -> list[str]:
    folder = compile_cache_folder()
    if folder is None:
        return [f"no compilation cache: {VARIABLE} is empty, so every command compiles"]
    if use_compile_cache() is None:
        return [f"no compilation cache: {folder} cannot be written to, so every command compiles"]
    sizes = [path.stat().st_size for path in folder.iterdir() if path.is_file()]
    return [f"{len(sizes)} compiled programs, {_bytes(sum(sizes))}, in {folder}"]


def _disk() -> list[str]:
    folders = {"in this folder": Path.cwd(), "for weights and compiled programs": cache_folder()}
    return [
        f"{_bytes(shutil.disk_usage(_existing(path)).free)} free {name}" for name, path in folders.items()
    ]


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def _speed() -> list[str]:
    """Estimate the least time an image takes, from a matrix product and the models' numbers of operations."""
    import jax

    from segic_jax.config import ModelConfig, ViTConfig
    from segic_jax.weights.bundle import load_bundle
    from segic_jax.weights.catalog import PACKAGED

    rate = _product_rate(1536 if jax.default_backend() == "cpu" else 8192)
    models = {
        model.name: load_bundle(model.path).config for model in PACKAGED.values() if model.path.is_file()
    }
    models |= {
        "SegIC on DINOv2-B": ModelConfig(backbone=ViTConfig.dinov2("b")),
        "SegIC on DINOv2-L": ModelConfig(backbone=ViTConfig.dinov2("l")),
    }
    lines = [f"{rate / 1e9:.0f} GFLOP/s in a float32 matrix product, measured now; an image takes"]
    for name, config in models.items():
        flops = _flops(config)
        seconds = f"{flops / rate:.3f}" if flops < rate else f"{flops / rate:.0f}"
        lines.append(f"at least {seconds} s with {name} ({flops / 1e9:.0f} GFLOP)")
    return lines


def _product_rate(side: int) -> float:
    """Return operations a second, the best of five products."""
    import jax

    matrix = jax.numpy.ones((side, side))
    product = jax.jit(lambda a: a @ a)
    product(matrix).block_until_ready()
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        product(matrix).block_until_ready()
        seconds.append(time.perf_counter() - begin)
    return 2 * side**3 / min(seconds)


def _flops(config) -> int:
    """Count the operations for one image and one concept."""
    import jax
    import numpy as np
    from jax import ShapeDtypeStruct as Shape

    from segic_jax.models import encoding, segic
    from segic_jax.models.backbones import backbone_template
    from segic_jax.models.head import head_template
    from segic_jax.train.flops import count_flops

    side, width = config.canvas, config.backbone.width
    context = encoding.Prototypes(
        pooled=Shape((1, 1, width), np.float32),
        visual=Shape((1, 1, 1, width), np.float32),
        visual_valid=Shape((1, 1, 1), bool),
        text=Shape((1, 1, config.text_width), np.float32),
    )
    backbone = backbone_template(config.backbone).shapes
    head = head_template(config).shapes
    images, sizes = Shape((1, side, side, 3), np.uint8), Shape((1, 2), np.int32)
    features = jax.eval_shape(partial(encoding.extract, config), backbone, images, sizes)
    return count_flops(partial(encoding.extract, config), backbone, images, sizes) + count_flops(
        partial(segic.decode, config), head, features, context
    )


def _advice() -> list[str]:
    import jax

    lines = []
    if jax.default_backend() == "cpu":
        if any(Path("/dev").glob("nvidia[0-9]*")):
            lines.append("There is an NVIDIA GPU, but this JAX cannot use it: pip install -U 'jax[cuda13]'")
        elif sys.platform == "linux" and platform.machine() == "x86_64" and "avx512f" not in cpu_flags():
            lines.append("This processor has neither AVX-512 nor AMX: matrix products use AVX2 or less.")
        lines.append("DINOv2-B and larger need an accelerator; the models in the package do not.")
    if usable_processors() < (os.cpu_count() or 1):
        lines.append(f"This process may use only {usable_processors()} of {os.cpu_count()} cores.")
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > 0.7 * usable_processors():
        lines.append(f"Other programs use the processor (load {load:.1f}): the speed above is too low.")
    if shutil.disk_usage(_existing(cache_folder())).free < 5e9:
        lines.append(f"Little disk space is left in {cache_folder()}: set SEGIC_CACHE to another folder.")
    lines.append("The first command with a model compiles its programs; later commands reuse them.")
    return lines


def _bytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
