"""Test ablations: the default equals SegIC, prompts are withheld, extensions work, runs resume."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from segic_jax.commands.command_line import run_command
from segic_jax.config import Config, DataConfig, HeadConfig, OptimConfig, TrainConfig, ViTConfig
from segic_jax.data.emoji.source import EmojiSource
from segic_jax.data.emoji.sprites import SpriteBank
from segic_jax.errors import ConfigError
from segic_jax.evaluate.episodes import score_episodes
from segic_jax.inference.engine import Engine
from segic_jax.models.backbones import backbone_template
from segic_jax.models.correspondence import grid_masks
from segic_jax.models.features import Features
from segic_jax.models.head import head_template
from segic_jax.models.segic import GeometricPrompt, geometric_prompt
from segic_jax.train import forward
from segic_jax.train.forward import NegativeBatch, ShotBatch
from segic_jax.weights.bundle import Bundle, save_bundle
from studies.ablation import __main__ as command
from studies.ablation import backbones, compare, report, run
from studies.ablation.evaluation import PixelCounts, evaluate
from studies.ablation.features import BackboneInput, FeatureStore
from studies.ablation.pairs import Pairs
from studies.ablation.prompting import (
    PROTOTYPES,
    Prompting,
    cluster_prototypes,
    decode_prompted,
    mutual_matches,
    pool_shots,
    several_points,
    training_prompts,
)
from studies.ablation.scenes import SCENES, TRAINING, VALIDATION, VIEWS, Size, episode_classes
from studies.ablation.variants import DEFAULT, Variant, choose_variants, make_variants

pytestmark = pytest.mark.usefixtures("quick_compilation")
MODEL = dataclasses.replace(
    tiny.CONFIG,
    backbone=ViTConfig(patch_size=8, width=16, depth=1, num_heads=2, pos_grid=4),
    head=HeadConfig(
        width=16,
        depth=1,
        num_heads=2,
        mlp_width=16,
        num_mask_tokens=1,
        iou_depth=1,
        iou_width=8,
        mask_channels=4,
    ),
    canvas=32,
)
SIZE = Size(training=24, views=8, classes=2)
BUDGET = run.Budget(steps=2, backbone_steps=1, size=SIZE)


@pytest.fixture(scope="module")
def bundle():
    """Return an untrained model."""
    return Bundle(
        MODEL,
        tiny.parameters(backbone_template(MODEL.backbone), 0),
        tiny.parameters(head_template(MODEL), 1),
        {"": np.zeros(MODEL.text_width, np.float32)},
    )


@pytest.fixture(scope="module")
def config(bundle, tmp_path_factory):
    """Return a configuration for short trainings with that model's backbone."""
    file = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_bundle(file, bundle)
    return Config(
        backbone=str(file),
        model=MODEL,
        optim=OptimConfig(learning_rate=1e-3),
        train=TrainConfig(batch_size=2, num_points=64),
    )


@pytest.fixture(scope="module")
def store(bundle, tmp_path_factory):
    return FeatureStore(
        tmp_path_factory.mktemp("bank"), MODEL, {"supervised": lambda: bundle.backbone}, SIZE, 0
    )


@pytest.fixture(scope="module")
def batch():
    """Return two pairs of two concepts; one is a negative prompt in the second pair."""
    rng = np.random.default_rng(0)
    grid, width = MODEL.grid, MODEL.backbone.width
    features = rng.normal(size=(2, 2, grid, grid, width)).astype(np.float32)
    masks = np.zeros((2, 2, 2, 32, 32), bool)
    masks[0, :, 0, 4:20, 4:20] = masks[1, :, 0, 10:30, 5:25] = masks[:, 0, 1, 15:30, 15:32] = True
    batch = {
        "target_features": Features(features[0]),
        "reference_features": Features(features[1]),
        "target_masks": masks[0],
        "reference_masks": masks[1],
        "valid": np.array([[True, True], [True, False]]),
        "target_prompt": np.array([0, 1]),
        "reference_prompt": np.array([1, 0]),
        "use_box": np.array([[True, False], [False, True]]),
        "use_cross": np.array([[True, False], [True, True]]),
    }
    extra = np.zeros((2, 2, 2), bool)
    extra[1, :, 1] = True
    negatives = NegativeBatch(
        jnp.asarray(extra),
        jnp.asarray(rng.normal(size=(2, 2, 2, width)), jnp.float32),
        jnp.ones((2, 2, 2), jnp.int32),
    )
    table = rng.normal(size=(2, MODEL.text_width)).astype(np.float32)
    return jax.tree.map(jnp.asarray, batch), negatives, jnp.asarray(table)


