"""Test that the loop learns, resumes bit by bit after a stop, and refuses another model or setting."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_training
from tiny_training import CONFIG, Squares, parts, run, with_train

from segic_jax.config import INSTANCE_PROMPT, class_prompt
from segic_jax.data.emoji.source import EmojiInstancePairs, EmojiPairs
from segic_jax.data.emoji.sprites import SpriteBank
from segic_jax.data.pairs import Mixture
from segic_jax.errors import CheckpointError, DataError, TrainingError
from segic_jax.runtime.distributed import StopRequest
from segic_jax.runtime.metric_writer import read_metrics
from segic_jax.train.checkpoint import Checkpoints, load_head
from segic_jax.train.optim import UNTRAINED

pytestmark = pytest.mark.usefixtures("quick_compilation")


class StopsAt(Squares):
    """Send SIGTERM to this process when the pair with the given number is drawn."""

    def __init__(self, pair: int):
        self.remaining = pair

    def pair(self, rng):
        self.remaining -= 1
        if self.remaining == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().pair(rng)


class TurnsInfiniteAt(Squares):
    """Return a class whose text feature is not finite from the given pair on."""

    def __init__(self, pair: int):
        self.remaining = pair

    def pair(self, rng):
        self.remaining -= 1
        pair = super().pair(rng)
        return pair if self.remaining > 0 else dataclasses.replace(pair, name="nan")


def same_arrays(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def losses(workdir: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(workdir) if "loss" in line]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Train without interruption; return the work directory and the outcome."""
    workdir = tmp_path_factory.mktemp("straight")
    return workdir, run(workdir)


def test_a_training_stopped_by_sigterm_resumes_bit_by_bit(uninterrupted, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    stopped = run(tmp_path, source=StopsAt(pair=24))
    assert not stopped.finished
    assert 0 < stopped.step < CONFIG.train.steps
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() == stopped.step
    checkpoints.close()
    assert signal.getsignal(signal.SIGTERM) is before

    resumed = run(tmp_path)
    assert resumed.finished
    assert same_arrays(resumed.head, uninterrupted[1].head)
    assert losses(tmp_path) == losses(uninterrupted[0])


def test_a_killed_training_resumes_bit_by_bit(uninterrupted, tmp_path):
    process = subprocess.Popen(
        [sys.executable, tiny_training.__file__, tmp_path, "8", "1"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while not (tmp_path / "checkpoints" / "3").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert (tmp_path / "checkpoints" / "3").exists()
    assert same_arrays(run(tmp_path).head, uninterrupted[1].head)
    assert losses(tmp_path) == losses(uninterrupted[0])


def test_the_loss_falls_and_the_best_head_is_kept(tmp_path):
    scores = iter([30.0, 20.0, 10.0])
    heads, sampled_steps = [], []

    class Validation:
        def scores(self, head):
            heads.append(head)
            return {"miou": next(scores)}

        def draw(self, head, workdir, step):
            sampled_steps.append(step)

    config = with_train(steps=40, log_every=10, eval_every=15, checkpoint_every=100)
    optim = dataclasses.replace(CONFIG.optim, learning_rate=3e-3, drop_at=1.0)
    outcome = run(tmp_path, dataclasses.replace(config, optim=optim), validation=Validation())
    assert sampled_steps == [15, 30, 40]
    curve = losses(tmp_path)
    assert curve[-1] < 0.9 * curve[0]

    moved = {name for name in outcome.head if not np.array_equal(outcome.head[name], parts().head[name])}
    assert not any(name.startswith(UNTRAINED) for name in moved)
    assert "prompt_proj/kernel" in moved

    lines = [(line["step"], line["validation/miou"]) for line in read_metrics(tmp_path) if "loss" not in line]
    assert lines == [(15, 30.0), (30, 20.0), (40, 10.0)]
    head, meta = load_head(tmp_path)
    assert same_arrays(head, heads[2])
    assert same_arrays(head, outcome.head)
    assert meta["config"]["train"]["steps"] == 40
    assert same_arrays(load_head(tmp_path, best=True)[0], heads[0])


def test_the_log_has_a_line_for_each_step(uninterrupted):
    lines = read_metrics(uninterrupted[0])
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert lines[0].keys() >= {
        "loss", "loss_mask", "loss_dice", "loss_mask_reverse", "loss_dice_reverse", "grad_norm",
        "loss_score", "loss_score_reverse", "chunks", "learning_rate", "step_seconds", "pairs_per_second",
    }  # fmt: skip
    parts = [
        lines[0][f"loss_{kind}{suffix}"] for kind in ("mask", "dice", "score") for suffix in ("", "_reverse")
    ]
    assert lines[0]["loss"] == pytest.approx(sum(parts) / 2, rel=1e-6)
    # The learning rate drops after round(8 * 10 / 12) = 7 steps.
    assert [line["learning_rate"] for line in lines] == pytest.approx([1e-3] * 7 + [1e-4])


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path):
    backbone = {name: value * np.nan for name, value in parts().backbone.items()}
    with pytest.raises(TrainingError, match=r"step 1 \(pairs 0 to 7\) is nan.*no checkpoint was written"):
        run(tmp_path / "a", backbone=backbone)

    # Use no threads, which would draw pairs of later batches first.
    config = with_train(checkpoint_every=1)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, threads=0))
    with pytest.raises(TrainingError, match=r"the checkpoint of step \d+ is the last good one"):
        run(tmp_path / "b", config, source=TurnsInfiniteAt(pair=20))
    head, _ = load_head(tmp_path / "b")
    assert all(np.isfinite(value).all() for value in head.values())


