"""Find the weights in the state dict of a training: below the names of wrappers and of the roles of models.

`torch.compile`, data parallelism and FSDP put their names into those of tensors. Self-supervised training
keeps a teacher and a student, which may both be in a file: then the user chooses.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from segic_jax.errors import FormatError
from segic_jax.weights.torch_names import Tensors

ROLES = ("teacher", "student", "ema", "model_ema", "momentum_encoder", "target_encoder")
_WRAPPERS = re.compile(r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_LEADING = re.compile(r"(model|state_dict|model_state_dict|net)\.")


class Candidate(NamedTuple):
    """Hold tensors without the names of wrappers, and what was taken off."""

    role: str  # "" or one of ROLES
    tensors: Tensors
    removed: tuple[str, ...]  # prefixes and wrappers, as they are in the file


def unwrap(tensors: Mapping[str, np.ndarray]) -> list[Candidate]:
    """Return the tensors of each role, under the names that the model itself gives them.

    Names of other wrappers are taken off only where no two names become one.
    """
    groups: dict[str, dict[str, tuple[str, np.ndarray]]] = {}
    removed: dict[str, dict[str, None]] = {}
    for name, tensor in tensors.items():
        role, short, off = _split(name)
        group = groups.setdefault(role, {})
        if short in group:
            raise FormatError(
                f"{group[short][0]} and {name} become one name without the names of wrappers: save the model "
                "that you mean alone."
            )
        group[short] = name, tensor
        removed.setdefault(role, {}).update(dict.fromkeys(off))
    return [
        Candidate(role, {name: tensor for name, (_, tensor) in group.items()}, tuple(removed[role]))
        for role, group in groups.items()
    ]


def _split(name: str) -> tuple[str, str, list[str]]:
    """Return the role, the name without wrappers, and what was taken off."""
    role, off = "", []
    while True:
        wrapper = _WRAPPERS.match(name) or _LEADING.match(name)
        head = name.split(".", 1)[0]
        if wrapper:
            off.append(wrapper[0])
            name = name[wrapper.end() :]
        elif not role and head in ROLES and "." in name:
            role = head
            off.append(f"{head}.")
            name = name[len(head) + 1 :]
        else:
            break
    inner = list(dict.fromkeys(_WRAPPERS.findall(name)))
    return role, _WRAPPERS.sub("", name), off + [f"{wrapper}." for wrapper in inner]
