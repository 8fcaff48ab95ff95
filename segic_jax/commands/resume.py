"""What makes two runs the same: a killed one goes on, and nothing is taken over from another."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segic_jax.inference.context import Context
    from segic_jax.inference.segmenter import Segmenter


def run_of(segmenter: "Segmenter", context: "Context", **settings) -> str:
    """A short name of all that results depend on besides the targets: weights, references and settings."""
    digest = hashlib.sha256(segmenter.fingerprint.encode())
    digest.update(json.dumps([segmenter.bundle.notes, settings], sort_keys=True).encode())
    for name in sorted(segmenter.bundle.head):
        digest.update(segmenter.bundle.head[name].tobytes())
    for one in (*context.concepts, *context.negatives):
        digest.update(json.dumps([one.name, one.against]).encode())
        for array in (one.visual, one.text, one.patches, one.kind):
            digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def with_files(run: str, *files: Path) -> str:
    """The same of a run on these files, as they are now."""
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([run, stamps]).encode()).hexdigest()[:16]
