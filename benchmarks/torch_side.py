"""Run PyTorch in a child process that builds a model and runs it on request.

A separate process keeps the threads, memory pools and CUDA libraries of the two libraries apart. It sleeps
while JAX runs.
"""

import json
import subprocess
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from benchmarks.stages import POINT_SLOTS, Size, products
from segic_jax.errors import InputError

ROOT = Path(__file__).parents[1]


class TorchError(InputError):
    """Report that PyTorch cannot do what was requested."""

    def __init__(self, message: str, out_of_memory: bool = False):
        super().__init__(message)
        self.out_of_memory = out_of_memory


class TorchSide:
    """Hold one child process; use it in a `with` block."""

    def __init__(self, device: str, python: Path | None = None):
        """Start it.

        Args:
            device: the device of JAX, "cpu" or "gpu".
            python: another interpreter, for the official code; it needs torch.

        Raises:
            TorchError: the process does not start.
        """
        self._child = subprocess.Popen(
            [str(python or sys.executable), "-m", "benchmarks.torch_worker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._child.stdin
        assert self._child.stdout
        self._requests, self._answers = self._child.stdin, self._child.stdout
        self.about = self._ask(device=device)

    def __enter__(self) -> "TorchSide":
        return self

    def __exit__(self, *error) -> None:
        self._requests.close()
        self._child.wait()
        self._answers.close()

    def build(self, kind: str, **settings) -> dict:
        """Build what `run` runs.

        Raises:
            TorchError: it cannot be built.
        """
        return self._ask(build=kind, **settings)

    def run(self) -> float:
        """Run once and return the seconds."""
        return self._ask()["seconds"]

    def memory(self) -> int | None:
        """Return the bytes that one call takes in addition to weights and inputs."""
        return self._ask(memory=True)["memory"]

    def _ask(self, **request) -> dict:
        try:
            self._requests.write(json.dumps(request) + "\n")
            self._requests.flush()
        except BrokenPipeError:
            pass  # there is no answer then, either
        line = self._answers.readline()
        if not line:
            raise TorchError("PyTorch's process ended; its messages are above.")
        answer = json.loads(line)
        if "error" in answer:
            raise TorchError(answer["error"], answer.get("out_of_memory", False))
        return answer


def has_torch() -> bool:
    """Return whether PyTorch is installed in this environment."""
    return bool(find_spec("torch") and find_spec("transformers"))


def request_for(stage: str, size: Size) -> dict | None:
    """Return the same work for `TorchSide.build`; None if PyTorch's libraries do not have it."""
    config = size.model
    if stage == "backbone":
        return {
            "kind": "backbone",
            "vit": asdict(config.backbone),
            "canvas": config.canvas,
            "batch": size.batch,
            "precision": size.precision,
        }
    if stage == "products":
        return {
            "kind": "products",
            "tokens": size.batch * size.tokens,
            "shapes": [weight.shape for weight in products(size).arguments[1:]],
            "precision": size.precision,
        }
    if stage == "decoder":
        return {
            "kind": "decoder",
            "head": asdict(config.head),
            "grid": config.grid,
            "rows": size.batch * size.concepts,
            "slots": POINT_SLOTS + 1 + size.concepts * size.shots,
            "precision": size.precision,
        }
    return None
