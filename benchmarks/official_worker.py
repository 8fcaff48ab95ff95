"""Build the official model, also without its weights and some of its packages; part of `torch_worker`.

With a checkout of DINOv2, nothing is downloaded: DINOv2 and CLIP's text tower get random weights of their
sizes, every prompt is the same row of tokens, and packages that the official code imports but does not need
for this inference have stand-ins where they are not installed.
"""

from __future__ import annotations  # the official environment may have Python 3.8

import importlib.util
import os
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import torch

from tools import dump_torch

PACKAGES = (
    *("detectron2", "diffusers", "matplotlib", "open_clip", "pycocotools"),
    *("skimage", "timm", "torchvision", "xformers"),
)
TOKENS, START, END = 77, 49406, 49407  # of CLIP's tokenizer


def build(checkout: Path, vit: str, canvas: int, dinov2: Path | None):
    """Return the official model and its canvas.

    Args:
        checkout: of the official repository.
        canvas: side of the input in pixels.
        dinov2: checkout of DINOv2's repository; with None the official constructor loads DINOv2 and CLIP.
    """
    dump_torch.check_checkout(checkout)
    dump_torch.without_cuda(torch)
    if dinov2 is not None:
        use_random_weights(dinov2)
        use_stand_ins()
    sys.path.insert(0, str(checkout))
    # --force_input_size alone leaves the model at 896 pixels.
    dump_torch.imported("model.backbone").MODEL_CONFIG["dinov2_" + vit]["img_size"] = canvas
    flags = [*dump_torch.FLAGS, "--dinov2_model", vit, "--force_input_size", str(canvas)]
    model, arguments = dump_torch.built_model(checkout, flags, Path(os.devnull))
    return model, max(arguments.input_size)


_hub_load = torch.hub.load  # a second model must not find the replacement of the first


def use_random_weights(dinov2: Path) -> None:
    """Let the official constructor make DINOv2 and CLIP's text tower instead of loading them."""
    import transformers

    os.environ["XFORMERS_DISABLED"] = "1"  # DINOv2 would take the stand-in

    def local(_repository, name):
        return _hub_load(str(dinov2), name, source="local", pretrained=False)

    def text_model(_name):
        sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
        return transformers.CLIPTextModel(transformers.CLIPTextConfig(num_hidden_layers=12, **sizes))

    torch.hub.load = local
    transformers.CLIPTextModel.from_pretrained = staticmethod(text_model)
    transformers.AutoTokenizer.from_pretrained = staticmethod(lambda _name: _Tokenizer())


class _Tokenizer:
    """Give every prompt the same tokens."""

    model_max_length = TOKENS

    def __call__(self, prompts, **_settings):
        tokens = torch.full((len(prompts), TOKENS), END)
        tokens[:, 0] = START
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def use_stand_ins() -> None:
    """Import PACKAGES that are not installed as modules whose every name is a stand-in.

    transformers must have been imported before: it asks which of them there are.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        print("Stand-ins for packages that are not installed:", ", ".join(missing), file=sys.stderr)
        sys.meta_path.append(_StandIns(missing))


class _StandIns:
    """Find and make the modules of packages that are not installed."""

    def __init__(self, packages):
        self._packages = packages

    def find_spec(self, name, path=None, target=None):
        """Return the specification of a module of the packages, as `sys.meta_path` asks for it."""
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in self._packages else None

    def create_module(self, spec):
        """Return a module whose every name is a stand-in."""
        module = types.ModuleType(spec.name)
        module.__dict__["__getattr__"] = _stand_in
        return module

    def exec_module(self, module):
        """Run nothing."""


class _StandInKind(type):
    def __getattr__(cls, name):
        return _stand_in(name)


class _StandIn(metaclass=_StandInKind):
    """Be a base class, a decorator or a constant while a module is imported; calling an instance fails."""

    def __init__(self, *arguments, **settings):
        pass


def _stand_in(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _StandIn
