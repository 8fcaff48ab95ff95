"""SegIC in JAX: show one picture with a mask, and find the same thing in other pictures.

seg = segic_jax.Segmenter.load()
ctx = seg.fit([segic_jax.Example("cat.jpg", "cat.png", name="cat")])
result = seg.predict("street.jpg", ctx)  # .label_map, .masks, .presence, .overlay(), .save(...), ...
"""

import importlib

__version__ = "0.1.0"
_WHERE = {
    "Segmenter": "segmenter",
    "Example": "example",
    "Context": "context",
    "Result": "result",
    "Explanation": "explain",
    "DataError": "data.episodes",
    "InputError": "config",
}
__all__ = list(_WHERE)


def __getattr__(name: str):
    # JAX takes a second to import; `import segic_jax` alone should not.
    if name in _WHERE:
        return getattr(importlib.import_module(f"segic_jax.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'segic_jax' has no attribute '{name}'")
