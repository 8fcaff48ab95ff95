import multiprocessing
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import pytest
from layouts_training import source_configs, write_training

from segic_jax.config import INSTANCE_PROMPT, DataConfig, class_prompt
from segic_jax.data import pipeline
from segic_jax.data.augment import draw_view, view_image, view_mask
from segic_jax.data.pairs import AnnotatedImage, Pair
from segic_jax.data.pipeline import CANDIDATES, training_batches
from segic_jax.data.training_sources import open_mixture
from segic_jax.errors import ConfigError, DataError

CONFIG = DataConfig(max_concepts=3)
PROMPTS = {"": 0, INSTANCE_PROMPT: 1, class_prompt("ant"): 2, class_prompt("bee"): 3}


@dataclass(frozen=True)
class Noise:
    """Yield images of random sizes; concept i of n has its own rows, and (i + 1) / n of the width."""

    concepts: int = 2
    is_instance: bool = False
    uneven: bool = False
    absent: tuple[str, ...] = ()

    class_names = ("ant", "bee")
    has_instances = False

    def __len__(self):
        return 5

    def pair(self, rng):
        target = self._image(rng, self.concepts)
        reference = target if self.is_instance else self._image(rng, self.concepts + self.uneven)
        return Pair(target, reference, ("ant", "bee")[rng.integers(2)], self.is_instance, self.absent)

    def _image(self, rng, concepts):
        height, width = rng.integers(20, 60, 2)
        masks = np.zeros((concepts, height, width), bool)
        for i in range(concepts):
            masks[i, 3 * i : 3 * i + 2, : width * (i + 1) // concepts] = True
        return AnnotatedImage(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), masks)


def batches(count, config=CONFIG, source=None, **options):
    arguments = {"canvas": 32, "prompts": PROMPTS, "seed": 7, "global_batch": 8} | options
    iterator = training_batches(source or Noise(), config, **arguments)
    try:
        return [unpack(batch, arguments["canvas"]) for batch in islice(iterator, count)]
    finally:
        iterator.close()


def unpack(batch, canvas):
    masks = {
        name: np.unpackbits(batch[name], axis=-1, count=canvas).astype(bool)
        for name in ("target_masks", "reference_masks")
    }
    return batch | masks


def assert_equal(actual, expected):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_shapes_types_and_padding_of_a_batch():
    batch = batches(1)[0]
    assert {name: (value.dtype.name, value.shape) for name, value in batch.items()} == {
        "target_image": ("uint8", (8, 32, 32, 3)),
        "reference_image": ("uint8", (8, 32, 32, 3)),
        "target_size": ("int32", (8, 2)),
        "reference_size": ("int32", (8, 2)),
        "target_masks": ("bool", (8, 3, 32, 32)),
        "reference_masks": ("bool", (8, 3, 32, 32)),
        "valid": ("bool", (8, 3)),
        "target_prompt": ("int32", (8,)),
        "reference_prompt": ("int32", (8,)),
        "class_row": ("int32", (8,)),
        "negative_rows": ("int32", (8, 40)),
        "unreadable": ("int32", (8,)),
        "use_box": ("bool", (8, 2)),
        "use_cross": ("bool", (8, 2)),
    }
    np.testing.assert_array_equal(batch["valid"], [[True, True, False]] * 8)
    assert not batch["target_masks"][:, 2].any()
    for image, (height, width) in zip(batch["target_image"], batch["target_size"], strict=True):
        assert (image[height:] == 128).all()
        assert (image[:, width:] == 128).all()


def test_masks_are_packed_along_rows():
    iterator = training_batches(Noise(), CONFIG, canvas=35, prompts=PROMPTS, seed=7, global_batch=2)
    try:
        packed = next(iterator)["target_masks"]
    finally:
        iterator.close()
    assert (packed.dtype, packed.shape) == (np.uint8, (2, 3, 35, 5))
    masks = np.unpackbits(packed, axis=-1, count=35)
    np.testing.assert_array_equal(masks.any((2, 3)), [[True, True, False]] * 2)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_global_batch(hosts):
    expected = batches(3)
    parts = [batches(3, host=host, hosts=hosts) for host in range(hosts)]
    joined = [
        {name: np.concatenate([part[step][name] for part in parts]) for name in expected[0]}
        for step in range(3)
    ]
    assert_equal(joined, expected)


def test_start_step_continues():
    assert_equal(batches(2, start_step=3), batches(5)[3:])
    assert_equal(batches(2, start_step=3, host=1, hosts=2), batches(5, host=1, hosts=2)[3:])


def test_batches_do_not_depend_on_threads_and_workers():
    expected = batches(4)
    assert_equal(batches(4, replace(CONFIG, threads=0)), expected)
    assert_equal(batches(4, replace(CONFIG, workers=2)), expected)


def test_batches_depend_on_seed_and_step():
    first, second = batches(2)
    assert (first["target_size"] != second["target_size"]).any()
    assert (first["target_size"] != batches(1, seed=8)[0]["target_size"]).any()


