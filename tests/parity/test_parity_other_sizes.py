"""The golden runner on sets of other sizes, counts and ids, from an independent torch model."""

import json

import pytest

torch = pytest.importorskip("torch")

from make_goldens import FIRST, SECOND, make  # noqa: E402

from segic_jax.parity.__main__ import main  # noqa: E402

FILES = ("segic_infer_semantic", "segic_infer_instances", "segic_infer_empty_reference", "segic_semseg",
         "segic_vos", "segic_train_ragged")  # fmt: skip


@pytest.mark.parametrize("spec", [FIRST, SECOND], ids=["first", "second"])
def test_other_sizes(spec, tmp_path):
    make(tmp_path, spec)
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path), "--json", str(tmp_path / "rows.json"), "--only", *FILES])
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [f"{row['file']} {row['array']}" for row in rows if not row["passed"]] == []
    assert stop.value.code == 0
    assert {row["file"] for row in rows} == {*FILES, "segic_train_ragged_grads"}