def test_the_default_equals_the_training_of_segic(bundle, batch):
    batch, negatives, table = batch
    inputs = MODEL, bundle.head, batch, table, negatives
    expected = jax.jit(forward.train_forward, static_argnums=0)(*inputs)
    prompted = partial(forward.train_forward, prompting=training_prompts(Prompting()))
    actual = jax.jit(prompted, static_argnums=0)(*inputs)
    for a, b in zip(expected, actual, strict=True):
        np.testing.assert_allclose(a.decoded.logits, b.decoded.logits, atol=1e-5)
        np.testing.assert_array_equal(a.inputs.inside, b.inputs.inside)
    single_pass = jax.eval_shape(lambda: forward.train_forward(*inputs, reversal=False))
    assert len(single_pass) == 1


def test_the_scores_equal_those_of_the_evaluation(bundle, store):
    """Allow for the float16 precision of the stored features."""
    counts = evaluate(VALIDATION, Variant(DEFAULT, "", ""), bundle.head, store)
    source = EmojiSource("validation")
    manifest = source.manifest("original", 0, 1)
    names = tuple(concept.name for concept in episode_classes(VALIDATION, SIZE))
    episodes = tuple(episode for episode in manifest.episodes if episode.class_id in names)
    part = dataclasses.replace(manifest, classes=names, episodes=episodes)
    expected = score_episodes(Engine(bundle), source, part)["miou"]
    assert counts.union.shape == (2, SCENES)
    assert compare.estimate(compare.class_scores(counts)).value == pytest.approx(expected, abs=0.02)


def test_intervals_draw_classes_with_replacement():
    scores = np.random.default_rng(3).uniform(0, 100, 17)
    draws = np.random.default_rng(0).integers(17, size=(compare.SAMPLES, 17))
    low, high = np.percentile(scores[draws].mean(1), [2.5, 97.5])
    assert compare.estimate(scores) == pytest.approx((scores.mean(), low, high))


def decode_pair(bundle: Bundle, prompting: Prompting, seed: int, text: float = 0.0):
    """Decode a fixed target with references that depend on `seed`."""
    grid, width = MODEL.grid, MODEL.backbone.width
    target = np.random.default_rng(9).normal(size=(1, grid, grid, width)).astype(np.float32)
    features = np.random.default_rng(seed).normal(size=(1, 1, grid, grid, width)).astype(np.float32)
    masks = np.zeros((1, 1, 1, 32, 32), bool)
    masks[..., 5:25, 5:25] = True
    inside = grid_masks(masks, grid)
    shots = ShotBatch(features, inside, np.full((1, 1, 4), text, np.float32), np.ones((1, 1), bool))
    return program(prompting, bundle.head, target, shots)


@partial(jax.jit, static_argnums=0)
def program(prompting: Prompting, head, target, shots: ShotBatch):
    """Return logits, similarity map and valid tokens."""
    return decode_prompted(prompting, MODEL, head, Features(target), shots)


def test_a_withheld_prompt_has_no_influence(bundle):
    text_only = Prompting(geometric=False, visual=False)
    np.testing.assert_array_equal(
        decode_pair(bundle, text_only, 1).logits, decode_pair(bundle, text_only, 2).logits
    )
    assert (
        np.abs(
            decode_pair(bundle, text_only, 1).logits - decode_pair(bundle, text_only, 1, text=1.0).logits
        ).max()
        > 1e-3
    )
    visual, geometric = Prompting(geometric=False), Prompting(visual=False)
    assert not decode_pair(bundle, visual, 1).map.any()
    assert np.abs(decode_pair(bundle, visual, 1).logits - decode_pair(bundle, visual, 2).logits).max() > 1e-3
    assert decode_pair(bundle, geometric, 1).tokens_valid.sum() == 1  # that of the empty prompt
    assert (
        np.abs(decode_pair(bundle, geometric, 1).logits - decode_pair(bundle, geometric, 2).logits).max()
        > 1e-3
    )


def one_reference(patches: np.ndarray, inside: np.ndarray) -> ShotBatch:
    """Return patches [g, g, channels] as a reference, with a mask of the patches `inside`."""
    return ShotBatch(
        jnp.asarray(patches, jnp.float32)[None, None],
        jnp.asarray(inside, jnp.float32)[None, None, None],
        jnp.zeros((1, 1, 4)),
        jnp.ones((1, 1), bool),
    )


