"""Test `segic parity goldens` on sets of other sizes, counts and ids, from an independent torch model."""

import json

import pytest
from requirements import require_torch

require_torch()

from make_goldens import FIRST, SECOND, make
from make_goldens_parts import FIRST_PARTS, SECOND_PARTS, make_parts

from segic_jax.commands.command_line import main
from segic_jax.parity.goldens import CHECKPOINT, REPLAYS


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        pytest.param(FIRST, FIRST_PARTS, id="first", marks=pytest.mark.slow),
        pytest.param(SECOND, SECOND_PARTS, id="second"),
    ],
)
def test_other_sizes(spec, parts, tmp_path):
    make(tmp_path, spec)
    make_parts(tmp_path, parts)
    with pytest.raises(SystemExit) as stop:
        main(["parity", "goldens", str(tmp_path), "--json", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [f"{row['file']} {row['array']}" for row in rows if not row["passed"]] == []
    assert stop.value.code == 0
    assert {row["file"] for row in rows} == {*REPLAYS, "segic_train_ragged_grads"} - {CHECKPOINT}