def test_another_backbone_or_seed_is_refused(uninterrupted):
    other = {name: value + 1 for name, value in parts().backbone.items()}
    with pytest.raises(CheckpointError, match="was trained on the backbone tiny"):
        run(uninterrupted[0], backbone=other)
    with pytest.raises(CheckpointError, match=r"train\.seed = 3, but it is 4 now"):
        run(uninterrupted[0], with_train(seed=4))


class Unreadable(Squares):
    """Fail to read every third pair."""

    def pair(self, rng):
        if rng.random() < 0.33:
            raise DataError("squares/7.jpg is cut off; get the whole file again.")
        return super().pair(rng)


def test_unreadable_images_are_counted_and_limited(tmp_path, capfd):
    run(tmp_path / "a", source=Unreadable())
    counts = [line["unreadable"] for line in read_metrics(tmp_path / "a")]
    assert counts == sorted(counts)
    assert 5 < counts[-1] < 70
    assert capfd.readouterr().err.count("squares/7.jpg is cut off") == 1
    limited = dataclasses.replace(
        CONFIG, data=dataclasses.replace(CONFIG.data, max_unreadable=counts[-1] - 1)
    )
    with pytest.raises(TrainingError, match=f"{counts[-1]} pairs could not be read up to step 8, more than"):
        run(tmp_path / "b", limited, source=Unreadable())


def test_nothing_compiles_after_the_first_steps(tmp_path):
    """Train on 200 batches of semantic pairs and instances, with all random choices enabled."""
    compiled, pairs_drawn = [], []

    def listen(event, seconds, **_):
        if "backend_compile" in event:
            compiled.append(len(pairs_drawn))

    class Counting(Mixture):
        def pair(self, rng):
            pairs_drawn.append(0)
            return super().pair(rng)

    bank = SpriteBank.load("base")
    source = Counting([EmojiPairs(bank, 56), EmojiInstancePairs(bank, 56)], [1, 1])
    text = dict.fromkeys(["", INSTANCE_PROMPT, *map(class_prompt, source.class_names)], np.zeros(4))
    data = dataclasses.replace(CONFIG.data, max_concepts=5, instance_pixels=10)
    config = dataclasses.replace(with_train(steps=200, log_every=50, checkpoint_every=1000), data=data)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        run(tmp_path, config, source=source, text=text)
    finally:
        jax.monitoring.clear_event_listeners()
    assert len(pairs_drawn) >= 200 * 8
    assert compiled
    assert not [
        count for count in compiled if 20 * 8 < count < 199 * 8
    ]  # writing the last checkpoint compiles


def test_a_validation_missed_by_a_stop_is_repeated(tmp_path):
    """Stop at step 4, which has a validation: the resumed training validates first."""
    heads = []

    class Validation:
        def scores(self, head):
            heads.append(head)
            return {"miou": 1.0}

        def draw(self, head, workdir, step):
            pass

    stops = iter([False, False, False, True])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopRequest, "reached", lambda self, step: next(stops))
        stopped = run(tmp_path, validation=Validation())
    assert (stopped.step, stopped.finished, len(heads)) == (4, False, 0)
    assert run(tmp_path, validation=Validation()).finished
    assert [line["step"] for line in read_metrics(tmp_path) if "validation/miou" in line] == [4, 8]
    assert len(heads) == 2
