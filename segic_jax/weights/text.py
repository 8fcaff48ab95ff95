"""Encode prompts to the features that SegIC reads, with CLIP's tokenizer and text tower.

The official code does this in model/backbone/custom_dino.py:41-54 with transformers; here the same
tokenizer.json goes through the `tokenizers` library and the tower is models/clip_text.py.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
import tokenizers
from jaxtyping import Array, Bool, Float, Int

from segic_jax.config import TextConfig
from segic_jax.errors import TextError
from segic_jax.models.clip_text import text_template
from segic_jax.models.params import Params, place
from segic_jax.weights.torch_names import Tensors

START, END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True)
class TextTower:
    """Hold the text tower and the tokenizer that encode any prompt."""

    config: TextConfig
    params: Tensors  # our names and layout
    tokenizer: bytes  # tokenizer.json


class Tokenizer:
    """Tokenize as transformers' CLIP tokenizer does with padding="max_length" and truncation=True."""

    def __init__(self, tokenizer_json: bytes, max_length: int = 77):
        """Read the tokenizer.json that Hugging Face ships beside the weights.

        Raises:
            TextError: it is not a tokenizer.json, or not CLIP's.
        """
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(tokenizer_json)
        except Exception as error:  # the library has no narrower exception
            raise TextError(
                f"The tokenizer.json is broken ({error}); get it again from openai/clip-vit-large-patch14."
            ) from error
        # Files that were saved after use hold the settings of the last call.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.end_id = self._tokenizer.token_to_id(END)
        self.size = self._tokenizer.get_vocab_size()
        frame = [self._tokenizer.token_to_id(START), self.end_id]
        if None in frame or self._tokenizer.encode("").ids != frame:
            raise TextError(
                f"The tokenizer.json is not CLIP's: it does not put {START} and {END} around a prompt; "
                "use the one of openai/clip-vit-large-patch14."
            )
        # Padding is the end token as well, and a truncated prompt still ends with it.
        self._tokenizer.enable_truncation(max_length)
        self._tokenizer.enable_padding(pad_id=self.end_id, pad_token=END, length=max_length)

    def __call__(
        self, prompts: Sequence[str]
    ) -> tuple[Int[np.ndarray, "n length"], Bool[np.ndarray, "n length"]]:
        """Return token ids (int32) and a mask that is False on padding; long prompts are truncated."""
        encoded = self._tokenizer.encode_batch(list(prompts))
        ids = np.array([encoding.ids for encoding in encoded], np.int32)
        return ids, np.array([encoding.attention_mask for encoding in encoded], bool)


def encode_prompts(
    tower: TextTower, prompts: Iterable[str], batch: int = 64
) -> dict[str, Float[np.ndarray, " width"]]:
    """Return the pooled float32 feature of each prompt, computed `batch` prompts at a time.

    Raises:
        TextError: the tokenizer is damaged or does not belong to the tower.
    """
    config, prompts = tower.config, list(dict.fromkeys(prompts))
    tokenizer = Tokenizer(tower.tokenizer, config.max_length)
    if tokenizer.end_id != config.eos_id or tokenizer.size > config.vocab_size:
        raise TextError(
            f"The tokenizer.json belongs to another text tower: it has {tokenizer.size} tokens and ends with "
            f"{tokenizer.end_id}, the tower has {config.vocab_size} and ends with {config.eos_id}."
        )
    if not prompts:
        return {}
    ids, attention_mask = tokenizer(prompts)
    params, features = place(tower.params, np.float32, jax.device_put), []
    # A power of two: few programs are compiled, and few prompts are computed quickly.
    rows = min(batch, 1 << (len(prompts) - 1).bit_length())
    for start in range(0, len(prompts), rows):
        chosen = np.minimum(np.arange(start, start + rows), len(prompts) - 1)
        features.append(np.asarray(_pooled(config, params, ids[chosen], attention_mask[chosen])))
    return dict(zip(prompts, np.concatenate(features), strict=False))


@partial(jax.jit, static_argnums=0)
def _pooled(
    config: TextConfig, params: Params, ids: Int[Array, "n length"], attention_mask: Bool[Array, "n length"]
) -> Float[Array, "n width"]:
    with jax.default_matmul_precision("highest"):  # accelerators would round products
        return text_template(config).bind(params)(ids, attention_mask).pooled
