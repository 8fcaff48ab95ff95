"""Test the comparison of XLA's ways on a CPU with a model that takes milliseconds."""

import json
import sys
from pathlib import Path

from tiny import CONFIG

from benchmarks import cpu_routes, stages
from benchmarks.cpu_routes import DEFAULT, PYTORCH, Route

REQUEST = {"vit": "b", "canvas": 28, "precision": "float32", "rounds": 2, "cores": "free"}


def test_a_worker_times_the_backbone_and_compares_its_features(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stages, "model", lambda vit, canvas: CONFIG)
    for save in (True, False):
        cpu_routes._worker(REQUEST | {"save": save, "expected": str(tmp_path / "features.npy")})
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(answer["seconds"]) for answer in answers] == [2, 2]
    assert [answer["difference"] for answer in answers] == [0, 0]


def test_a_flag_that_xla_does_not_know_is_an_error_of_its_route():
    answer = cpu_routes._run(Path(sys.executable), Route(("--xla_no_such_flag=1",)), REQUEST)
    assert "xla_no_such_flag" in answer["error"]


def test_the_table():
    cells = [
        {"route": DEFAULT, "seconds": [0.2, 0.1, 0.3], "fusions": {"ynn": 5, "onednn": 0}, "difference": 0.0},
        {"route": "oneDNN", "seconds": [], "error": "no such flag"},
        {"route": PYTORCH, "seconds": [0.4, 0.4, 0.4]},
    ]
    cells = [{"canvas": 448, "precision": "float32", "version": "1", **cell} for cell in cells]
    _, _, default, failed, torch = cpu_routes._table(cells).splitlines()
    assert default == "| 448 | float32 | 1 | default | 200 | 100 - 300 | 0.50 |  |  | ynn 5 | 0.0e+00 |"
    assert "fails: no such flag" in failed
    assert "| 400 | 400 - 400 | 1.00 |" in torch
