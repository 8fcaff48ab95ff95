"""Compare the text tower with transformers' CLIPTextModel."""

import jax
import numpy as np

from segic_jax.config import TextConfig
from segic_jax.models.clip_text import ClipText
from segic_jax.models.params import Template, count
from segic_jax.weights.torch_names import clip_text_tensors, from_torch

CONFIG = TextConfig(vocab_size=512, width=32, mlp_width=64, depth=2, num_heads=4, eos_id=511)
TEMPLATE = Template(lambda rngs: ClipText(CONFIG, rngs=rngs))


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


def test_equals_the_official_tower(golden, golden_weights):
    arrays = golden("text")
    params = from_torch(clip_text_tensors(golden_weights("text")), TEMPLATE.shapes)
    ids, mask = arrays["in.input_ids"].astype(np.int32), arrays["in.attention_mask"].astype(bool)

    @jax.jit
    def run(params, ids, mask):
        model = TEMPLATE.bind(params)
        return model.embeddings(ids), model(ids, mask)

    embedded, features = run(params, ids, mask)
    close(embedded, arrays["out.hidden_states.0"])
    close(features.tokens, arrays["out.last_hidden_state"])
    close(features.pooled, arrays["out.pooler_output"])


def test_padding_does_not_reach_the_pooled_feature(golden, golden_weights):
    """Change ids and mask in the padding: the tower is causal and pools before it."""
    arrays = golden("text")
    params = from_torch(clip_text_tensors(golden_weights("text")), TEMPLATE.shapes)
    ids, mask = arrays["in.input_ids"].astype(np.int32), arrays["in.attention_mask"].astype(bool)
    run = jax.jit(lambda params, ids, mask: TEMPLATE.bind(params)(ids, mask).pooled)
    close(run(params, np.where(mask, ids, 7), np.ones_like(mask)), arrays["out.pooler_output"])


def test_published_size():
    """Check the 123.06 million parameters of ViT-L/14's text tower."""
    assert count(Template(lambda rngs: ClipText(TextConfig(), rngs=rngs)).shapes) == 123_060_480
