"""Test the training-free method through the Segmenter: the same Context, the same Result."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tiny import CONFIG, bundle, random_image

from segic_jax import Example
from segic_jax.config import ModelConfig
from segic_jax.errors import BundleError, ConfigError, DataError
from segic_jax.inference.segmenter import Segmenter
from segic_jax.inference.training_free.settings import TrainingFree
from segic_jax.models.params import as_float32
from segic_jax.weights.bundle import Weights, load_backbone, write_weights

SETTINGS = TrainingFree(components=4, similarity=0.5, least=0.05)


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(bundle(), method=SETTINGS)


def example(seed: int, name: str | None, **fields) -> Example:
    return Example(*random_image(seed, 60 + seed, 70), name=name, **fields)


@pytest.mark.parametrize("size", [(50, 80), (131, 64), (64, 64), (3, 90)])
@pytest.mark.parametrize("stretched", [True, False])
def test_results_have_the_targets_size(size, stretched):
    segmenter = Segmenter(bundle(), method=dataclasses.replace(SETTINGS, stretched=stretched))
    target = random_image(1, *size)[0] if min(size) > 3 else np.zeros((*size, 3), np.uint8)
    result = segmenter.predict(target, segmenter.fit(example(0, "disk")))
    assert result.masks.shape == (1, *size)
    assert result.present[0] == (result.areas[0] > 0)
    assert result.placed == ((64, 64) if stretched else tuple(max(1, 64 * n // max(size)) for n in size))


def test_several_classes_shots_and_negatives(segmenter):
    context = segmenter.fit(
        [example(0, "a"), example(1, "b"), example(2, "a"), example(3, None, negative=True)]
    )
    assert context.shots == {"a": 2, "b": 1}
    assert [len(concept.inside) for concept in (*context.concepts, *context.negatives)] == [2, 1, 1]
    assert len(context.grids) == len(context.references) == 4
    target = random_image(9, 50, 80)[0]
    several = segmenter.predict(target, context)
    alone = segmenter.fit([example(0, "a"), example(2, "a")])
    single = segmenter.predict(target, alone, keep_absent=True)
    without = segmenter.predict(target, segmenter.fit([example(1, "b"), example(0, "a"), example(2, "a")]))
    np.testing.assert_array_equal(without.small_logits[1], single.small_logits[0])
    assert (several.small_logits[0] <= single.small_logits[0]).all()  # a negative only takes away


def test_an_object_finds_itself(segmenter):
    """The reference as its own target: what remains are clusters that look like the object."""
    image, mask = random_image(4, 64, 64)
    result = segmenter.predict(image, segmenter.fit(Example(image, mask, name="disk")))
    found = result.masks[0]
    assert result.present[0]
    assert (found & mask).sum() / (found | mask).sum() > 0.5


def test_contexts_are_saved_added_and_dropped(segmenter, tmp_path):
    examples = [example(i, "abc"[i]) for i in range(3)]
    context = segmenter.fit(examples)
    context.save(tmp_path / "pets.segic")
    target = random_image(9, 50, 80)[0]
    expected = segmenter.predict(target, context).small_logits
    loaded = segmenter.load_context(tmp_path / "pets.segic")
    np.testing.assert_array_equal(segmenter.predict(target, loaded).small_logits, expected)
    added = segmenter.fit(examples[1:], segmenter.fit(examples[0]))
    np.testing.assert_array_equal(segmenter.predict(target, added).small_logits, expected)
    dropped = added.drop("a")
    assert len(dropped.grids) == 2
    np.testing.assert_array_equal(segmenter.predict(target, dropped).small_logits, expected[1:])
    other = Segmenter(bundle())
    with pytest.raises(DataError, match="another model"):
        other.load_context(tmp_path / "pets.segic")
    other.fit(examples).save(tmp_path / "segic.segic")
    with pytest.raises(DataError, match="another model"):
        segmenter.load_context(tmp_path / "segic.segic")


def test_explanations_tiles_many_and_corrections(segmenter):
    context = segmenter.fit([example(0, "a"), example(1, "b")])
    targets = [random_image(seed, 90, 70)[0] for seed in (5, 6, 7)]
    results = list(segmenter.predict_many(targets, context))
    single = segmenter.predict(targets[1], context)
    np.testing.assert_array_equal(results[1].small_logits, single.small_logits)
    explanations = segmenter.explain(targets[0], context)
    assert [explanation.heat.shape for explanation in explanations] == [(90, 70)] * 2
    result, same = segmenter.predict_and_explain(targets[0], context)
    np.testing.assert_array_equal(result.small_logits, results[0].small_logits)
    assert same[0].matches == explanations[0].matches
    tiled = segmenter.predict(targets[0], context, tiles=2)
    assert tiled.masks.shape == (2, 90, 70)
    for click in ((60.0, 80.0, True), (60.0, 80.0, False)):
        corrected = segmenter.refine(result, points=[click], name="a")
        assert corrected.masks[0][80, 60] == click[2]


def test_a_backbone_alone_is_enough(tmp_path):
    model = bundle()
    write_weights(
        tmp_path / "backbone.safetensors", Weights(backbone_config=CONFIG.backbone, backbone=model.backbone)
    )
    with pytest.raises(BundleError, match="not a complete model"):
        Segmenter.load(tmp_path / "backbone.safetensors")
    alone = load_backbone(tmp_path / "backbone.safetensors")
    alone = dataclasses.replace(alone, backbone=as_float32(alone.backbone))
    segmenter = Segmenter(alone, method=dataclasses.replace(SETTINGS, canvas=64))
    complete = Segmenter(model, method=SETTINGS)
    contexts = [one.fit(example(0, "a")) for one in (segmenter, complete)]
    target = random_image(5, 60, 70)[0]
    np.testing.assert_array_equal(
        *(
            one.predict(target, context).small_logits
            for one, context in zip((segmenter, complete), contexts, strict=True)
        )
    )
    assert Segmenter.load(tmp_path / "backbone.safetensors", method="training_free").config.canvas == 1024
    write_weights(tmp_path / "text.safetensors", Weights(text={"": np.ones(4, np.float32)}))
    with pytest.raises(BundleError, match="no backbone"):
        load_backbone(tmp_path / "text.safetensors")


def test_what_needs_a_head_is_refused(segmenter):
    with pytest.raises(ConfigError, match="reads no text"):
        segmenter.fit(example(0, "disk"), class_names=True)
    context = segmenter.fit(example(0, "disk"))
    with pytest.raises(ConfigError, match="leave together out"):
        segmenter.predict(random_image(1, 50, 50)[0], context, together=True)
    with pytest.raises(ConfigError, match="must be a multiple"):
        Segmenter(bundle(), method=TrainingFree(components=0, canvas=100))


def test_presets_are_for_the_canvas_of_the_model():
    wide = dataclasses.replace(bundle(), config=ModelConfig(CONFIG.backbone, CONFIG.head, 4, canvas=96))
    segmenter = Segmenter(wide, method="training_free")
    assert segmenter.config.canvas == 96
    assert segmenter.engine.settings == TrainingFree.for_backbone(CONFIG.backbone)


def test_a_crf_moves_edges_and_keeps_the_confidence():
    plain = Segmenter(bundle(), method="training_free")
    refined = Segmenter(bundle(), method="training_free_crf")
    assert refined.engine.settings == dataclasses.replace(plain.engine.settings, crf=True)
    target = random_image(5, 60, 70)[0]
    before, after = (one.predict(target, one.fit(example(0, "a"))).logits(0) for one in (plain, refined))
    assert (before > 0).any()
    assert ((before > 0) != (after > 0)).any()
    np.testing.assert_allclose(after.max(), before.max())


def test_the_packaged_model_tells_a_cat_from_an_owl():
    """Its calibration is for the settings of its backbone."""
    examples = Path(__file__).parents[3] / "examples"
    segmenter = Segmenter.load(method="training_free")
    assert segmenter.calibrated
    assert segmenter.warnings == ()
    cat = Example(examples / "cat_reference.jpg", examples / "cat_reference_mask.png", name="cat")
    context = segmenter.fit(cat)
    kitten, owl = (segmenter.predict(examples / f"targets/{name}.jpg", context) for name in ("kitten", "owl"))
    assert kitten.present[0]
    assert not owl.present[0]
