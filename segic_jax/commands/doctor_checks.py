"""What is installed, what this machine has, and what will be fast or slow on it. Nothing here may fail."""

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from segic_jax.config import cache_folder
from segic_jax.runtime.compile_cache import VARIABLE, compile_cache_folder, cpu_flags, use_compile_cache

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
SPECIAL = {  # what Linux calls it, and what people do
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX-512 BF16",
    "amx_tile": "AMX",
    "amx_bf16": "AMX BF16",
    "neon": "NEON",
    "asimd": "NEON",
    "sve": "SVE",
}


def report() -> str:
    """One line a fact, with a sentence in place of what cannot be found out."""
    sections: list[tuple[str, Callable[[], list[str]]]] = [
        ("versions", _versions),
        ("processor", lambda: [processor()]),
        ("memory", _memory),
        ("devices", _devices),
        ("weights", _weights),
        ("programs", _programs),
        ("disk", _disk),
        ("speed", _speed),
        ("mind", _advice),
    ]
    text = []
    for name, section in sections:
        try:
            lines = section()
        except Exception as error:  # whatever is broken on this machine is what the report is for
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
    """Its name, how many of its cores this process may use, and the special instructions it has."""
    names = dict.fromkeys(SPECIAL[flag] for flag in cpu_flags() if flag in SPECIAL)
    usable = f"{_usable_cores()} of {os.cpu_count()} cores usable"
    return ", ".join([_processor_name(), usable, *names])


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except (OSError, UnicodeDecodeError):
        pass
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> list[str]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    try:  # what Linux would give up for it counts, too
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
    from segic_jax.weights.bundle import SHIPPED

    folder = cache_folder()
    there = sorted(folder.glob("*.safetensors"))
    lines = [
        f"{SHIPPED.stem}, inside the package, {_bytes(SHIPPED.stat().st_size)}: for emoji, not photographs"
    ]
    lines += [f"{path.stem}, {_bytes(path.stat().st_size)}" for path in there]
    return [*lines, f"fetched and converted ones lie in {folder}" + ("" if there else ": none yet")]


def _programs() -> list[str]:
    folder = compile_cache_folder()
    if folder is None:
        return [f"every command compiles anew: {VARIABLE} is empty"]
    if use_compile_cache() is None:
        return [f"every command compiles anew: {folder} cannot be written to"]
    sizes = [path.stat().st_size for path in folder.iterdir() if path.is_file()]
    return [f"{len(sizes)} compiled ones, {_bytes(sum(sizes))}, in {folder}"]


def _disk() -> list[str]:
    folders = {"here": Path.cwd(), "for weights and programs": cache_folder()}
    return [
        f"{_bytes(shutil.disk_usage(_existing(path)).free)} free {name}" for name, path in folders.items()
    ]


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def _speed() -> list[str]:
    """From one matrix product and the models' sizes: nothing is faster than that."""
    import jax

    from segic_jax.config import ModelConfig, ViTConfig
    from segic_jax.weights.bundle import load_bundle

    rate = _product_rate(1536 if jax.default_backend() == "cpu" else 8192)
    models = {
        "the shipped model": load_bundle().config,
        "SegIC on DINOv2-B": ModelConfig(vit=ViTConfig.dinov2("b")),
        "SegIC on DINOv2-L": ModelConfig(vit=ViTConfig.dinov2("l")),
    }
    lines = [f"{rate / 1e9:.0f} GFLOP/s in a float32 matrix product, measured now; so an image takes"]
    for name, config in models.items():
        flops = _flops(config)
        seconds = f"{flops / rate:.3f}" if flops < rate else f"{flops / rate:.0f}"
        lines.append(f"at least {seconds} s with {name} ({flops / 1e9:.0f} GFLOP)")
    return lines


def _product_rate(side: int) -> float:
    """Operations a second, the best of five."""
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
    """Of one image and one concept."""
    import numpy as np
    from jax import ShapeDtypeStruct as Shape

    from segic_jax.models import segic
    from segic_jax.train.flops import count_flops

    side, grid, width = config.canvas, config.grid, config.vit.width
    context = segic.Prototypes(
        pooled=Shape((1, 1, width), np.float32),
        visual=Shape((1, 1, 1, width), np.float32),
        visual_valid=Shape((1, 1, 1), bool),
        text=Shape((1, 1, config.text_width), np.float32),
    )
    backbone = segic.backbone_template(config.vit).shapes
    head = segic.head_template(config).shapes
    pictures, sizes = Shape((1, side, side, 3), np.uint8), Shape((1, 2), np.int32)
    features = Shape((1, grid, grid, width), np.float32)
    return count_flops(partial(segic.extract, config), backbone, pictures, sizes) + count_flops(
        partial(segic.decode, config), head, features, context
    )


def _advice() -> list[str]:
    import jax

    lines = []
    if jax.default_backend() == "cpu":
        if any(Path("/dev").glob("nvidia[0-9]*")):
            lines.append("An NVIDIA card is here, but this JAX cannot use it: pip install -U 'jax[cuda13]'")
        elif sys.platform == "linux" and platform.machine() == "x86_64" and "avx512f" not in cpu_flags():
            lines.append("This processor has no AVX-512 and no AMX: matrix products run with AVX2 or less.")
        lines.append("Models on DINOv2-B and larger want an accelerator; the shipped one does not.")
    if _usable_cores() < (os.cpu_count() or 1):
        lines.append(f"This process may use {_usable_cores()} of {os.cpu_count()} cores only.")
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > 0.7 * _usable_cores():
        lines.append(f"Other programs keep the processor busy (load {load:.1f}): the speed above is too low.")
    if shutil.disk_usage(_existing(cache_folder())).free < 5e9:
        lines.append(f"Little room for weights in {cache_folder()}: set SEGIC_CACHE to another folder.")
    lines.append("The first command with a model compiles its programs; the next ones read them.")
    return lines


def _bytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