def test_random_choices_have_their_probabilities():
    config = replace(CONFIG, box=0.2, cross=0.9)
    batch = batches(1, config, global_batch=400)[0]
    prompts = np.concatenate([batch["target_prompt"], batch["reference_prompt"]])
    assert set(prompts) == {0, 2, 3}
    assert (prompts > 0).mean() == pytest.approx(0.75, abs=0.06)
    assert batch["use_box"].mean() == pytest.approx(0.2, abs=0.06)
    assert batch["use_cross"].mean() == pytest.approx(0.9, abs=0.06)
    named = (batch["target_prompt"] > 0) & (batch["reference_prompt"] > 0)
    np.testing.assert_array_equal(batch["target_prompt"][named], batch["reference_prompt"][named])


def test_without_augmentation_images_are_only_resized():
    config = replace(CONFIG, flip=False, jitter=None)
    batch = batches(1, config, global_batch=2)[0]
    assert (batch["target_size"].max(axis=1) == 32).all()


def test_class_rows_name_the_class_also_without_its_prompt():
    batch = batches(1, replace(CONFIG, text_keep=0.5), global_batch=64)[0]
    assert set(batch["class_row"]) == {2, 3}
    for side in ("target", "reference"):
        named = batch[f"{side}_prompt"] > 0
        np.testing.assert_array_equal(batch[f"{side}_prompt"][named], batch["class_row"][named])
    assert (batch["negative_rows"] == -1).all()
    assert (batch["unreadable"] == 0).all()


def test_instances_have_their_prompt_and_are_visible_in_both_views():
    """Check prompts of instances, and that only sufficiently visible ones are kept, up to the maximum."""
    config = replace(CONFIG, max_concepts=5, instance_pixels=20, negative=1.0)
    source = Noise(6, True, absent=("ant",))
    batch = batches(1, config, source=source, global_batch=300)[0]
    assert (batch["target_prompt"] == 1).all()
    assert (batch["reference_prompt"] == 1).all()
    assert (batch["class_row"] == -1).all()
    assert (batch["negative_rows"] == -1).all()
    for side in ("target", "reference"):
        pixels = batch[f"{side}_masks"].sum((2, 3))
        np.testing.assert_array_equal(pixels > 20, batch["valid"])
        np.testing.assert_array_equal(pixels > 0, batch["valid"])
        assert (batch[f"{side}_size"] == 32).all()
    counts = np.bincount(batch["valid"].sum(1), minlength=6)
    assert counts.argmax() == 1  # 0 counts as 1
    assert (counts[1:] > 0).all()
    assert any((batch["target_image"] != batch["reference_image"]).any((1, 2, 3)))


def test_instances_are_two_views_of_one_image():
    """Check that a slot holds the same instance in both views, each transformed like its image."""
    source, config = Noise(6, True), replace(CONFIG, max_concepts=6, instance_pixels=0)
    batch = batches(1, config, source=source, global_batch=8, seed=5)[0]
    for number in range(8):
        rng = np.random.default_rng([5, number, 0])
        annotated = source.pair(rng).target
        views = [
            draw_view(
                *annotated.image.shape[:2],
                rng,
                crop=config.crop,
                colour=config.colour,
                colour_share=config.colour_share,
                mirror=config.view_flip,
            )
            for _ in range(2)
        ]
        instances = []
        for view, side in zip(views, ("target", "reference"), strict=True):
            np.testing.assert_array_equal(
                batch[f"{side}_image"][number], view_image(annotated.image, view, 32)
            )
            masks = np.empty((6, 32, 32), bool)
            for original, out in zip(annotated.masks, masks, strict=True):
                view_mask(original, view, out)
            slots = batch[f"{side}_masks"][number][batch["valid"][number]]
            instances.append(
                [[np.array_equal(slot, original) for original in masks].index(True) for slot in slots]
            )
        assert instances[0] == instances[1]
        assert len(set(instances[0])) == len(instances[0])


def test_every_instance_is_equally_likely():
    config = replace(CONFIG, max_concepts=2, instance_pixels=0, crop=(1.0, 1.0), view_flip=0.0)
    batch = batches(1, config, source=Thirds(), global_batch=600)[0]
    columns = batch["target_masks"][batch["valid"]].any(1).argmax(1)
    counts = np.unique(columns, return_counts=True)[1]
    assert len(counts) == 3
    assert counts.min() / counts.max() > 0.8


class Thirds(Noise):
    """Yield three instances side by side."""

    def pair(self, rng):
        annotated = AnnotatedImage(np.zeros((30, 30, 3), np.uint8), np.zeros((3, 30, 30), bool))
        for i, mask in enumerate(annotated.masks):
            mask[:, 10 * i : 10 * i + 10] = True
        return Pair(annotated, annotated, "", True)


