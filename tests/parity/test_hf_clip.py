"""Compare CLIP's text tower and tokenizer with transformers, on small random towers and awkward strings."""

import json
import random
import unicodedata

import numpy as np
import pytest
from requirements import require_torch, require_transformers
from tiny_text import AWKWARD, learn_merges, tokenizer_json, vocabulary

from segic_jax.config import TextConfig
from segic_jax.models.clip_text import text_template
from segic_jax.weights.text import START, TextTower, Tokenizer, encode_prompts
from segic_jax.weights.torch_names import clip_text_tensors, from_torch

torch = require_torch()
transformers = require_transformers()

OPTIONS = {"padding": "max_length", "truncation": True, "max_length": 77, "return_tensors": "np"}


def prompts(count: int = 500) -> list[str]:
    """Return the awkward strings, then random combinations of their pieces."""
    draw = random.Random(0)
    pieces = [piece for prompt in AWKWARD for piece in (prompt[:20], *prompt[:60].split())]
    letters = [character for prompt in AWKWARD for character in prompt[:60]]
    texts = list(AWKWARD)
    while len(texts) < count:
        chosen = draw.choices(pieces, k=draw.randint(1, 6)) + draw.choices(letters, k=draw.randint(0, 8))
        draw.shuffle(chosen)
        texts.append(draw.choice(["", " ", "  ", "\n"]).join(chosen))
    return texts


@pytest.fixture(scope="module")
def clip_tokenizers(tmp_path_factory):
    """Return CLIPTokenizer in Python, and CLIPTokenizerFast, which AutoTokenizer gives the official code."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "vocab.json").write_text(json.dumps(vocabulary()))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in learn_merges()), ""]
    (folder / "merges.txt").write_text("\n".join(lines))
    files = {"vocab_file": str(folder / "vocab.json"), "merges_file": str(folder / "merges.txt")}
    return transformers.CLIPTokenizer(**files), transformers.CLIPTokenizerFast(**files)


def assert_same(tokenizer: Tokenizer, clip_tokenizer, texts: list[str]):
    ids, mask = tokenizer(texts)
    expected = clip_tokenizer(texts, **OPTIONS)
    for i, text in enumerate(texts):
        assert ids[i].tolist() == expected["input_ids"][i].tolist(), repr(text)
        assert mask[i].tolist() == expected["attention_mask"][i].astype(bool).tolist(), repr(text)


@pytest.mark.parametrize("source", ["converted", "written by hand"])
def test_tokens_equal_the_fast_tokenizer(clip_tokenizers, source):
    _, fast = clip_tokenizers
    converted = fast.backend_tokenizer.to_str().encode()
    assert_same(Tokenizer(converted if source == "converted" else tokenizer_json()), fast, prompts())


def test_tokens_equal_the_slow_tokenizer_where_the_fast_one_does(clip_tokenizers):
    """Compare with the slow tokenizer on texts that both treat alike.

    Without ftfy, the slow tokenizer drops control and format characters, separates CJK characters with
    spaces, and lower-cases a final sigma differently. With ftfy, it also repairs HTML entities and some
    look-alike characters. It does not recognise special tokens in capitals next to punctuation. The
    official code gets the fast tokenizer.
    """
    slow, _ = clip_tokenizers
    if slow.fix_text:
        pytest.skip("ftfy is installed")
    assert_same(Tokenizer(tokenizer_json()), slow, [drop_differences(text) for text in prompts()])


def drop_differences(text: str) -> str:
    """Remove what the two tokenizers treat differently."""
    text = "".join(character for character in text if not differs(character))
    return text.replace("ENDOFTEXT", "endoftext")


def differs(character: str) -> bool:
    control = unicodedata.category(character)[0] == "C" and character not in "\t\n\r"
    # The slow tokenizer treats a long s (U+017F) as the s of a contraction.
    return control or "CJK" in unicodedata.name(character, "") or character in "\ufffd\u017fΣ"


@pytest.mark.parametrize("eos", ["legacy", "last"])
def test_features_equal_the_official_tower(clip_tokenizers, eos):
    """Test also the published eos_token_id 2, with which transformers pools at the largest id."""
    _, fast = clip_tokenizers
    size = len(vocabulary())
    torch.manual_seed(0)
    model = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            hidden_act="quick_gelu",
            bos_token_id=vocabulary()[START],
            eos_token_id=2 if eos == "legacy" else size - 1,
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        inputs = fast(AWKWARD, **OPTIONS | {"return_tensors": "pt"})
        expected = model(**inputs).pooler_output.numpy()
    config = TextConfig(vocab_size=size, width=32, mlp_width=64, depth=3, num_heads=4, eos_id=size - 1)
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    params = from_torch(clip_text_tensors(tensors), text_template(config).shapes)
    features = encode_prompts(TextTower(config, params, tokenizer_json()), AWKWARD)
    assert list(features) == AWKWARD
    np.testing.assert_allclose(list(features.values()), expected, rtol=0, atol=1e-4)
    assert np.ptp(expected, axis=0).min() > 0.1
