"""Ablations: the default is SegIC itself, prompts are withheld, extensions work, runs resume."""

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
from segic_jax.models.segic import (
    GeometricPrompt,
    backbone_template,
    geometric_prompt,
    head_template,
)
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
)
from studies.ablation.scenes import SCENES, TRAINING, VALIDATION, VIEWS, Size, episode_classes
from studies.ablation.variants import DEFAULT, Variant, choose_variants, make_variants

MODEL = dataclasses.replace(
    tiny.CONFIG,
    vit=ViTConfig(patch_size=8, width=16, depth=1, num_heads=2, pos_grid=4),
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
    """A model that has learned nothing."""
    return Bundle(
        MODEL,
        tiny.parameters(backbone_template(MODEL.vit), 0),
        tiny.parameters(head_template(MODEL), 1),
        {"": np.zeros(MODEL.text_width, np.float32)},
    )


@pytest.fixture(scope="module")
def config(bundle, tmp_path_factory):
    """Its backbone, and trainings of seconds."""
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
    """Two pairs with two concepts, one of which is a negative prompt in the second pair."""
    rng = np.random.default_rng(0)
    grid, width = MODEL.grid, MODEL.vit.width
    features = rng.normal(size=(2, 2, grid, grid, width)).astype(np.float32)
    masks = np.zeros((2, 2, 2, 32, 32), bool)
    masks[0, :, 0, 4:20, 4:20] = masks[1, :, 0, 10:30, 5:25] = masks[:, 0, 1, 15:30, 15:32] = True
    batch = {
        "target_features": features[0],
        "reference_features": features[1],
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


def test_without_changes_it_is_the_training_of_segic(bundle, batch):
    batch, negatives, table = batch
    head = bundle.head
    features = batch["target_features"], batch["reference_features"]
    given = MODEL, head, *features, batch, table, negatives
    expected = jax.jit(forward.train_forward, static_argnums=0)(*given)
    prompted = partial(forward.train_forward, decode=partial(decode_prompted, Prompting()))
    got = jax.jit(prompted, static_argnums=0)(*given)
    for one, other in zip(expected, got, strict=True):
        np.testing.assert_allclose(one.decoded.logits, other.decoded.logits, atol=1e-5)
        np.testing.assert_array_equal(one.context_masks, other.context_masks)
    alone = jax.eval_shape(lambda: forward.train_forward(*given, reversal=False))
    assert len(alone) == 1


def test_its_scores_are_those_of_the_evaluation(bundle, store):
    """Up to the half precision of the kept features."""
    counts = evaluate(VALIDATION, Variant(DEFAULT, "", ""), bundle.head, store)
    source = EmojiSource("validation")
    manifest = source.manifest("original", 0, 1)
    names = tuple(one.name for one in episode_classes(VALIDATION, SIZE))
    episodes = tuple(episode for episode in manifest.episodes if episode.class_id in names)
    part = dataclasses.replace(manifest, classes=names, episodes=episodes)
    expected = score_episodes(bundle, source, part)["miou"]
    assert counts.union.shape == (2, SCENES)
    assert compare.estimate(compare.class_scores(counts)).value == pytest.approx(expected, abs=0.02)


def test_intervals_draw_classes_with_replacement():
    scores = np.random.default_rng(3).uniform(0, 100, 17)
    draws = np.random.default_rng(0).integers(17, size=(compare.SAMPLES, 17))
    low, high = np.percentile(scores[draws].mean(1), [2.5, 97.5])
    assert compare.estimate(scores) == pytest.approx((scores.mean(), low, high))


def decoded(bundle: Bundle, prompting: Prompting, seed: int, text: float = 0.0):
    """One fixed target with references that differ by `seed`."""
    grid, width = MODEL.grid, MODEL.vit.width
    target = np.random.default_rng(9).normal(size=(1, grid, grid, width)).astype(np.float32)
    features = np.random.default_rng(seed).normal(size=(1, 1, grid, grid, width)).astype(np.float32)
    masks = np.zeros((1, 1, 1, 32, 32), bool)
    masks[..., 5:25, 5:25] = True
    shots = ShotBatch(features, masks, np.full((1, 1, 4), text, np.float32), np.ones((1, 1), bool))
    return program(prompting, bundle.head, target, shots)


@partial(jax.jit, static_argnums=0)
def program(prompting: Prompting, head, target, shots: ShotBatch):
    """Logits, map and which tokens are read."""
    return decode_prompted(
        prompting, MODEL, head, target, shots, pool_shots(shots), boxes=None, use_box=None, use_cross=True
    )[1]


def test_a_withheld_prompt_changes_nothing(bundle):
    nothing = Prompting(geometric=False, visual=False)
    np.testing.assert_array_equal(decoded(bundle, nothing, 1).logits, decoded(bundle, nothing, 2).logits)
    assert (
        np.abs(decoded(bundle, nothing, 1).logits - decoded(bundle, nothing, 1, text=1.0).logits).max() > 1e-3
    )
    visual, geometric = Prompting(geometric=False), Prompting(visual=False)
    assert not decoded(bundle, visual, 1).map.any()
    assert np.abs(decoded(bundle, visual, 1).logits - decoded(bundle, visual, 2).logits).max() > 1e-3
    assert decoded(bundle, geometric, 1).tokens_valid.sum() == 1  # the empty sentence's
    assert np.abs(decoded(bundle, geometric, 1).logits - decoded(bundle, geometric, 2).logits).max() > 1e-3


def one_reference(cells: np.ndarray, inside: np.ndarray) -> ShotBatch:
    """`cells` [g, g, channels] as a reference, with a mask of the cells `inside`."""
    masks = np.kron(inside, np.ones((8, 8), bool)).astype(bool)
    return ShotBatch(
        jnp.asarray(cells, jnp.float32)[None, None],
        jnp.asarray(masks)[None, None, None],
        jnp.zeros((1, 1, 4)),
        jnp.ones((1, 1), bool),
    )


def test_mutual_choice():
    """Axis 0 is the object, axis 1 the background, of which a part also looks a little like the object."""
    axes = np.eye(3)
    inside = np.array([[True, False], [False, False]])
    shots = one_reference(np.array([[axes[0], axes[1]], [axes[1], axes[0] + 2 * axes[1]]]), inside)
    target = np.array([[axes[0], axes[1]], [0.5 * axes[0] + axes[1], -axes[0]]])
    found = mutual_matches(jnp.asarray(target, jnp.float32)[None], shots, pool_shots(shots).mean(2))
    # The third cell's cosine is above 0, but a background cell of the reference is more like it.
    np.testing.assert_array_equal(found[0, 0], [[1, 0], [0, 0]])


def test_prototypes_are_the_parts_of_an_object():
    axes = np.eye(4)
    cells = axes[np.array([[0, 0, 1, 3], [0, 1, 1, 3], [2, 2, 2, 3], [3, 3, 3, 3]])]
    found = cluster_prototypes(one_reference(cells, cells[..., 3] == 0))[0, 0]
    assert found.shape == (PROTOTYPES, 4)
    np.testing.assert_allclose(sorted(map(tuple, np.asarray(found))), axes[[2, 1, 0]], atol=1e-6)


def test_several_points_lie_on_different_hills():
    similarity = np.zeros((1, 1, 16, 16), np.float32)
    similarity[0, 0, 2, 3], similarity[0, 0, 12, 13], similarity[0, 0, 7, 1] = 1.0, 0.9, 0.3
    similarity[0, 0, 14, 2] = -1.0
    found: GeometricPrompt = several_points(geometric_prompt(jnp.asarray(similarity), 64), 64)
    assert found.points_valid[0, 0].tolist() == [True, True, False, True]  # the third hill is too low
    assert found.point_labels[0, 0].tolist() == [1, 1, 1, 0]
    near = np.asarray(found.points[0, 0])[[0, 1, 3]] / 4
    np.testing.assert_allclose(near, [[3, 2], [13, 12], [2, 14]], atol=1)


def test_pairs_show_one_class_in_two_scenes(store):
    scenes, views = store.scenes(TRAINING), store.scenes(VIEWS)
    pairs = Pairs(scenes, views, 497, 2, DataConfig(), text_keep=1.0, negative=1.0)
    assert len(pairs.by_class) > 0
    batch = pairs.batch(np.random.default_rng(0), 40)
    again = pairs.batch(np.random.default_rng(0), 40)
    assert all(np.array_equal(batch[name], again[name]) for name in batch)
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
            shown = scenes.objects[[target, reference], :, 0]
            assert not np.isin(batch["negative_rows"][row] - 2, shown[shown >= 0]).any()


def test_features_of_another_kind(store):
    """The same images, larger: the pooled features lie on the usual grid, and leave nothing behind."""
    fine = BackboneInput(fine=True)
    usual, pooled_ones = store.features(VALIDATION, BackboneInput()), store.features(VALIDATION, fine)
    assert usual.shape == pooled_ones.shape == (2 * SCENES, 4, 4, MODEL.vit.width)
    assert not np.array_equal(usual, pooled_ones)
    store.delete(fine)
    left = [file.name for file in store.folder.glob("*_supervised_*")]
    assert left
    assert not any("fine" in name for name in left)


def test_the_self_supervised_backbone_is_told_drawings_and_no_classes(monkeypatch):
    drawn = []

    def composed(rng, objects, canvas, style):
        drawn.append(objects)
        return np.zeros((canvas, canvas, 3), np.uint8), np.zeros((canvas, canvas), np.uint8)

    monkeypatch.setattr(backbones, "compose", composed)
    bank = SpriteBank.load("base")
    for positives, one_artist in (("drawings", True), ("classes", False)):
        drawn.clear()
        identities = backbones.scene_group(np.random.default_rng(0), bank, positives, 8)["identities"]
        shown = {
            (int(thing), *which)
            for row, objects in zip(identities, drawn, strict=True)
            for thing, which in zip(row, objects, strict=False)
        }
        assert (len(shown) == len({thing for thing, _, _ in shown})) == one_artist
        assert len({name for _, name, _ in shown}) == backbones.IDENTITIES


def counts(scores: list[int]) -> PixelCounts:
    """Classes of one episode of 100 pixels with these scores."""
    return PixelCounts(np.array(scores)[:, None], np.full((len(scores), 1), 100))


def test_the_bootstrap_draws_the_same_classes_for_both():
    """Two classes: the mean of two draws is one's score, the other's, or between, with 1/4, 1/4 and 1/2."""
    assert compare.estimate(np.array([1.0, 3.0])) == (2, 1, 3)
    wild = [10, 80, 35, 60, 5]
    better = compare.difference(counts([score + 4 for score in wild]), counts(wild))
    np.testing.assert_allclose(better, (4, 4, 4))  # however much classes differ
    low, high = compare.estimate(np.array(wild, float))[1:]
    assert high - low > 20
    # The interval of a mean of many: 1.96 standard errors either way.
    scores = np.random.default_rng(0).normal(size=400)
    mean, low, high = compare.estimate(scores)
    error = 1.96 * scores.std() / 20
    np.testing.assert_allclose([low, high], [mean - error, mean + error], atol=0.1 * error)


def test_a_winner_is_above_zero_on_validation_classes():
    rows = (Variant(DEFAULT, "default", ""), Variant("a", "extensions", ""), Variant("b", "extensions", ""))
    results = {
        DEFAULT: {VALIDATION: counts([10, 20, 30])},
        "a": {VALIDATION: counts([60, 60, 20])},  # better on average, not surely
        "b": {VALIDATION: counts([11, 22, 33])},
    }
    assert report.winner(report.make_table(rows, results)) == "b"
    del results["b"]
    assert report.winner(report.make_table(rows, results)) is None


def test_rows_and_their_choice():
    rows = make_variants(128, 8)
    assert {row.input.canvas for row in rows} == {0, 96, 160}
    assert len({row.name for row in rows}) == len(rows)
    assert [row.name for row in choose_variants(rows, "text")] == [DEFAULT, "all", "unnamed"]
    assert choose_variants(rows, "") == list(rows)
    with pytest.raises(ConfigError, match="no group or row 'nonsense': choose among augmentation"):
        choose_variants(rows, "nonsense")


def test_a_run_goes_on_where_it_was_killed(config, tmp_path, monkeypatch, capsys):
    out, trained = tmp_path / "out", []
    train = run.train_head

    def watched(row, *others):
        trained.append(row.name)
        if trained == [DEFAULT, "seed"]:
            raise KeyboardInterrupt
        return train(row, *others)

    monkeypatch.setattr(run, "train_head", watched)
    with pytest.raises(KeyboardInterrupt):
        run.run_ablation(config, out, only="seed", budget=BUDGET)
    table = run.run_ablation(config, out, only="seed", budget=BUDGET)
    assert trained == [DEFAULT, "seed", "seed"]
    assert [row["name"] for row in table] == [DEFAULT, "seed"]
    assert "Not run yet: shots_2_mean" in (out / "table.md").read_text()
    assert (out / "plot.png").stat().st_size > 1000
    assert json.loads((out / "table.json").read_text())["rows"][1]["name"] == "seed"

    # What is there is not done again; what is done anew comes out the same.
    (out / "rows/seed.json").unlink()
    assert run.run_ablation(config, out, only="seed", budget=BUDGET) == table
    assert trained[3:] == ["seed"]

    other = dataclasses.replace(config, optim=OptimConfig(learning_rate=2e-3))
    with pytest.raises(ConfigError, match=r"other settings \(optim\): give another folder"):
        run.run_ablation(other, out, only="seed", budget=BUDGET)


def test_mistakes_are_one_sentence(tmp_path, capsys):
    args = command.Args(str(tmp_path / "none.py"), tmp_path / "out")
    assert run_command(lambda: command.main(args)) == 2
    assert "there is no such configuration file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
