"""Test the benchmark's code on a model that takes milliseconds."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import CONFIG
from tiny_training import with_train

from benchmarks import growth, matrix, precisions, roofline, run
from benchmarks.measure import Bench, Row, Times, alternating
from benchmarks.stages import HOST, STAGES, Size, filled
from benchmarks.targets import cpu_targets
from benchmarks.training import step_and_arguments
from segic_jax.errors import ConfigError
from segic_jax.models.backbones import backbone_template

SIZE = Size(CONFIG, batch=2, concepts=3, shots=2)


def test_the_stages_together_equal_the_head():
    """Compare the stages, run one after another, with the head in one program."""
    head, features, context = filled(STAGES["head"](SIZE).arguments)

    def stage(name, *arguments):
        return STAGES[name](SIZE).function(*arguments)

    @jax.jit
    def run_both(head, features, context):
        maps, points = stage("correspondence", features.patches, context.pooled)
        prompts = stage("prompts", head, maps, points, context)
        logits, iou = stage("decoder", head, stage("neck", head, features), prompts)
        return stage("up-sampling", logits), iou, prompts, *stage("head", head, features, context)

    logits, iou, prompts, *expected = run_both(head, features, context)
    np.testing.assert_allclose(logits, expected[0], atol=1e-5)
    np.testing.assert_allclose(iou, expected[1], atol=1e-5)
    shapes = jax.tree.map(jnp.shape, STAGES["decoder"](SIZE).arguments[2])
    assert jax.tree.map(jnp.shape, prompts) == shapes


def test_references_give_the_context():
    features, references = filled(STAGES["references"](SIZE).arguments)
    context = STAGES["references"](SIZE).function(features, references)
    expected = STAGES["whole"](SIZE).arguments[-1]
    assert jax.tree.map(jnp.shape, context) == jax.tree.map(jnp.shape, expected)
    # All masks cover the first image.
    np.testing.assert_allclose(context.pooled[:, 0], features[:, 0].mean((1, 2)), atol=1e-6)


def test_a_quick_run_measures_every_cell(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "has_torch", lambda: False)
    monkeypatch.setattr(matrix, "QUICK", {"batches": (1, 2), "concepts": (1, 2), "shots": (1,)})
    stages = ("neck", "up-sampling", HOST)
    run.measure(run.Args(quick=True, stages=stages, seconds=0, out=tmp_path), [CONFIG])
    report = json.loads((tmp_path / "run.json").read_text())
    assert [row["stage"] for row in report["rows"]] == [
        name for name, _ in matrix.cells(CONFIG, stages, True)
    ]
    assert all(
        row["ours"]["rounds"] == 3 and row["resident"] != 0 for row in report["rows"] if row["batch"] == 2
    )
    assert report["conditions"]["processor"]
    printed = capsys.readouterr().out
    assert (tmp_path / "run.md").read_text() in printed
    assert printed.count("not measured: no GPU is available") == 3


def test_all_stages_have_cells():
    names = [name for name, _ in matrix.cells(CONFIG, (), quick=False)]
    assert list(dict.fromkeys(names)) == list(matrix.ALL)
    assert set(matrix.ALL) == {*STAGES, HOST}
    sizes = [size for name, size in matrix.cells(CONFIG, ("decoder",), quick=False)]
    assert {(s.batch, s.concepts) for s in sizes} >= {(b, c) for b in (1, 8, 32) for c in (1, 5, 20)}
    assert {s.shots for s in sizes} == {1, 5}
    assert {s.precision for s in sizes} == {"float32", "bfloat16"}


def test_cells_that_would_take_too_long_are_left_out_and_named():
    bench = Bench(seconds=0, longest=0, torch=None)
    assert bench.row("up-sampling", Size(CONFIG)).ours
    row = bench.row("up-sampling", Size(CONFIG, batch=4))
    assert row.ours is None
    text = run.row_table([row])
    assert "Left out: up-sampling (batch 4, 1 concepts, 1 shots, float32; about 0 s)." in text


def test_sides_run_in_turn():
    order = []
    sides = {name: lambda name=name: order.append(name) or len(order) for name in ("a", "b")}
    times = alternating(sides, seconds=0)
    assert order == ["a", "b"] * 3
    assert times == {"a": Times(3, 1, 5, 3), "b": Times(4, 2, 6, 3)}


def test_targets_compare_rows():
    def row(stage, seconds, **changes):
        fields = {
            "canvas": 896,
            "tokens": 4097,
            "batch": 1,
            "concepts": 1,
            "shots": 1,
            "precision": "float32",
            "flops": 10**9,
        }
        return Row(stage, **fields | changes, ours=Times(seconds, seconds, seconds, 3))

    backbone = dataclasses.replace(row("backbone", 2.0), theirs=Times(1.6, 1, 2, 3), resident=10**9)
    twenty_concepts = row("head", 0.4, concepts=20, flops=6 * 10**9)
    rows = [backbone, row("head", 0.1), twenty_concepts, row("head", 9.0, batch=8)]
    assert [(t.measurement, t.met) for t in cpu_targets(rows)] == [
        ("1.25", False),
        ("1.00 GB", True),
        ("4.0 times; operations 6.0", True),
    ]
    assert cpu_targets([row("backbone", 1.0)])[0].met is None


def test_an_unknown_stage_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--stages neckk: there is no such stage"):
        run.main(run.Args(stages=("neckk",), out=tmp_path))


def test_bytes_and_lower_bounds_are_counted():
    lines = {(line.stage, line.size.concepts): line for line in roofline.counted({"b": CONFIG})}
    backbone = lines["backbone", 1]
    weights = sum(np.prod(spec.shape) for spec in backbone_template(CONFIG.backbone).shapes.values())
    images, features = 64 * 64 * 3 + 8, 4 * 8 * 8 * 32
    assert backbone.cost.bytes == {
        "float32": 4 * weights + images + features,
        "bfloat16": 2 * weights + images + features,
    }
    neck = 4 * (32 * 32 + 9 * 32 * 32 + 4 * 32)  # two products and two norms
    assert lines["neck", 1].cost.bytes["float32"] == neck + 2 * features
    device = roofline.Device("d", 1e9, 1e9, 1e6, "float32")
    seconds, memory = backbone.floor(device)
    assert (seconds, memory) == (backbone.cost.bytes["float32"] / 1e6, True)
    assert "up-sampling, 20 concepts" in roofline.table(list(lines.values()), [])


def test_growth_writes_a_table_and_a_plot(tmp_path, monkeypatch):
    class Doubling:
        """Report that each point takes twice as long as the previous one."""

        def __init__(self, *settings):
            self.rows = 0

        def row(self, stage, size):
            self.rows += 1
            times = Times(2.0**self.rows, 0, 0, 3)
            return Row(stage, 64, size.tokens, 1, 1, 1, "float32", ours=times, temporary=self.rows << 20)

    monkeypatch.setattr(growth, "Bench", Doubling)
    monkeypatch.setattr(
        growth, "simulated", lambda devices, *rest: growth.Point(devices, 2.0, 400 // devices)
    )
    growth.main(growth.Args(plot=tmp_path / "growth.svg"))
    curves = json.loads((tmp_path / "growth.json").read_text())["curves"]
    assert [curve["what"] for curve in curves] == ["tokens", "concepts", "shots", "batch", "devices"]
    assert [point["at"] for point in curves[0]["points"]] == [257, 1025, 2305, 4097]
    assert curves[4]["points"][1] == {"at": 2, "seconds": 2.0, "temporary": 200}
    assert "|  |  | 1025 | 4000 | 2 | 2 | 2 |" in (tmp_path / "growth.md").read_text()
    assert (tmp_path / "growth.svg").read_text().count("MiB beside weights and inputs") == 5


def test_devices_are_simulated():
    short = dataclasses.replace(CONFIG, head=dataclasses.replace(CONFIG.head, depth=1))
    point = growth.simulated(2, short, batch=2, seconds=0)
    assert point.at == 2
    assert point.seconds > 0
    assert point.temporary > 0


def test_the_training_step_takes_the_batch():
    """Trace the step without running it, since compiling takes long."""
    config = with_train(accumulate=2, batch_size=4)
    step, state, *inputs = step_and_arguments(config, "bfloat16")
    new_state, metrics = jax.eval_shape(step, state, *inputs)
    assert metrics["loss"].shape == ()
    assert jax.tree.map(jnp.shape, new_state) == jax.tree.map(jnp.shape, state)


def test_precisions_are_compared_through_the_engine():
    row = precisions.measure("tiny", CONFIG, 0)
    assert row["ratio"] == pytest.approx(row["bfloat16"]["median"] / row["float32"]["median"])
    assert f"| tiny | {CONFIG.grid**2} |" in precisions.table([row])
