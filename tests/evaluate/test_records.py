"""Rows of a run on disk: what is whole survives, what belongs to another run is refused."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from segic_jax.errors import DataError
from segic_jax.evaluate.records import Records

IDENTITY = {"benchmark": "emoji", "shots": 1}
TWO_HOSTS = """
import sys
from pathlib import Path
from segic_jax.runtime import distributed
distributed.initialize()
import jax
from segic_jax.evaluate.records import Records
out = Path(sys.argv[1]) / (str(jax.process_index()) if sys.argv[2] == "own" else "")
records = Records(out, {"run": 1})
print(sorted(records.done), flush=True)
for i in range(jax.process_index(), 6, 2):
    records.add({"index": i, "by": jax.process_index()})
print([(i, row["by"]) for i, row in records.gathered().items()], flush=True)
"""


def add(records, *indices):
    for i in indices:
        records.add({"index": i, "iou": i / 10})


def test_a_second_start_knows_the_rows(tmp_path):
    records = Records(tmp_path, IDENTITY)
    add(records, 3, 1)
    records.close()
    again = Records(tmp_path, IDENTITY)
    assert again.gathered() == {1: {"index": 1, "iou": 0.1}, 3: {"index": 3, "iou": 0.3}}
    add(again, 2)
    assert list(again.gathered()) == [1, 2, 3]


def test_a_line_cut_short_is_done_again(tmp_path):
    records = Records(tmp_path, IDENTITY)
    add(records, 0, 1)
    records.close()
    path = tmp_path / "parts/00000.jsonl"
    path.write_bytes(path.read_bytes()[:-4])
    records = Records(tmp_path, IDENTITY)
    assert list(records.done) == [0]
    add(records, 1)
    records.close()
    assert list(Records(tmp_path, IDENTITY).done) == [0, 1]


def test_another_run_is_refused(tmp_path):
    Records(tmp_path, IDENTITY).close()
    with pytest.raises(DataError, match=r"holds another run \(not the same shots\): choose another --out"):
        Records(tmp_path, {**IDENTITY, "shots": 5})
    (tmp_path / "run.json").write_text("{")  # and a refused start has let go of the folder
    with pytest.raises(DataError, match="is damaged"):
        Records(tmp_path, IDENTITY)


def test_a_folder_in_use_is_refused(tmp_path):
    with Records(tmp_path, IDENTITY) as records:
        add(records, 0)
        with pytest.raises(DataError, match=r"Another run writes into .*: let it end, or choose"):
            Records(tmp_path, IDENTITY)
        add(records, 1)
    with Records(tmp_path, IDENTITY) as records:
        assert list(records.done) == [0, 1]


def test_only_the_own_file_is_cut(tmp_path):
    """Another host's may still grow."""
    with Records(tmp_path, IDENTITY) as records:
        add(records, 0)
    other = tmp_path / "parts/00001.jsonl"
    other.write_text('{"index": 1}\n{"ind')
    with Records(tmp_path, IDENTITY) as records:
        assert list(records.done) == [0, 1]
    assert other.read_text() == '{"index": 1}\n{"ind'


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/out cannot be written to \(Not a directory\): choose another"):
        Records(tmp_path / "file/out", IDENTITY)
    if Path("/dev/full").exists():
        (tmp_path / "parts").mkdir()
        with Records(tmp_path, IDENTITY) as records:
            records._file, real = os.open("/dev/full", os.O_WRONLY), records._file
            with pytest.raises(DataError, match=r"00000\.jsonl cannot be written to: No space left"):
                add(records, 0)
            assert not records.done
        os.close(real)


def test_damaged_rows_are_named(tmp_path):
    Records(tmp_path, IDENTITY).close()
    (tmp_path / "parts/00000.jsonl").write_text('{"index": 1}\nnonsense\n')
    with pytest.raises(DataError, match=r"00000\.jsonl is damaged: delete it"):
        Records(tmp_path, IDENTITY)


@pytest.mark.parametrize("disk", ["shared", "own"])
def test_two_hosts_know_each_others_rows(tmp_path, disk):
    def start():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", TWO_HOSTS, str(tmp_path), disk],
                env=os.environ
                | {
                    "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                    "JAX_NUM_PROCESSES": "2",
                    "JAX_PROCESS_ID": str(i),
                    "PYTHONPATH": str(Path(__file__).parents[2]),
                },
                stdout=subprocess.PIPE,
                text=True,
            )
            for i in range(2)
        ]
        answers = [process.communicate(timeout=400)[0].splitlines()[-2:] for process in processes]
        assert all(process.returncode == 0 for process in processes)
        return answers

    everything = str([(i, i % 2) for i in range(6)])
    assert start() == [["[]", everything]] * 2
    assert start() == [[str(list(range(6))), everything]] * 2
    path = tmp_path / ("0" if disk == "own" else "") / "run.json"
    assert json.loads(path.read_text()) == {"run": 1}
