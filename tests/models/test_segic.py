from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_batch import channels_last, golden_references, references
from tiny import EXTENDED, parameters

from segic_jax.config import HeadConfig, ModelConfig, ViTConfig
from segic_jax.models import encoding, segic
from segic_jax.models.backbones import backbone_template
from segic_jax.models.head import head_template
from segic_jax.models.layers import bilinear
from segic_jax.weights.torch_names import from_torch, split_segic

TINY = ModelConfig(backbone=ViTConfig(width=48, depth=3, num_heads=4), text_width=32, canvas=112)

extract = jax.jit(partial(encoding.extract, TINY))
encode = jax.jit(partial(encoding.encode, TINY))
decode = jax.jit(partial(segic.decode, TINY))
segment = jax.jit(partial(segic.segment, TINY))


@pytest.fixture(scope="module")
def weights(golden_weights):
    parts = split_segic(golden_weights("segic"))
    return (
        from_torch(parts.backbone, backbone_template(TINY.backbone).shapes),
        from_torch(parts.head, head_template(TINY).shapes),
    )


@pytest.mark.parametrize(
    "name", ["segic_infer_semantic", "segic_infer_instances", "segic_infer_empty_reference"]
)
def test_logits_equal_the_inference_goldens(golden, weights, name):
    g = golden(name)
    backbone, head = weights
    context = encode(backbone, golden_references(g))
    np.testing.assert_allclose(context.pooled[0], g["mid.inst_feat"], atol=1e-4)
    logits, iou = segment(backbone, head, channels_last(g["in.image"]), g["in.ori_size"], context)
    height, width = g["in.ori_size"][0]
    np.testing.assert_allclose(logits[0, :, :height, :width], g["out.masks"][:, 0], atol=1e-4)
    np.testing.assert_allclose(iou[0], g["out.iou_pred"][:, 0], atol=1e-4)


def test_intermediate_arrays_equal_the_instance_golden(golden, weights):
    g = golden("segic_infer_instances")
    backbone, head = weights
    images = jnp.concatenate([channels_last(g["in.image"]), channels_last(g["in.image_dual"])])
    sizes = np.concatenate([g["in.ori_size"], g["in.ori_size_dual"]])
    features = extract(backbone, images, sizes)
    target, patches = jax.tree.map(lambda x: x[:1], features), features.patches
    np.testing.assert_allclose(patches, channels_last(g["mid.image_embeddings"]), atol=1e-4)
    module = head_template(TINY).bind(head)
    np.testing.assert_allclose(
        module.embed_image(target).patches, channels_last(g["mid.neck_out"]), atol=1e-4
    )
    context = encoding.encode_features(patches[None, 1:], golden_references(g))
    tokens, valid = module.tokens(context, jnp.ones(1, bool))
    np.testing.assert_allclose(tokens[0], g["mid.text_tokens"], atol=1e-4)
    assert valid.all()
    logits, _ = decode(head, target, context)
    np.testing.assert_allclose(logits[0], g["mid.low_res_masks"][:, 0], atol=1e-4)


def test_three_classes_from_three_images(golden, weights):
    g = golden("segic_semseg")
    backbone, head = weights
    batch = references(
        g["in.ref_image"],
        g["in.ref_ori_size"],
        g["in.ref_label"] / 255,
        np.arange(3),
        g["mid.ref_text_features"],
    )
    context = encode(backbone, batch)
    np.testing.assert_allclose(context.pooled[0], g["out.inst_feats"][:, 0], atol=1e-4)
    tokens, _ = head_template(TINY).bind(head).tokens(context, jnp.ones(1, bool))
    np.testing.assert_allclose(tokens[0, :, 0], g["out.prompt_tokens"][:, 0], atol=1e-4)
    logits, iou = segment(backbone, head, channels_last(g["in.image"]), g["in.ori_size"], context)
    height, width = g["in.ori_size"][0]
    masks = logits[0, :, :height, :width]
    np.testing.assert_allclose(masks, g["out.masks"][:, 0], atol=1e-4)
    np.testing.assert_allclose(iou[0], g["out.iou_pred"][:, 0], atol=1e-4)
    # As `custom_eval` of train.py: the mean confidence of all pixels, and the masks at the image's size.
    score = np.mean(jax.nn.sigmoid(np.abs(masks)), axis=(1, 2))
    np.testing.assert_allclose(score, g["out.mask_score"], atol=1e-4)
    full = bilinear(masks[..., None], tuple(g["in.full_hw"].tolist()))[..., 0]
    np.testing.assert_array_equal(full > 0, g["out.full_masks"][:, 0] > 0)