def test_negative_rows_are_shuffled_absent_classes():
    names = tuple(f"c{i}" for i in range(60))
    prompts = PROMPTS | {class_prompt(name): 10 + i for i, name in enumerate(names)}
    source = Noise(absent=names)
    batch = batches(1, replace(CONFIG, negative=0.25), source=source, prompts=prompts, global_batch=400)[0]
    rows = batch["negative_rows"]
    has_negatives = (rows >= 0).any(1)
    assert has_negatives.mean() == pytest.approx(0.25, abs=0.06)
    assert (rows[has_negatives] >= 10).all()
    assert all(len(set(row)) == CANDIDATES for row in rows[has_negatives])
    assert len({tuple(row) for row in rows[has_negatives]}) == has_negatives.sum()
    few = batches(1, replace(CONFIG, negative=1.0), source=Noise(absent=names[:2]), prompts=prompts)[0]
    assert (np.sort(few["negative_rows"])[:, -2:] == [10, 11]).all()
    assert (few["negative_rows"][:, 2:] == -1).all()


@dataclass(frozen=True)
class Damaged(Noise):
    """Fail to read some of the images."""

    share: float = 0.5

    def pair(self, rng):
        if rng.random() < self.share:
            raise DataError(f"image {rng.integers(2)} is damaged.")
        return super().pair(rng)


def test_unreadable_images_are_counted_and_replaced(capfd, monkeypatch):
    monkeypatch.setattr(pipeline, "_REPORTED", set())
    first, second = batches(2, source=Damaged(), global_batch=64)
    assert (first["unreadable"] > 0).mean() == pytest.approx(0.5, abs=0.2)
    assert first["unreadable"].max() > 1
    messages = capfd.readouterr().err.splitlines()
    assert sorted(messages) == ["image 0 is damaged.", "image 1 is damaged."]  # once each
    for number, count in enumerate(first["unreadable"]):  # the next attempts, until one succeeds
        draws = [np.random.default_rng([7, number, attempt]).random() for attempt in range(count + 1)]
        assert [draw < 0.5 for draw in draws] == [True] * count + [False]
    assert_equal(batches(1, source=Damaged(), global_batch=64, start_step=1), [second])
    assert_equal(batches(2, replace(CONFIG, workers=1), Damaged(), global_batch=64), [first, second])


def test_too_many_unreadable_pairs_for_one_row_stop():
    with pytest.raises(DataError, match=r"20 pairs in a row .* the last one: image \d is damaged"):
        batches(1, source=Damaged(share=1.0))


@pytest.fixture
def official_mixture(tmp_path, monkeypatch):
    """Mix the four official sources, in their layouts on disk."""
    monkeypatch.setenv("SEGIC_CACHE", str(tmp_path / "cache"))
    source = open_mixture(source_configs(write_training(tmp_path / "data", monkeypatch)), 32)
    prompts = ["", INSTANCE_PROMPT, *map(class_prompt, source.class_names)]
    return source, {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}


def test_a_mixture_of_all_official_sources(official_mixture):
    source, prompts = official_mixture
    config = DataConfig(max_concepts=10, instance_pixels=10, negative=0.5)
    options = {"source": source, "prompts": prompts, "global_batch": 16}
    expected = batches(4, config, **options)
    instances = np.concatenate([batch["class_row"] for batch in expected]) < 0
    assert 0.3 < instances.mean() < 0.7
    valid = np.concatenate([batch["valid"] for batch in expected])
    assert (valid[~instances].sum(1) == 1).all()
    assert valid[instances].sum(1).max() > 1
    assert sum(batch["unreadable"].sum() for batch in expected) == 0
    negatives = np.concatenate([batch["negative_rows"] for batch in expected])
    assert (negatives[instances] == -1).all()
    assert 0.2 < (negatives[~instances] >= 0).any(1).mean() < 0.8
    for workers in (1, 2):
        assert_equal(batches(4, replace(config, workers=workers), **options), expected)
    for hosts in (2, 4):
        parts = [batches(4, config, host=host, hosts=hosts, **options) for host in range(hosts)]
        joined = [
            {name: np.concatenate([part[step][name] for part in parts]) for name in expected[0]}
            for step in range(4)
        ]
        assert_equal(joined, expected)
    assert_equal(batches(2, config, start_step=2, **options), expected[2:])
    assert not multiprocessing.active_children()


def test_concepts_beyond_the_maximum_are_sampled():
    config = replace(CONFIG, max_concepts=2, flip=False, jitter=None)
    batch = batches(1, config, source=Noise(6), global_batch=16, canvas=64)[0]
    assert batch["valid"].all()
    target, reference = (
        np.rint(6 * batch[f"{side}_masks"].any(2).sum(-1) / batch[f"{side}_size"][:, 1:]) - 1
        for side in ("target", "reference")
    )
    np.testing.assert_array_equal(target, reference)
    assert (target[:, 0] < target[:, 1]).all()
    assert len({tuple(row) for row in target}) > 3


def test_invalid_input_is_named():
    with pytest.raises(DataError, match="8 pairs cannot be split over 3 hosts"):
        batches(1, hosts=3)
    with pytest.raises(DataError, match=r"'a photo of a (ant|bee)' has no row"):
        batches(1, prompts={"": 0})
    with pytest.raises(DataError, match="2 target and 3 reference masks"):
        batches(1, source=Noise(uneven=True))
    with pytest.raises(ConfigError, match=r"data\.text_keep 1\.5"):
        DataConfig(text_keep=1.5)
    with pytest.raises(ConfigError, match=r"data\.jitter"):
        DataConfig(jitter=(2.0, 0.1))
