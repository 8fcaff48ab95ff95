import subprocess
import sys
from pathlib import Path

from benchmarks import input_pipeline
from benchmarks.input_pipeline import Args, main

ROOT = Path(__file__).parents[2]


def test_the_benchmark_prints_both_tables(capsys, monkeypatch):
    monkeypatch.setattr(input_pipeline, "ROUNDS", 1)
    monkeypatch.setenv("SEGIC_CACHE", "")  # main sets it
    main(Args(canvas=64, instances=3, pairs=4, batch_size=2))
    printed = capsys.readouterr().out
    for kind in ("semantic", "instance"):
        assert f"{kind} pairs: " in printed
    shares = [line for line in printed.splitlines() if line.endswith("%")]
    assert len(shares) > 12
    assert "decoding JPEGs" in printed
    assert "views of masks" in printed


def test_the_help_lists_the_options():
    command = [sys.executable, "-m", "benchmarks.input_pipeline", "--help"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--workers" in process.stdout