def test_mutual_matches_exclude_patches_nearer_to_the_background():
    """Represent the object by axis 0 and the background by axis 1, with one patch between them."""
    axes = np.eye(3)
    inside = np.array([[True, False], [False, False]])
    shots = one_reference(np.array([[axes[0], axes[1]], [axes[1], axes[0] + 2 * axes[1]]]), inside)
    target = np.array([[axes[0], axes[1]], [0.5 * axes[0] + axes[1], -axes[0]]])
    matches = mutual_matches(jnp.asarray(target, jnp.float32)[None], shots, pool_shots(shots).mean(2))
    # The third patch has a positive cosine, but a background patch of the reference is more similar.
    np.testing.assert_array_equal(matches[0, 0], [[1, 0], [0, 0]])


def test_prototypes_are_the_parts_of_an_object():
    axes = np.eye(4)
    patches = axes[np.array([[0, 0, 1, 3], [0, 1, 1, 3], [2, 2, 2, 3], [3, 3, 3, 3]])]
    prototypes = cluster_prototypes(one_reference(patches, patches[..., 3] == 0))[0, 0]
    assert prototypes.shape == (PROTOTYPES, 4)
    np.testing.assert_allclose(sorted(map(tuple, np.asarray(prototypes))), axes[[2, 1, 0]], atol=1e-6)


def test_several_points_lie_on_different_maxima():
    similarity = np.zeros((1, 1, 16, 16), np.float32)
    similarity[0, 0, 2, 3], similarity[0, 0, 12, 13], similarity[0, 0, 7, 1] = 1.0, 0.9, 0.3
    similarity[0, 0, 14, 2] = -1.0
    prompt: GeometricPrompt = several_points(geometric_prompt(jnp.asarray(similarity), 64), 64)
    assert prompt.points_valid[0, 0].tolist() == [True, True, False, True]  # the third maximum is too low
    assert prompt.point_labels[0, 0].tolist() == [1, 1, 1, 0]
    points = np.asarray(prompt.points[0, 0])[[0, 1, 3]] / 4
    np.testing.assert_allclose(points, [[3, 2], [13, 12], [2, 14]], atol=1)


def test_pairs_show_one_class_in_two_scenes(store):
    scenes, views = store.scenes(TRAINING), store.scenes(VIEWS)
    pairs = Pairs(scenes, views, 497, 2, DataConfig(), text_keep=1.0, negative=1.0)
    assert len(pairs.by_class) > 0
    batch = pairs.batch(np.random.default_rng(0), 40)
    repeated = pairs.batch(np.random.default_rng(0), 40)
    assert all(np.array_equal(batch[name], repeated[name]) for name in batch)
    assert 5 < batch["is_instance"].sum() < 35
    for row in range(40):
        target, reference = batch["target"][row], batch["reference"][row]
        assert target != reference
        if batch["is_instance"][row]:
            assert batch["target_prompt"][row] == 1
            assert (batch["negative_rows"][row] == -1).all()
        else:
            classes = [
                scenes.objects[scene, batch[side][row][0] - 1, 0]
                for side, scene in (
                    ("target_concept_labels", target),
                    ("reference_concept_labels", reference),
                )
            ]
            assert classes[0] == classes[1] == batch["class_row"][row] - 2
            objects = scenes.objects[[target, reference], :, 0]
            assert not np.isin(batch["negative_rows"][row] - 2, objects[objects >= 0]).any()


def test_fine_features_have_the_usual_grid_and_are_deleted(store):
    """Pool features of larger images to the usual grid, and delete them."""
    fine = BackboneInput(fine=True)
    usual, pooled = store.features(VALIDATION, BackboneInput()), store.features(VALIDATION, fine)
    assert usual.shape == pooled.shape == (2 * SCENES, 4, 4, MODEL.backbone.width)
    assert not np.array_equal(usual, pooled)
    store.delete(fine)
    remaining = [file.name for file in store.folder.glob("*_supervised_*")]
    assert len(remaining) == 1
    assert not any("fine" in name for name in remaining)


