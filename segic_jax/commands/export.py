"""Define `segic export`: write a model for use without this package, or its head for PyTorch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from segic_jax.errors import InputError


@dataclass
class Export:
    """Write a model as programs that run without this package, or its trained head for PyTorch.

      segic export photo --to onnx --out exported/
      segic export photo --to stablehlo --out exported/ --batch 8 --precision bfloat16
      segic export segic_l.safetensors --out head.safetensors

    stablehlo and onnx write two programs with the weights inside, and manifest.json, which describes them:

      encode    reference images and masks -> arrays of the Context
      segment   target images and these arrays -> logits and scores of each class

    head writes the trained head under the official SegIC names, for `load_state_dict`."""

    model: tyro.conf.Positional[str]
    """A name from `segic weights list`, or a model file."""
    out: Path
    """The folder to write, or with head the .safetensors file."""
    to: Literal["stablehlo", "onnx", "head"] = "head"
    """What to write: programs for JAX on CPUs, CUDA and TPUs (stablehlo), for onnxruntime and others (onnx,
    which needs pip install 'segic_jax[export]'), or the head alone."""
    canvas: int | None = None
    """Side of the square input in pixels; by default the model's own."""
    batch: Annotated[int | Literal["dynamic"], tyro.conf.arg(metavar="N|dynamic")] = "dynamic"
    """Images of one call: a number, or any number (dynamic)."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the backbone; the head is in float32. ONNX files store the backbone's weights in it and
    compute in float32."""

    def run(self) -> int:
        """Export, and print what was written."""
        return self._export_head() if self.to == "head" else self._export_programs()

    def _export_head(self) -> int:
        from segic_jax.weights.convert import export_head
        from segic_jax.weights.fetch import find

        if (self.canvas, self.batch, self.precision) != (None, "dynamic", "float32"):
            raise InputError("--canvas, --batch and --precision are for stablehlo and onnx: leave them out.")
        count = export_head(find(self.model), self.out)
        print(
            f"{self.out}: {count} tensors under their official names. In PyTorch:\n"
            f"  model.load_state_dict(safetensors.torch.load_file({str(self.out)!r}), strict=False)"
        )
        return 0

    def _export_programs(self) -> int:
        from segic_jax.export.folder import MANIFEST, export_model
        from segic_jax.weights.bundle import load_bundle
        from segic_jax.weights.fetch import find

        assert self.to != "head"
        manifest = export_model(
            load_bundle(find(self.model)),
            self.out,
            self.to,
            canvas=self.canvas,
            batch=None if self.batch == "dynamic" else self.batch,
            precision=self.precision,
        )
        for program in manifest["programs"]:
            for file in program["files"]:
                print(f"{self.out / file['name']}: {file['bytes'] / 1e6:.1f} MB")
        print(f"{self.out / MANIFEST}: inputs, outputs, preprocessing and hashes")
        return 0
