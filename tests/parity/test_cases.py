"""Test the further cases of a dump, on goldens of the official code in place of a dump."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from segic_jax.errors import DumpError
from segic_jax.parity.cases import REPLAYS, compare_case
from segic_jax.parity.dump import read_dump

GOLDENS = {  # by kind: the file, and arrays that are compared
    "semantic": ("segic_semseg", ("out.masks", "mid.tgt_point_coords")),
    "video": ("segic_vos", ("out.index_masks", "mid.low_res_masks")),
    "train": ("segic_train_ragged", ("out.loss", "grad neck.0.weight")),
}


@pytest.fixture(scope="module")
def dump(golden, golden_weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dump")
    save_file({n: np.array(v) for n, v in golden_weights("segic").items()}, folder / "weights.safetensors")
    ids = golden("segic_semseg")["mid.tgt_input_ids"]
    model = {
        "canvas": 112,
        "backbone_heads": 4,
        "text_heads": 4,
        "decoder_heads": 8,
        "eos_id": int(ids.max()),
    }
    model |= {"pos_offset": 0.1, "pos_antialias": False}
    np.savez(folder / "pair_0.npz", unread=0)
    manifest = {"format": 1, "model": model, "files": {}, "pairs": [{"file": "pair_0.npz"}]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return read_dump(folder)


def write(dump, kind, arrays):
    np.savez(dump.folder / f"{kind}.npz", **{n: v for n, v in arrays.items() if n != "@dropped"})
    return {"kind": kind, "file": f"{kind}.npz"}


@pytest.mark.parametrize("kind", REPLAYS)
def test_every_kind_is_replayed(dump, golden, golden_weights, kind):
    name, arrays = GOLDENS[kind]
    if kind != "semantic" and not os.environ.get("SEGIC_GOLDENS"):
        pytest.skip("the compact goldens lack arrays of this kind")
    if kind == "train":
        gradients = golden_weights(f"{name}_grads")
        save_file({n: np.array(v) for n, v in gradients.items()}, dump.folder / "train_grads.safetensors")
    rows = {row["array"]: row for row in compare_case(dump, write(dump, kind, golden(name)))}
    assert [row["array"] for row in rows.values() if not row["passed"]] == []
    assert not any(row["tied"] for row in rows.values())
    assert set(arrays) <= rows.keys()


def test_an_error_beyond_the_rounding_of_torch_fails(dump, golden):
    arrays = dict(golden("segic_semseg"))
    arrays["out.masks"] = arrays["out.masks"] + np.float32(0.1)
    judged = {}
    for rounding in (0.01, 0.06):
        entry = write(dump, "semantic", arrays | {"rounding.out.masks": np.float64(rounding)})
        judged[rounding] = {row["array"]: row for row in compare_case(dump, entry)}
    assert not judged[0.01]["out.masks"]["passed"]
    assert judged[0.06]["out.masks"]["passed"]
    assert judged[0.06]["out.masks"]["tolerance"] == pytest.approx(0.12)
    assert judged[0.01]["out.iou_pred"]["passed"]


def test_another_place_of_the_same_similarity_is_a_tie(dump, golden):
    stored = golden("segic_semseg")
    points, maps, arrays = (
        *(stored[f"mid.tgt_{n}"].copy() for n in ("point_coords", "mask_input")),
        dict(stored),
    )
    (x, y), peak = points[0, 0].astype(int), maps[0].max()
    points[0, 0] = (x + 5) % 112, y
    arrays |= {"mid.tgt_point_coords": points, "out.masks": -arrays["out.masks"]}
    apart = {row["array"]: row for row in compare_case(dump, write(dump, "semantic", arrays))}
    assert not apart["mid.tgt_point_coords"]["passed"]
    assert not apart["out.masks"]["passed"]
    maps[0, 0, y, (x + 5) % 112] = peak
    tied = {
        row["array"]: row
        for row in compare_case(dump, write(dump, "semantic", arrays | {"mid.tgt_mask_input": maps}))
    }
    assert tied["out.masks"]["tied"]
    assert tied["out.masks"]["passed"]


def test_a_case_that_cannot_be_replayed_is_named(dump, golden):
    arrays = {name: value for name, value in golden("segic_semseg").items() if name != "in.ref_label"}
    with pytest.raises(DumpError, match=r"semantic\.npz lacks in\.ref_label"):
        compare_case(dump, write(dump, "semantic", arrays))
    (dump.folder / "semantic.npz").write_bytes(b"PK")
    with pytest.raises(DumpError, match=r"semantic\.npz is damaged"):
        compare_case(dump, {"kind": "semantic", "file": "semantic.npz"})
    with pytest.raises(DumpError, match="unknown kind, 'x'"):
        compare_case(dump, {"kind": "x", "file": "x.npz"})
