"""SegIC in JAX: show one picture with a mask, and find the same thing in other pictures.

result = segic_jax.load().fit("cat.jpg", "cat_mask.png").predict("other.jpg")
result.masks[0]  # bool, at the size of other.jpg
"""

import importlib

__version__ = "0.1.0"
__all__ = ["Context", "Result", "Segmenter", "load"]


def __getattr__(name: str):
    # JAX takes a second to import; `import segic_jax` alone should not.
    if name in __all__:
        return getattr(importlib.import_module("segic_jax.segmenter"), name)
    raise AttributeError(f"module 'segic_jax' has no attribute '{name}'")