@pytest.fixture(scope="module")
def small():
    """Return a small random model, two targets, and references of four concepts with three shots."""
    config = ModelConfig(
        backbone=ViTConfig(patch_size=8, width=32, depth=1, num_heads=2, pos_grid=4),
        head=HeadConfig(width=32, num_heads=2, mlp_width=64, iou_width=32, mask_channels=8),
        text_width=16,
        canvas=64,
    )
    rng = np.random.default_rng(0)
    masks = rng.random((2, 4, 3, 64, 64)) > 0.4
    masks[:, :, :, :16, :16] = True  # no mask is empty on the grid of patches
    references_batch = encoding.ReferenceBatch(
        images=rng.integers(0, 256, (2, 5, 64, 64, 3), np.uint8),
        sizes=rng.integers(30, 65, (2, 5, 2)),
        masks=masks,
        image_index=rng.integers(0, 5, (2, 4, 3)),
        valid=np.array([[[1, 1, 1], [1, 0, 1], [0, 0, 1], [1, 1, 0]], [[1, 0, 0]] * 4], bool),
        text=rng.normal(size=(2, 4, 16)).astype(np.float32),
    )
    backbone = backbone_template(config.backbone).init(0)
    head = parameters(head_template(config), 0)
    targets = rng.integers(0, 256, (2, 64, 64, 3), np.uint8)
    sizes = np.array([[64, 40], [50, 64]])

    @jax.jit
    def run(targets, sizes, references_batch):
        return segic.segment(
            config, backbone, head, targets, sizes, encoding.encode(config, backbone, references_batch)
        )

    return run, targets, sizes, references_batch, config, backbone


def take(batch, *index):
    return jax.tree.map(lambda x: x[index], batch)


def test_padding_changes_nothing(small):
    """Compare an image with two concepts of two shots, alone and in a batch with garbage in unused slots."""
    run, targets, sizes, batch, _, _ = small
    valid = batch.valid.copy()
    valid[0, 2:] = valid[0, :, 1] = False
    valid[1] = False
    padded = batch._replace(valid=valid)
    used = np.ix_([0], [0, 1], [0, 2])
    single = take(batch, slice(0, 1))._replace(
        masks=batch.masks[used],
        image_index=batch.image_index[used],
        valid=valid[used],
        text=batch.text[:1, :2],
    )
    expected = run(targets[:1], sizes[:1], single)
    logits = run(targets, sizes, padded)
    for a, b in zip(expected, logits, strict=True):
        np.testing.assert_allclose(a[0], b[0, :2], atol=1e-5)
        assert np.isfinite(b).all()


def test_a_concept_alone_is_decoded_as_if_it_were_the_only_one(small):
    _, targets, sizes, batch, config, backbone = small
    head = parameters(head_template(config), 0)
    features = jax.jit(partial(encoding.extract, config))(backbone, targets, sizes)
    context = jax.jit(partial(encoding.encode, config))(backbone, batch)

    @partial(jax.jit, static_argnames="alone")
    def logits(context, alone=False):
        return segic.decode_stages(config, head, features, context, alone=alone).logits

    alone = logits(context, alone=True)
    assert np.abs(alone - logits(context)).max() > 1e-3  # together they read each other's tokens
    for concept in range(alone.shape[1]):
        only = jax.tree.map(lambda x, row=concept: x[:, row : row + 1], context)
        np.testing.assert_allclose(alone[:, concept], logits(only)[:, 0], atol=1e-5)


