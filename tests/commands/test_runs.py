"""Test `segic runs`: curves as an image, runs as a table, and messages about missing data."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from segic_jax.commands.command_line import main
from segic_jax.errors import InputError
from segic_jax.runtime.metric_writer import FILE, MetricWriter
from segic_jax.train.curves import chosen_panels, listing, plot, read_run, smooth

EXAMPLES = Path(__file__).parents[2] / "docs" / "emoji_tiny"


def runs(*arguments) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["runs", *map(str, arguments)])
    return stopped.value.code


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """Copy the logs of two trainings and a pretraining."""
    root = tmp_path_factory.mktemp("runs")
    for name, file in {"tiny": "head", "random": "random_backbone", "tiny/pretrain": "pretrain"}.items():
        (root / name).mkdir()
        (root / name / FILE).write_bytes((EXAMPLES / f"{file}.jsonl").read_bytes())
    return root


def test_the_plot_has_a_curve_for_each_run(trainings, tmp_path, capsys):
    out = tmp_path / "new" / "curves.png"
    assert runs("plot", trainings / "tiny", trainings / "random", "--out", out) == 0
    assert capsys.readouterr().out == f"{out}\n"
    image = cv2.imread(str(out))
    assert image.shape[0] > 900
    colours = {tuple(colour) for colour in image.reshape(-1, 3)[:, ::-1].tolist()}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours  # the colours of the two curves


def test_a_chosen_quantity_gets_a_panel(trainings, tmp_path):
    for quantities in (["loss"], ["loss", "validation/miou"]):
        plot([trainings / "tiny"], tmp_path / "curves.png", quantities)
        assert cv2.imread(str(tmp_path / "curves.png")).shape[1] == 528 * len(quantities)


def test_panels_group_related_quantities(trainings):
    panels = chosen_panels({"a": read_run(trainings / "tiny"), "b": read_run(trainings / "random")}, [])
    assert panels == {
        "loss": ["loss"],
        "loss_dice": ["loss_dice", "loss_dice_reverse"],
        "loss_mask": ["loss_mask", "loss_mask_reverse"],
        "validation/miou": ["validation/miou"],
        "validation/fb_iou": ["validation/fb_iou"],
        "validation/episode_iou": ["validation/episode_iou"],
        "grad_norm": ["grad_norm"],
        "learning_rate": ["learning_rate"],
        "pairs_per_second": ["pairs_per_second"],
    }
    assert list(chosen_panels({"a": read_run(trainings / "tiny/pretrain")}, [])) == [
        "class_loss",
        "match_loss",
    ]
    assert chosen_panels({"a": {"speed": (np.array([1]), np.array([2.0]))}}, []) == {"speed": ["speed"]}


def test_long_runs_with_gaps_and_equal_names_are_plotted(tmp_path):
    """Plot smoothed curves with null values, of a repeated folder and of folders with equal names."""
    for parent in ("a", "b"):
        writer = MetricWriter(tmp_path / parent / "run")
        writer._file.write(
            "".join(json.dumps({"step": i, "loss": None if i == 5 else 1 / i}) + "\n" for i in range(1, 300))
        )
        writer.close()
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "a" / ".." / "a" / "run"]
    plot(folders, tmp_path / "curves.png")
    assert cv2.imread(str(tmp_path / "curves.png")).std() > 10
    assert len(read_run(folders[0])["loss"][0]) == 298


def test_smoothing_averages_neighbours():
    np.testing.assert_allclose(smooth(np.full(50, 3.0), 7), 3)
    np.testing.assert_allclose(smooth(np.arange(9.0), 3)[1:-1], np.arange(1, 8))
    noise = np.random.default_rng(0).normal(size=1000)
    assert smooth(noise, 25).std() < 0.3


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "has no metrics.jsonl: give the work directory of a training."),
        ("", "There is nothing to plot yet"),
        ('{"step": 1, "loss": null}\n', "There is nothing to plot yet"),
        (
            '{"step": 1, "loss": 2}\nwhat\n{"step": 2, "loss": 1}\n',
            "is damaged: delete the lines that cannot be read (2)",
        ),
    ],
)
def test_a_log_without_values_is_reported(tmp_path, capsys, content, sentence):
    if content is not None:
        (tmp_path / FILE).write_text(content)
    assert runs("plot", tmp_path, "--out", tmp_path / "curves.png") == 2
    message = capsys.readouterr().err
    assert sentence in message
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "curves.png").exists()


def test_wrong_arguments_are_reported(trainings, tmp_path, capsys):
    assert runs("plot", trainings / "tiny", "--out", tmp_path / "curves.pdf") == 2
    assert "ends in .png" in capsys.readouterr().err
    assert runs("plot", trainings / "tiny", "--out", tmp_path / "x.png", "--what", "los") == 2
    assert "No run has 'los'; there are flops_per_second, grad_norm, input_wait," in capsys.readouterr().err
    assert runs("plot", "--out", tmp_path / "x.png") == 2
    assert "at least one work directory" in capsys.readouterr().err


def test_the_table_is_sorted_by_time(trainings, capsys):
    for hour, name in enumerate(("tiny/pretrain", "random", "tiny")):
        os.utime(trainings / name / FILE, (3600 * hour, 3600 * hour))
    assert runs("list", trainings) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "step", "loss", "best", "validation", "written"]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["random", "300", "1.1612"],
        ["tiny", "2000", "0.8240"],
    ]
    assert "miou 58.26 at 2000" in lines[2]
    assert lines[0].startswith("tiny/pretrain  9000")


def test_damaged_and_missing_logs_in_a_table_are_reported(tmp_path):
    with pytest.raises(InputError, match=r"There is no metrics\.jsonl in .* or below it"):
        listing(tmp_path)
    (tmp_path / FILE).write_text("what\n{}\n{}\n")
    assert "damaged" in listing(tmp_path)


def test_unbounded_numbers_in_a_log_are_left_out(segic, tmp_path, capsys):
    lines = ("9" * 400, "-Infinity", "NaN", "1e308", "2.5")
    text = "".join(f'{{"step": {i}, "loss": {value}}}\n' for i, value in enumerate(lines))
    (tmp_path / "metrics.jsonl").write_text(text)
    assert segic("runs", "list", tmp_path) == 0
    assert "2.5000" in capsys.readouterr().out
    assert segic("runs", "plot", tmp_path, "--out", tmp_path / "p.png") == 0


def test_damaged_logs_and_lists_are_reported(segic, tmp_path, capsys):
    """Read a log nested too deep for JSON, and one with a number of too many digits."""
    for content in ("[" * 100_000, '{"step": ' + "9" * 5000 + "}"):
        (tmp_path / "metrics.jsonl").write_text(f'{content}\n{{"step": 1, "loss": 2}}\n')
        assert segic("runs", "plot", tmp_path, "--out", tmp_path / "p.png") == 2
        assert "metrics.jsonl is damaged: delete the lines that cannot be read (1)" in capsys.readouterr().err
        assert segic("episodes", "show", tmp_path / "metrics.jsonl") == 2
        assert "is not a list of episodes" in capsys.readouterr().err
