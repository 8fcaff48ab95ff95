"""Compare the tokenizer with a plain byte-pair encoding, and encode prompts with the tower."""

import dataclasses
import re
import unicodedata
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_text import AWKWARD, byte_characters, learn_merges, merge, tokenizer_json, tower, vocabulary

from segic_jax.errors import TextError
from segic_jax.models.clip_text import text_template
from segic_jax.weights.text import END, START, Tokenizer, encode_prompts

CHARACTERS, MERGES, VOCABULARY = byte_characters(), learn_merges(), vocabulary()
WHITE = (
    "[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"  # unlike Python's \s, without \x1c
)


def plain_token_ids(prompt: str, length: int = 77) -> list[int]:
    """Return CLIP's token ids without padding (openai/CLIP simple_tokenizer.py, without ftfy)."""
    text = re.sub(WHITE, " ", unicodedata.normalize("NFC", prompt))
    text = "".join(character.lower() for character in text)  # one by one, so that no final sigma arises
    ids = []
    for piece in re.split(f"({re.escape(START)}|{re.escape(END)})", text):
        if piece in (START, END):
            ids.append(VOCABULARY[piece])
        else:
            ids += [i for word in split_words(piece) for i in encode_word(word)]
    return [VOCABULARY[START], *ids[: length - 2], VOCABULARY[END]]


def split_words(text: str) -> list[str]:
    """Split into contractions, runs of letters, single digits, and runs of other characters."""
    kinds = "".join(
        " " if character == " " else {"L": "l", "N": "n"}.get(unicodedata.category(character)[0], "o")
        for character in text
    )
    words, i = [], 0
    while i < len(text):
        pattern = {"l": "l+", "n": "n", "o": "o+", " ": " "}[kinds[i]]
        end = re.compile(pattern).match(kinds, i).end()
        if contraction := re.compile("'s|'t|'re|'ve|'m|'ll|'d").match(text, i):
            end = contraction.end()
        words.append(text[i:end])
        i = end
    return [word for word in words if word != " "]


def encode_word(word: str) -> list[int]:
    """Apply byte-pair encoding, the earliest learned merge first."""
    symbols = [CHARACTERS[byte] for byte in word.encode()]
    symbols[-1] += "</w>"
    while applicable := [m for m in MERGES if m in set(pairwise(symbols))]:
        symbols = merge(symbols, applicable[0])
    return [VOCABULARY[symbol] for symbol in symbols]


@pytest.mark.parametrize("length", [77, 16])
def test_tokens_equal_a_plain_byte_pair_encoding(length):
    ids, mask = Tokenizer(tokenizer_json(), length)(AWKWARD)
    assert ids.dtype == np.int32
    assert mask.dtype == bool
    assert ids.shape == mask.shape == (len(AWKWARD), length)
    for prompt, row, valid in zip(AWKWARD, ids, mask, strict=True):
        expected = plain_token_ids(prompt, length)
        assert row[: len(expected)].tolist() == expected, prompt
        assert (row[len(expected) :] == VOCABULARY[END]).all()
        assert valid.tolist() == [i < len(expected) for i in range(length)]


def test_the_vocabulary_has_merges():
    """Encode a sentence of the corpus, whose 13 letters become 6 tokens."""
    assert len(plain_token_ids("a photo of a cat")) == 2 + 6


def test_prompts_are_encoded_in_batches():
    small = tower()
    prompts = ["", *(f"a photo of a {i}" for i in range(10)), ""]
    features = encode_prompts(small, prompts, batch=4)
    assert list(features) == prompts[:-1]
    ids, mask = Tokenizer(small.tokenizer)(prompts[:-1])
    params = {name: jnp.asarray(value) for name, value in small.params.items()}
    expected = text_template(small.config).bind(params)(jnp.asarray(ids), jnp.asarray(mask)).pooled
    np.testing.assert_allclose(list(features.values()), expected, atol=1e-5)
    assert all(feature.dtype == np.float32 for feature in features.values())
    assert np.ptp(expected, axis=0).max() > 0.1
    np.testing.assert_allclose(encode_prompts(small, [prompts[3]])[prompts[3]], expected[3], atol=1e-5)
    assert encode_prompts(small, []) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "broken"),
        (b"{}", "broken"),
        (b"\xff\x00", "broken"),
        (tokenizer_json()[:-1000], "broken"),
        (tokenizer_json(added_tokens=[], model={"type": "BPE", "vocab": {}, "merges": []}), "not CLIP's"),
        (tokenizer_json(post_processor=None), "not CLIP's"),
    ],
)
def test_a_damaged_tokenizer_is_refused(content, message):
    with pytest.raises(TextError, match=message) as error:
        Tokenizer(content)
    assert "tokenizer.json" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [{"vocab_size": 300}, {"eos_id": 3}])
def test_a_tokenizer_of_another_tower_is_refused(change):
    small = tower()
    changed = dataclasses.replace(small, config=dataclasses.replace(small.config, **change))
    with pytest.raises(TextError, match="another text tower"):
        encode_prompts(changed, [""])