def test_the_extensions_of_the_head():
    """A similarity map of each level, and finer levels that change the mask where they change."""
    config = EXTENDED
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(1, 4, 4, config.backbone.width)).astype(np.float32)
    fine = tuple(
        rng.normal(size=(1, side, side, width)).astype(np.float32)
        for side, width in zip((8, 16), config.backbone.fine_widths, strict=True)
    )
    pooled = rng.normal(size=(1, 2, config.backbone.width)).astype(np.float32)
    maps = segic.level_similarity(config, patches, pooled)
    width = config.backbone.level_widths[0]
    for level, channels in enumerate((slice(None, width), slice(width, None))):
        expected = segic.similarity_map(patches[..., channels], pooled[..., channels], config.canvas)
        np.testing.assert_allclose(maps[:, :, level], expected, atol=1e-6)

    head = parameters(head_template(config), 0)
    prototypes = encoding.Prototypes(
        pooled, pooled[:, :, None], np.ones((1, 2, 1), bool), np.zeros((1, 2, 16))
    )
    decode = jax.jit(partial(segic.decode, config, head))
    logits, _ = decode(segic.Features(patches, fine), prototypes)
    changed_fine = (
        fine[0],
        fine[1].copy(),
    )  # on a CPU, a jitted function may still read the NumPy arrays it was given
    changed_fine[1][0, 5, 9] += 1
    changed, _ = decode(segic.Features(patches, changed_fine), prototypes)
    rows, columns = np.nonzero(np.abs(np.asarray(changed - logits)).max((0, 1)) > 1e-5)
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {(5, 9)}

    offset = replace(config, head=replace(config.head, logit_offset=0.5))
    raised, _ = jax.jit(partial(segic.decode, offset, head))(segic.Features(patches, fine), prototypes)
    np.testing.assert_allclose(raised, logits + 0.5, atol=1e-6)


def test_the_order_of_concepts_permutes_the_logits(small):
    run, targets, sizes, batch, _, _ = small
    order = [2, 0, 3, 1]
    permuted = batch._replace(
        **{name: getattr(batch, name)[:, order] for name in ("masks", "image_index", "valid", "text")},
    )
    for a, b in zip(run(targets, sizes, batch), run(targets, sizes, permuted), strict=True):
        np.testing.assert_allclose(a[:, order], b, atol=1e-5)


def test_pixels_in_the_padding_are_not_used(small):
    run, targets, sizes, batch, _, _ = small
    other = targets.copy()
    other[0, :, 40:], other[1, 50:] = 7, 200
    for a, b in zip(run(targets, sizes, batch), run(other, sizes, batch), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_repeated_shot_pools_to_the_same_feature(small):
    _, _, _, batch, config, backbone = small
    first = np.ix_(range(2), range(4), [0])
    single = batch._replace(
        masks=batch.masks[first], image_index=batch.image_index[first], valid=np.ones((2, 4, 1), bool)
    )
    repeated = single._replace(
        **{name: np.repeat(getattr(single, name), 3, axis=2) for name in ("masks", "image_index", "valid")},
    )
    pooled_once, pooled_repeatedly = (
        jax.jit(encoding.encode, static_argnums=0)(config, backbone, r) for r in (single, repeated)
    )
    np.testing.assert_allclose(pooled_once.pooled, pooled_repeatedly.pooled, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(pooled_repeatedly.valid, True)


def test_shots_are_averaged_over_the_valid_ones(small):
    _, _, _, batch, config, backbone = small
    context = jax.jit(encoding.encode, static_argnums=0)(config, backbone, batch)
    np.testing.assert_allclose(
        context.pooled[0, 1], (context.visual[0, 1, 0] + context.visual[0, 1, 2]) / 2, atol=1e-6
    )
    np.testing.assert_array_equal(context.visual[0, 1, 1], 0)


def test_a_bfloat16_backbone_gives_float32_features(small):
    _, targets, sizes, _, config, backbone = small
    extract = jax.jit(partial(encoding.extract, config))
    full = extract(backbone, targets, sizes)
    features = extract({name: value.astype(jnp.bfloat16) for name, value in backbone.items()}, targets, sizes)
    assert features.patches.dtype == jnp.float32
    np.testing.assert_allclose(full.patches, features.patches, atol=0.1)
