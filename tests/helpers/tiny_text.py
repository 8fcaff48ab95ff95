# ruff: noqa: RUF001 (the look-alike characters are meant)
"""Make a small text tower with a byte-pair vocabulary like CLIP's, learned here from a few sentences."""

import json
from collections import Counter
from itertools import pairwise

import numpy as np
from tiny import parameters

from segic_jax.config import TextConfig
from segic_jax.models.clip_text import text_template
from segic_jax.weights.text import END, START, TextTower

CORPUS = """a photo of a cat. please segment the instances! it's the photographer's 3rd photo, they're 100 %
sure; we've seen what he'll do, i'd say: don't. über naïve café señor 猫の写真 кошка на фото صورة قطة 🐱🐈"""
SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

# Prompts that tokenizers disagree about.
AWKWARD = [
    "",
    " ",
    "a photo of a cat",
    "A Photo  of\ta\n CAT ",
    "please segment the instances",
    "it's they're we've i'm he'll i'd don't rock'n'roll IT'S ''s !'s 's",
    "’s ‘quoted’ “double”",
    "100 % of 3rd, ½ Ⅷ ٣ ४ ² 1234567890",
    "...!?--__~~ a.b,c;d (e) [f] {g} /h\\ #i @j $k &amp; &lt;b&gt;",
    "über naïve café",
    "u\u0308ber nai\u0308ve cafe\u0301 e\u0301\u0323\u0302 q\u0307\u0323",
    "ſtraße ΣΊΣΥΦΟΣ İstanbul ǅ ﬁ Å Ω",
    "猫の写真 猫 貓 고양이 고양이 ネコ ﾈｺ",
    "صورة قطة שָׁלוֹם",
    "\u202eabc\u202c a\u200bb\u200dc\ufeffd\u00ade",
    "🐱🐈 👩\u200d👩\u200d👧 🇯🇵 👍🏽 ❤\ufe0f",
    "\x00a\x01b\x7fc\x1cd\x1ee\x85f\xa0g\u3000h\u2028i",
    "<|endoftext|>",
    "a <|startoftext|>cat<|endoftext|> b",
    "<|ENDOFTEXT|> < |endoftext| > <|endoftext <|end",
    "\ufffd \U0010ffff \ue000",
    "photo " * 100,
    "x" * 300,
    "猫" * 100,
]


def byte_characters() -> list[str]:
    """Map bytes 0..255 to characters: printable bytes to themselves, others to characters from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def learn_merges(count: int = 150) -> list[tuple[str, str]]:
    """Learn merges: the most frequent pair of neighbours in the corpus, repeatedly."""
    characters = byte_characters()
    words = [[characters[byte] for byte in word.encode()] for word in CORPUS.split()]
    words = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges = []
    for _ in range(count):
        pairs = Counter(pair for word in words for pair in pairwise(word))
        if not pairs:
            break
        merges.append(max(pairs, key=lambda pair: (pairs[pair], pair)))
        words = [merge(word, merges[-1]) for word in words]
    return merges


def merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    """Join every occurrence of `pair`, from the left."""
    joined: list[str] = []
    for symbol in word:
        # A symbol that was joined in this round is not joined again.
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return joined


def vocabulary() -> dict[str, int]:
    """Return the vocabulary in CLIP's order: bytes, bytes that end a word, merges, two special tokens."""
    # CLIP's order differs for bytes alone: it begins with the printable ones.
    characters = byte_characters()
    symbols = characters + [character + "</w>" for character in characters]
    symbols += [first + second for first, second in learn_merges()] + [START, END]
    return {symbol: i for i, symbol in enumerate(symbols)}


def tokenizer_json(**changes) -> bytes:
    """Return a tokenizer.json like that of CLIP's weights; `changes` replace its entries."""
    vocab = vocabulary()
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Removed", "invert": True}
    spaces = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocab[name], "content": name, **special} for name in (START, END)],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, spaces, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [END, vocab[END]],
            "cls": [START, vocab[START]],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "unk_token": END,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "vocab": vocab,
            "merges": [" ".join(pair) for pair in learn_merges()],
        },
    }
    return json.dumps(content | changes).encode()


def tower(width: int = 4, seed: int = 7) -> TextTower:
    """Return an untrained text tower."""
    size = len(vocabulary())
    config = TextConfig(
        vocab_size=size, width=width, mlp_width=8, depth=2, num_heads=2, max_length=77, eos_id=size - 1
    )
    params = parameters(text_template(config), seed)
    return TextTower(config, {name: np.asarray(value) for name, value in params.items()}, tokenizer_json())
