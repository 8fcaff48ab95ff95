"""Test that complete rows of a run are kept on disk, and that those of another run are refused."""

import os
from pathlib import Path

import pytest

from segic_jax.errors import DataError
from segic_jax.evaluate.run_log import RunLog

IDENTITY = {"benchmark": "emoji", "shots": 1}


def add(log, *indices):
    for i in indices:
        log.add({"index": i, "iou": i / 10})


def test_a_resumed_run_reads_the_rows(tmp_path):
    log = RunLog(tmp_path, IDENTITY)
    add(log, 3, 1)
    log.close()
    resumed = RunLog(tmp_path, IDENTITY)
    assert resumed.gather() == {1: {"index": 1, "iou": 0.1}, 3: {"index": 3, "iou": 0.3}}
    add(resumed, 2)
    assert list(resumed.gather()) == [1, 2, 3]


def test_a_partial_line_is_dropped(tmp_path):
    log = RunLog(tmp_path, IDENTITY)
    add(log, 0, 1)
    log.close()
    path = tmp_path / "parts/00000.jsonl"
    path.write_bytes(path.read_bytes()[:-4])
    log = RunLog(tmp_path, IDENTITY)
    assert list(log.done) == [0]
    add(log, 1)
    log.close()
    assert list(RunLog(tmp_path, IDENTITY).done) == [0, 1]


def test_another_run_is_refused(tmp_path):
    RunLog(tmp_path, IDENTITY).close()
    with pytest.raises(DataError, match=r"holds another run \(different shots\): choose another --out"):
        RunLog(tmp_path, {**IDENTITY, "shots": 5})
    (tmp_path / "run.json").write_text("{")  # the refused run has released the folder
    with pytest.raises(DataError, match="is damaged"):
        RunLog(tmp_path, IDENTITY)


def test_a_folder_in_use_is_refused(tmp_path):
    with RunLog(tmp_path, IDENTITY) as log:
        add(log, 0)
        with pytest.raises(DataError, match=r"Another run writes into .*: wait until it ends, or choose"):
            RunLog(tmp_path, IDENTITY)
        add(log, 1)
    with RunLog(tmp_path, IDENTITY) as log:
        assert list(log.done) == [0, 1]


def test_a_partial_line_of_another_host_is_kept(tmp_path):
    """Keep it, since that host may still be writing it."""
    with RunLog(tmp_path, IDENTITY) as log:
        add(log, 0)
    other = tmp_path / "parts/00001.jsonl"
    other.write_text('{"index": 1}\n{"ind')
    with RunLog(tmp_path, IDENTITY) as log:
        assert list(log.done) == [0, 1]
    assert other.read_text() == '{"index": 1}\n{"ind'


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/out cannot be written to \(Not a directory\): choose another"):
        RunLog(tmp_path / "file/out", IDENTITY)
    if Path("/dev/full").exists():
        (tmp_path / "parts").mkdir()
        with RunLog(tmp_path, IDENTITY) as log:
            log._file, file = os.open("/dev/full", os.O_WRONLY), log._file
            with pytest.raises(DataError, match=r"00000\.jsonl cannot be written to: No space left"):
                add(log, 0)
            assert not log.done
        os.close(file)


def test_damaged_rows_are_named(tmp_path):
    RunLog(tmp_path, IDENTITY).close()
    (tmp_path / "parts/00000.jsonl").write_text('{"index": 1}\nnonsense\n')
    with pytest.raises(DataError, match=r"00000\.jsonl is damaged: delete it"):
        RunLog(tmp_path, IDENTITY)


@pytest.mark.parametrize("content", ["", "5", "[]", "[" * 100_000, "{}"])
def test_a_damaged_run_is_reported(tmp_path, content):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/00000.jsonl").write_text(f"{content or 7}\n")
    with pytest.raises(DataError, match=r"00000\.jsonl is damaged"):
        RunLog(tmp_path, {})
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(DataError, match=r"run\.json is damaged|another run"):
        RunLog(tmp_path, {"benchmark": "x"})
