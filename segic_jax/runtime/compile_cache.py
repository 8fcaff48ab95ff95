"""Keep compiled programs on disk, so that a command compiles them once and not at every start."""

import hashlib
import os
import platform
import warnings
from pathlib import Path

from segic_jax.config import cache_folder

VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def use_compile_cache() -> Path | None:
    """Switch JAX's cache on; call it before the first program is compiled.

    JAX_COMPILATION_CACHE_DIR names the folder; an empty value switches the cache off. A missing, read-only or
    damaged cache costs time and nothing else.

    Returns:
        The folder, or None if the cache is off or cannot be written to.
    """
    import jax

    if not (folder := compile_cache_folder()):
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK | os.X_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    # After a full disk or a damaged entry JAX warns, compiles and goes on.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")
    return folder


def compile_cache_folder() -> Path | None:
    """Return the folder of compiled programs, existing or not; None if JAX_COMPILATION_CACHE_DIR is empty."""
    if (chosen := os.environ.get(VARIABLE)) is not None:
        return Path(chosen).expanduser() if chosen else None
    # Programs are compiled for one CPU's instruction sets, and home folders are shared between machines.
    machine = hashlib.sha256(" ".join([platform.machine(), *cpu_flags()]).encode()).hexdigest()[:12]
    return cache_folder() / "compiled" / machine


def cpu_flags() -> tuple[str, ...]:
    """Return the instruction sets that Linux reports, such as avx512f and amx_tile; none on other systems."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return tuple(value.split())
    except (OSError, UnicodeDecodeError):
        pass
    return ()
