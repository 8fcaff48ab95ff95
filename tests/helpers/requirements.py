"""Skip tests whose optional packages are missing; with CI=true in the environment, fail instead."""

import importlib
import os
import shutil
from types import ModuleType

import pytest


def require_module(name: str) -> ModuleType:
    """Import an optional package, or skip the calling module or test."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        _skip_or_fail(f"{name} cannot be imported: {error}")


def require_torch() -> ModuleType:
    """Import PyTorch."""
    return require_module("torch")


def require_transformers() -> ModuleType:
    """Import Hugging Face's transformers, which need PyTorch."""
    require_torch()
    return require_module("transformers")


def require_gradio() -> ModuleType:
    """Import Gradio, which serves the web page."""
    return require_module("gradio")


def require_chromium() -> str:
    """Return the path of Debian's Chromium, which Playwright drives."""
    require_module("playwright")
    path = shutil.which("chromium")
    return path or _skip_or_fail("chromium is not installed: apt-get install chromium")


def _skip_or_fail(reason: str):
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)
