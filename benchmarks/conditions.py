"""Describe the machine and the versions of a measurement."""

import os
import platform
import sys

import jax

from segic_jax.commands.doctor import processor
from segic_jax.errors import ConfigError


def choose_device(name: str) -> None:
    """Choose "cpu", "gpu", or with "" the default device of JAX; call it before any other JAX call.

    Raises:
        ConfigError: JAX has no such device.
    """
    # PyTorch's process shares the card: JAX takes what it needs, not three quarters.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if name:
        jax.config.update("jax_platforms", {"cpu": "cpu", "gpu": "cuda"}[name])
    try:
        jax.devices()
    except RuntimeError as error:
        raise ConfigError(
            f"--device {name}: JAX finds none here ({str(error).splitlines()[0][:120]}); "
            "install jax[cuda13], or give --device cpu."
        ) from error


def conditions(torch: dict | None) -> dict[str, str]:
    """Return the device, versions and threads.

    Args:
        torch: `TorchSide.about`, if PyTorch takes part.
    """
    device = jax.devices()[0]
    precision = jax.config.values["jax_default_matmul_precision"] or "default"
    values = {
        "device": device.device_kind,  # of a CPU nothing but that
        "processor": processor(),
        "versions": f"Python {platform.python_version()}, jax {jax.__version__}",
        "products": f"jax_default_matmul_precision {precision}",
    }
    if os.environ.get("XLA_FLAGS"):
        values["XLA_FLAGS"] = os.environ["XLA_FLAGS"]
    if torch:
        values["torch"] = f"{torch['version']} on {torch['device']}, {torch['threads']} threads"
    return values | {"command": " ".join(["python -m", _module(), *sys.argv[1:]])}


def _module() -> str:
    main = sys.modules["__main__"]
    return main.__spec__.name if getattr(main, "__spec__", None) else "benchmarks"