def test_the_self_supervised_backbone_uses_drawings_instead_of_classes(monkeypatch):
    compositions = []

    def record(rng, objects, canvas, style):
        compositions.append(objects)
        return np.zeros((canvas, canvas, 3), np.uint8), np.zeros((canvas, canvas), np.uint8)

    monkeypatch.setattr(backbones, "compose", record)
    bank = SpriteBank.load("base")
    for positives, one_artist in (("drawings", True), ("classes", False)):
        compositions.clear()
        identities = backbones.scene_group(np.random.default_rng(0), bank, positives, 8)["identities"]
        objects_seen = {
            (int(identity), *drawing)
            for row, objects in zip(identities, compositions, strict=True)
            for identity, drawing in zip(row, objects, strict=False)
        }
        assert (len(objects_seen) == len({identity for identity, _, _ in objects_seen})) == one_artist
        assert len({name for _, name, _ in objects_seen}) == backbones.IDENTITIES


def counts(scores: list[int]) -> PixelCounts:
    """Return classes with these scores, of one episode with 100 pixels each."""
    return PixelCounts(np.array(scores)[:, None], np.full((len(scores), 1), 100))


def test_the_bootstrap_draws_the_same_classes_for_both():
    """Check intervals: the mean of two classes drawn twice is either score or their mean."""
    assert compare.estimate(np.array([1.0, 3.0])) == (2, 1, 3)
    scores_of_classes = [10, 80, 35, 60, 5]
    better = compare.difference(counts([score + 4 for score in scores_of_classes]), counts(scores_of_classes))
    np.testing.assert_allclose(better, (4, 4, 4))  # although the classes differ
    low, high = compare.estimate(np.array(scores_of_classes, float))[1:]
    assert high - low > 20
    # For many scores the interval is the mean plus and minus 1.96 standard errors.
    scores = np.random.default_rng(0).normal(size=400)
    mean, low, high = compare.estimate(scores)
    error = 1.96 * scores.std() / 20
    np.testing.assert_allclose([low, high], [mean - error, mean + error], atol=0.1 * error)


def test_a_winner_is_above_zero_on_validation_classes():
    rows = (Variant(DEFAULT, "default", ""), Variant("a", "extensions", ""), Variant("b", "extensions", ""))
    results = {
        DEFAULT: {VALIDATION: counts([10, 20, 30])},
        "a": {VALIDATION: counts([60, 60, 20])},  # better on average, but not significantly
        "b": {VALIDATION: counts([11, 22, 33])},
    }
    assert report.winner(report.make_table(rows, results)) == "b"
    del results["b"]
    assert report.winner(report.make_table(rows, results)) is None


def test_variants_are_chosen_by_group_with_their_default():
    rows = make_variants(128, 8)
    assert {row.input.canvas for row in rows} == {0, 96, 160}
    assert len({row.name for row in rows}) == len(rows)
    assert [row.name for row in choose_variants(rows, "text")] == [DEFAULT, "all", "unnamed"]
    assert choose_variants(rows, "") == list(rows)
    with pytest.raises(ConfigError, match="no group or row 'nonsense': choose among augmentation"):
        choose_variants(rows, "nonsense")


def test_a_killed_run_resumes(config, tmp_path, monkeypatch, capsys):
    out, trained = tmp_path / "out", []
    train = run.train_head

    def record_and_train(row, *others):
        trained.append(row.name)
        if trained == [DEFAULT, "seed"]:
            raise KeyboardInterrupt
        return train(row, *others)

    monkeypatch.setattr(run, "train_head", record_and_train)
    with pytest.raises(KeyboardInterrupt):
        run.run_ablation(config, out, only="seed", budget=BUDGET)
    table = run.run_ablation(config, out, only="seed", budget=BUDGET)
    assert trained == [DEFAULT, "seed", "seed"]
    assert [row["name"] for row in table] == [DEFAULT, "seed"]
    assert "Not run yet: shots_2_mean" in (out / "table.md").read_text()
    assert (out / "plot.png").stat().st_size > 1000
    assert json.loads((out / "table.json").read_text())["rows"][1]["name"] == "seed"

    # Finished rows are not trained again; a repeated row has the same result.
    (out / "rows/seed.json").unlink()
    assert run.run_ablation(config, out, only="seed", budget=BUDGET) == table
    assert trained[3:] == ["seed"]

    changed = dataclasses.replace(config, optim=OptimConfig(learning_rate=2e-3))
    with pytest.raises(ConfigError, match=r"other settings \(optim\): give another folder"):
        run.run_ablation(changed, out, only="seed", budget=BUDGET)


def test_a_missing_configuration_is_reported(tmp_path, capsys):
    args = command.Args(str(tmp_path / "none.py"), tmp_path / "out")
    assert run_command(lambda: command.main(args)) == 2
    assert "there is no such configuration file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
