"""Test what all kinds of benchmarks share, with a kind that only counts."""

import json

import pytest
from tiny import DISKS, bundle

from segic_jax.errors import ConfigError, DataError
from segic_jax.evaluate.runner import in_domain, run_evaluation, spread, to_json


class CountingEvaluation:
    """Yield rows with their numbers; the row `stop` fails."""

    bundle, benchmark = bundle(), DISKS
    unit, score_name = "number", "mean"

    def __init__(self, stop=None, setting="a"):
        self.stop, self.setting = stop, setting
        self.computed, self.prepared, self.scored = [], [], []

    def __len__(self):
        return 8

    def identity(self):
        return {"setting": self.setting}

    def settings(self):
        return {"protocol": {"name": self.setting}}

    def prepare(self, indices, out):
        self.prepared.append(list(indices))

    def rows(self, indices, out):
        for index in indices:
            if index == self.stop:
                raise DataError("stopped")
            self.computed.append(index)
            yield {"index": index, "value": 10 * index, "seconds": 0.5}

    def running_score(self):
        def score(row):
            self.scored.append(row["index"])
            return float("nan") if row["index"] == 0 else 1.0

        return score

    def summarise(self, rows):
        return {"sum": sum(row["value"] for row in rows)}

    def files(self, result, rows, out):
        yield "report.html", b"page"
        yield "table.csv", f"{len(rows)}".encode()

    def table(self, result):
        return ""


def indices(out):
    return [json.loads(line)["index"] for line in (out / "episodes.jsonl").read_text().splitlines()]


def test_the_result_and_its_files_are_written(tmp_path):
    evaluation = CountingEvaluation()
    result = run_evaluation(evaluation, tmp_path)
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert list(result) == [
        "benchmark",
        "title",
        "protocol",
        "in_domain",
        "sum",
        "model",
        "environment",
        "seconds",
    ]
    assert (result["benchmark"], result["sum"]) == ("disks", 280)
    assert evaluation.prepared == [list(range(8))]
    assert evaluation.scored == list(range(8))
    assert (tmp_path / "table.csv").read_text() == "8"
    lines = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert lines == [{"index": i, "value": 10 * i} for i in range(8)]
    identity = json.loads((tmp_path / "run.json").read_text())
    assert set(identity) == {"benchmark", "setting", "model", "version"}


def test_a_failed_run_continues(tmp_path):
    with pytest.raises(DataError, match="stopped"):
        run_evaluation(CountingEvaluation(stop=5), tmp_path)
    assert not (tmp_path / "result.json").exists()
    resumed = CountingEvaluation()
    assert run_evaluation(resumed, tmp_path)["sum"] == 280
    assert resumed.computed == [5, 6, 7]
    assert resumed.scored == list(range(8))  # the running score includes the finished rows


def test_a_limit_spreads_rows_that_a_later_run_reuses(tmp_path):
    assert run_evaluation(CountingEvaluation(), tmp_path, limit=4)["sum"] == 120
    assert indices(tmp_path) == [0, 2, 4, 6]
    rest = CountingEvaluation()
    run_evaluation(rest, tmp_path)
    assert rest.computed == [1, 3, 5, 7]
    assert indices(tmp_path) == list(range(8))
    run_evaluation(CountingEvaluation(), tmp_path, limit=1)
    assert indices(tmp_path) == [0]


def test_a_run_with_another_setting_is_refused(tmp_path):
    run_evaluation(CountingEvaluation(), tmp_path)
    with pytest.raises(DataError, match=r"holds another run \(different setting\)"):
        run_evaluation(CountingEvaluation(setting="b"), tmp_path)


def test_a_file_that_cannot_be_written_leaves_no_result(tmp_path):
    (tmp_path / "table.csv").mkdir(parents=True)
    with pytest.raises(DataError, match=r"table\.csv' is a folder"):
        run_evaluation(CountingEvaluation(), tmp_path)
    assert not (tmp_path / "result.json").exists()


def test_spread_takes_evenly_distributed_indices():
    assert list(spread(range(8), 3)) == [0, 2, 5]
    assert spread(range(8), 100) == spread(range(8), None) == range(8)
    with pytest.raises(ConfigError, match="limit 0"):
        spread(range(8), 0)


def test_in_domain_is_unknown_without_a_note_in_the_model():
    assert in_domain(bundle(), "coco") is None
    trained = bundle()
    trained.notes["trained_on"] = ["coco"]
    assert (in_domain(trained, "coco"), in_domain(trained, "fss")) == (True, False)


def test_rounding_keeps_nan_out_of_json():
    assert to_json({"a": 12.345678, "b": float("nan")}) == {"a": 12.345678, "b": None}
