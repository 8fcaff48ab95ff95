"""Compare the prompt encoder and mask decoder with SAM's in transformers, on small random modules.

SegIC derives from SAM; its additions, text and instance tokens, are left out.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from requirements import require_module, require_torch, require_transformers

from segic_jax.config import HeadConfig, ModelConfig, ViTConfig
from segic_jax.models.mask_decoder import MaskDecoder
from segic_jax.models.params import Template
from segic_jax.models.prompt_encoder import PromptEncoder
from segic_jax.weights.torch_names import from_torch

torch = require_torch()
transformers = require_transformers()
modeling_sam = require_module("transformers.models.sam.modeling_sam")

WIDTH, GRID, CONCEPTS = 64, 6, 3
CONFIG = ModelConfig(  # SAM downscales a mask prompt by 2 twice
    backbone=ViTConfig(patch_size=4, width=32, num_heads=4),
    head=HeadConfig(width=WIDTH, mlp_width=96, iou_width=40, mask_channels=8),
    canvas=4 * GRID,
)
ENCODER = Template(lambda rngs: PromptEncoder(CONFIG, rngs=rngs))
DECODER = Template(lambda rngs: MaskDecoder(CONFIG, rngs=rngs))

# (transformers, official)
NAMES = (
    (r"^shared_embedding\.positional_embedding", "pe_layer.positional_encoding_gaussian_matrix"),
    (r"^point_embed\.", "point_embeddings."),
    (r"^mask_embed\.conv1\.", "mask_downscaling.0."),
    (r"^mask_embed\.layer_norm1\.", "mask_downscaling.1."),
    (r"^mask_embed\.conv2\.", "mask_downscaling.3."),
    (r"^mask_embed\.layer_norm2\.", "mask_downscaling.4."),
    (r"^mask_embed\.conv3\.", "mask_downscaling.6."),
    (r"^upscale_conv1\.", "output_upscaling.0."),
    (r"^upscale_layer_norm\.", "output_upscaling.1."),
    (r"^upscale_conv2\.", "output_upscaling.3."),
    (r"\.layer_norm(\d|_final_attn)", r".norm\1"),
    (r"\.proj_out\.", ".layers.2."),
    (r"(mlps\.\d|head)\.layers\.0\.", r"\1.layers.1."),
    (r"\.proj_in\.", ".layers.0."),
)


def official_names(module):
    named = {}
    for name, tensor in module.state_dict().items():
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        named[name] = tensor.numpy()
    return named


@pytest.fixture(scope="module")
def sam():
    torch.manual_seed(0)
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": WIDTH,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_pos_feats": WIDTH // 2,
            "image_size": CONFIG.canvas,
            "patch_size": 4,
            "output_channels": WIDTH,
        },
        prompt_encoder_config={
            "hidden_size": WIDTH,
            "image_size": CONFIG.canvas,
            "patch_size": 4,
            "mask_input_channels": 8,
        },
        mask_decoder_config={
            "hidden_size": WIDTH,
            "mlp_dim": 96,
            "iou_head_hidden_dim": 40,
            "layer_norm_eps": 1e-5,  # as in the original; transformers' default differs
        },
    )
    config.mask_decoder_config._attn_implementation = "eager"
    encoder = modeling_sam.SamPromptEncoder(config).eval().requires_grad_(False)
    decoder = modeling_sam.SamMaskDecoder(config.mask_decoder_config).eval()
    for parameter in [*encoder.parameters(), *decoder.parameters()]:
        torch.nn.init.normal_(parameter, std=0.15)
    torch.nn.init.normal_(encoder.shared_embedding.positional_embedding)
    return encoder, decoder


@pytest.mark.parametrize("case", ["points", "points and boxes", "boxes", "points and masks"])
def test_prompts_and_masks(sam, case):
    encoder, decoder = sam
    random = np.random.default_rng(1)
    points = labels = boxes = masks = None
    if "points" in case:
        points = random.uniform(0, CONFIG.canvas, (CONCEPTS, 2, 2)).astype(np.float32)
        labels = np.array([[1, 0], [1, -1], [0, 1]])
    if "boxes" in case:
        boxes = random.uniform(0, CONFIG.canvas, (CONCEPTS, 4)).astype(np.float32)
    if "masks" in case:
        masks = random.normal(size=(CONCEPTS, CONFIG.canvas, CONFIG.canvas)).astype(np.float32)
    image = random.normal(size=(GRID, GRID, WIDTH)).astype(np.float32)

    with torch.no_grad():
        as_torch = [
            None if x is None else torch.from_numpy(x[:, None]) for x in (points, labels, boxes, masks)
        ]
        sparse, dense = encoder(*as_torch)
        centres = (np.arange(GRID) + 0.5) / GRID
        grid = torch.from_numpy(np.stack(np.meshgrid(centres, centres), axis=-1).astype(np.float32))
        position = encoder.shared_embedding(grid).permute(2, 0, 1)[None].expand(CONCEPTS, -1, -1, -1)
        images = torch.from_numpy(image).permute(2, 0, 1)[None].expand(CONCEPTS, -1, -1, -1)
        expected = [
            decoder(images, position, sparse, dense, multimask_output=multimask)
            for multimask in (False, True)
        ]

    @jax.jit
    def run(encoder_params, decoder_params):
        module = ENCODER.bind(encoder_params)
        batched = [None if x is None else jnp.asarray(x)[None] for x in (points, labels, boxes, masks)]
        prompts = module(
            points=batched[0],
            point_labels=batched[1],
            boxes=batched[2],
            use_box=None,
            masks=None if batched[3] is None else batched[3][:, :, None],
            tokens=jnp.zeros((1, CONCEPTS, 0, WIDTH)),
            tokens_valid=jnp.zeros((1, CONCEPTS, 0), bool),
        )
        return prompts, *DECODER.bind(decoder_params)(image[None], module.dense_position(), prompts)

    prompts, logits, iou = run(
        from_torch(official_names(encoder), ENCODER.shapes),
        from_torch(official_names(decoder), DECODER.shapes),
    )
    valid = np.asarray(prompts.sparse_valid[0, 0])
    np.testing.assert_allclose(prompts.sparse[0][:, valid], sparse[:, 0], atol=1e-5)
    np.testing.assert_allclose(np.moveaxis(prompts.dense[0], -1, 1), dense, atol=1e-5)
    np.testing.assert_allclose(logits[0], torch.cat([masks for masks, _ in expected], 2)[:, 0], atol=1e-4)
    np.testing.assert_allclose(iou[0], torch.cat([scores for _, scores in expected], 2)[:, 0], atol=1e-4)
