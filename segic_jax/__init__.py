"""SegIC in JAX: show one image with a mask, and find the same thing in other images.

seg = segic_jax.Segmenter.load()
ctx = seg.fit([segic_jax.Example("cat.jpg", "cat.png", name="cat")])
result = seg.predict("street.jpg", ctx)  # .label_map, .masks, .presence, .overlay(), .save(...), ...
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers and editors; `__getattr__` imports the same names
    from segic_jax.errors import DataError, InputError
    from segic_jax.inference.annotations import read_examples, write_annotations
    from segic_jax.inference.context import Context
    from segic_jax.inference.example import Example
    from segic_jax.inference.explain import Explanation
    from segic_jax.inference.result import Result
    from segic_jax.inference.segmenter import Segmenter

__version__ = "0.1.0"
__all__ = [
    "Context",
    "DataError",
    "Example",
    "Explanation",
    "InputError",
    "Result",
    "Segmenter",
    "read_examples",
    "write_annotations",
]
_MODULES = {
    "Segmenter": "inference.segmenter",
    "Example": "inference.example",
    "Context": "inference.context",
    "Result": "inference.result",
    "Explanation": "inference.explain",
    "read_examples": "inference.annotations",
    "write_annotations": "inference.annotations",
    "DataError": "errors",
    "InputError": "errors",
}


def __getattr__(name: str):
    # JAX takes a second to import; `import segic_jax` alone should not.
    if name in _MODULES:
        return getattr(importlib.import_module(f"segic_jax.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'segic_jax' has no attribute '{name}'")
