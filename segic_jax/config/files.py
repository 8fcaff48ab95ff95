"""Write settings as plain values, and name the folder of derived files."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from segic_jax.config.backbones import BACKBONE_KINDS


def to_dict(config) -> dict:
    """Convert a configuration to plain dictionaries and numbers, for JSON beside a checkpoint.

    A backbone is written with its `kind`: "vit", "dinov3" or "efficientnet".
    """
    kinds = {backbone: kind for kind, backbone in BACKBONE_KINDS.items()}

    def plain(value) -> Any:
        if isinstance(value, tuple):
            return [plain(item) for item in value]
        if not dataclasses.is_dataclass(value):
            return value
        kind = {"kind": kinds[type(value)]} if type(value) in kinds else {}
        return kind | {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}

    return plain(config)


def cache_folder() -> Path:
    """Return the folder of converted weights and derived data.

    SEGIC_CACHE, else XDG_CACHE_HOME/segic_jax, else ~/.cache/segic_jax.
    """
    if chosen := os.environ.get("SEGIC_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "segic_jax"
