from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import pytest

from segic_jax.config import ConfigError, DataConfig
from segic_jax.data.episodes import DataError, Pair, Picture
from segic_jax.data.pipeline import training_batches
from segic_jax.prompts import INSTANCES, class_prompt

CONFIG = DataConfig(max_concepts=3)
PROMPTS = {"": 0, INSTANCES: 1, class_prompt("ant"): 2, class_prompt("bee"): 3}


@dataclass(frozen=True)
class Noise:
    """Pictures of random sizes; concept i of n has its own rows, and (i + 1) / n of the width."""

    concepts: int = 2
    is_instance: bool = False
    uneven: bool = False

    def __len__(self):
        return 5

    def pair(self, rng):
        return Pair(
            target=self._picture(rng, self.concepts),
            reference=self._picture(rng, self.concepts + self.uneven),
            name=("ant", "bee")[rng.integers(2)],
            is_instance=self.is_instance,
        )

    def _picture(self, rng, concepts):
        height, width = rng.integers(20, 60, 2)
        masks = np.zeros((concepts, height, width), bool)
        for i in range(concepts):
            masks[i, 3 * i : 3 * i + 2, : width * (i + 1) // concepts] = True
        return Picture(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), masks)


def batches(count, config=CONFIG, source=None, **options):
    arguments = {"canvas": 32, "prompts": PROMPTS, "seed": 7, "global_batch": 8}
    iterator = training_batches(source or Noise(), config, **(arguments | options))
    try:
        return list(islice(iterator, count))
    finally:
        iterator.close()


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_shapes_and_types():
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
        "use_box": ("bool", (8, 2)),
        "use_cross": ("bool", (8, 2)),
    }
    np.testing.assert_array_equal(batch["valid"], [[True, True, False]] * 8)
    assert not batch["target_masks"][:, 2].any()
    for image, (height, width) in zip(batch["target_image"], batch["target_size"], strict=True):
        assert (image[height:] == 128).all()
        assert (image[:, width:] == 128).all()


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_global_batch(hosts):
    whole = batches(3)
    parts = [batches(3, host=host, hosts=hosts) for host in range(hosts)]
    joined = [
        {name: np.concatenate([part[step][name] for part in parts]) for name in whole[0]} for step in range(3)
    ]
    assert_equal(joined, whole)


def test_start_step_continues():
    assert_equal(batches(2, start_step=3), batches(5)[3:])
    assert_equal(batches(2, start_step=3, host=1, hosts=2), batches(5, host=1, hosts=2)[3:])


def test_threads_and_workers_do_not_matter():
    expected = batches(4)
    assert_equal(batches(4, replace(CONFIG, threads=0)), expected)
    assert_equal(batches(4, replace(CONFIG, workers=2)), expected)


def test_seed_and_step_do_matter():
    first, second = batches(2)
    assert (first["target_size"] != second["target_size"]).any()
    assert (first["target_size"] != batches(1, seed=8)[0]["target_size"]).any()


def test_draws_have_their_probabilities():
    config = replace(CONFIG, box=0.2, cross=0.9)
    batch = batches(1, config, global_batch=400)[0]
    prompts = np.concatenate([batch["target_prompt"], batch["reference_prompt"]])
    assert set(prompts) == {0, 2, 3}
    assert (prompts > 0).mean() == pytest.approx(0.75, abs=0.06)
    assert batch["use_box"].mean() == pytest.approx(0.2, abs=0.06)
    assert batch["use_cross"].mean() == pytest.approx(0.9, abs=0.06)
    both = (batch["target_prompt"] > 0) & (batch["reference_prompt"] > 0)
    np.testing.assert_array_equal(batch["target_prompt"][both], batch["reference_prompt"][both])


def test_without_augmentation_pictures_are_only_resized():
    config = replace(CONFIG, flip=False, jitter=None)
    batch = batches(1, config, global_batch=2)[0]
    assert (batch["target_size"].max(axis=1) == 32).all()


def test_instances():
    """Their own prompt, whatever was drawn, and only those that show in both pictures."""
    batch = batches(1, replace(CONFIG, max_concepts=9), source=Noise(6, True), global_batch=32)[0]
    assert (batch["target_prompt"] == 1).all()
    assert (batch["reference_prompt"] == 1).all()
    visible = batch["target_masks"].any((2, 3)) & batch["reference_masks"].any((2, 3))
    np.testing.assert_array_equal(batch["valid"], visible)
    assert len(set(batch["valid"].sum(1))) > 1


def test_too_many_concepts_are_drawn_from():
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


def test_bad_input_is_named():
    with pytest.raises(DataError, match="8 pairs cannot be split over 3 hosts"):
        batches(1, hosts=3)
    with pytest.raises(DataError, match=r"'a photo of a (ant|bee)' has no row"):
        batches(1, replace(CONFIG, text_keep=1.0), prompts={"": 0})
    with pytest.raises(DataError, match="2 target and 3 reference masks"):
        batches(1, source=Noise(uneven=True))
    with pytest.raises(ConfigError, match=r"data\.text_keep 1\.5"):
        DataConfig(text_keep=1.5)
    with pytest.raises(ConfigError, match=r"data\.jitter"):
        DataConfig(jitter=(2.0, 0.1))
