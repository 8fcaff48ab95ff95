"""Measure the memory that a call takes from the system, with the standard library only."""

from __future__ import annotations  # the official code's environment may have Python 3.8

import ctypes
from collections.abc import Callable
from pathlib import Path

_PROCESS = Path("/proc/self")


def resident_rise(run: Callable[[], object]) -> int | None:
    """Return by how many bytes `run` raises the peak memory of this process; None if not on Linux."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed is given back first
        before = _status("VmRSS")
        (_PROCESS / "clear_refs").write_text("5")  # the peak starts again from here
    except (OSError, AttributeError, KeyError):
        run()
        return None
    run()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    lines = dict(line.split(":", 1) for line in (_PROCESS / "status").read_text().splitlines())
    return 1024 * int(lines[name].split()[0])
