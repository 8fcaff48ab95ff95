"""Test the study of heads with INSID3's candidates in their prompt."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import tiny_training

from segic_jax.evaluate.episode_stream import predict_episodes
from segic_jax.evaluate.episode_tasks import make_tasks
from segic_jax.inference.engine import Engine
from segic_jax.runtime.metric_writer import read_metrics
from segic_jax.train.experiment import load_config
from segic_jax.train.loop import train
from studies import hybrid
from studies.ablation.prompting import Prompting, training_prompts
from studies.extensions import variant

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("name", ["candidates beside the map", "no candidates"])
def test_a_hybrid_without_candidates_is_the_trained_head(name):
    model, source = tiny.bundle(), tiny.DiskSource()
    prompting = hybrid.HYBRIDS.get(name, Prompting())
    engines = {"segic": Engine(model), name: hybrid.HybridEngine(model, prompting)}
    tasks = make_tasks(model, source, [source.manifest("original", 0, 1)])
    for logits in predict_episodes(engines, source, tasks, lambda prediction: prediction.logits):
        same = np.allclose(logits["segic"], logits[name], atol=1e-4)
        assert same == (name not in hybrid.HYBRIDS)


def test_every_method_is_compared_with_both_parents():
    model = tiny.bundle()
    (name, _), *_ = hybrid.HYBRIDS.items()
    scores = hybrid.compare(model, {name: model}, tiny.DiskSource())
    for parent, other in ((hybrid.PARENT, hybrid.FREE), (hybrid.FREE, hybrid.PARENT)):
        assert scores[parent].keys() == {hybrid.PARENT, hybrid.FREE, name}
        assert scores[parent][parent][1:] == (0, 0, 0)
        assert scores[parent][other].gain == pytest.approx(-scores[other][parent].gain)


def test_the_training_makes_its_prompts_as_it_is_told(tmp_path):
    config = tiny_training.with_train(steps=1)
    losses = []
    for prompting in (Prompting(), hybrid.HYBRIDS["candidates in place of the map"]):
        parts = replace(tiny_training.parts(), prompting=training_prompts(prompting))
        train(config, tmp_path / str(len(losses)), parts)
        losses += [line["loss"] for line in read_metrics(tmp_path / str(len(losses))) if "loss" in line]
    assert len(losses) == 2
    assert losses[0] != losses[1]


def test_a_head_that_was_trained_is_read(tmp_path, monkeypatch):
    model = tiny.bundle()
    monkeypatch.setattr(hybrid, "build", lambda config: pytest.fail("trained again"))
    hybrid.save_bundle(tmp_path / hybrid.MODEL, model)
    config = variant(load_config("photo"), hybrid.PARENT)
    found = hybrid.trained(config, Prompting(), tmp_path, 64)
    assert found.config.canvas == 64
    assert found.head.keys() == model.head.keys()
