"""Test `segic parity goldens` on folders in the goldens' format."""

import json
import math
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from segic_jax.commands.command_line import main
from segic_jax.errors import MissingArray
from segic_jax.parity.checker import Checker

COMPLETE = ("backbone_swiglu_reg", "text", "prompt_decoder", "preprocess", "metrics", "optim")
PARTIAL = ("segic_infer_instances", "segic_semseg")  # the compact goldens lack some arrays
WEIGHTS = ("backbone_swiglu_reg", "text", "segic")


def write(folder, name, arrays):
    np.savez(folder / f"{name}.npz", **{key: value for key, value in arrays.items() if key != "@dropped"})


@pytest.fixture(scope="module")
def folder(golden, golden_weights, tmp_path_factory):
    """Write goldens with the file names of the official set."""
    folder = tmp_path_factory.mktemp("goldens")
    for name in (*COMPLETE, *PARTIAL):
        write(folder, name, golden(name))
    for name in WEIGHTS:
        save_file(
            {key: np.array(value) for key, value in golden_weights(name).items()},
            folder / f"{name}.safetensors",
        )
    return folder


def run(folder, *arguments):
    """Return the exit code, and the rows that --json wrote, by "file array"; None without a file."""
    path = folder / "rows.json"
    path.unlink(missing_ok=True)
    with pytest.raises(SystemExit) as stop:
        main(["parity", "goldens", str(folder), "--json", str(path), *arguments])
    if not path.exists():
        return stop.value.code, None
    report = json.loads(path.read_text(), parse_constant=pytest.fail)
    rows = {f"{row['file']} {row['array']}": row for row in report["rows"]}
    assert len(rows) == len(report["rows"])
    assert report["passed"] == (stop.value.code == 0)
    return stop.value.code, rows


def failed(rows):
    return {name for name, row in rows.items() if not row["passed"]}


def changed(folder, tmp_path, name, **arrays):
    """Copy one file with some arrays changed; None removes an array."""
    with np.load(folder / f"{name}.npz") as file:
        remaining = {key: file[key] for key in file.files if arrays.get(key, 0) is not None}
    write(tmp_path, name, remaining | {key: value for key, value in arrays.items() if value is not None})
    return tmp_path


def test_everything_passes(folder, capsys):
    code, rows = run(folder, "--only", *COMPLETE)
    assert code == 0
    assert {name.split()[0] for name in rows} == set(COMPLETE)
    assert set(next(iter(rows.values()))) == {"file", "array", "max_abs_error", "tolerance", "passed"}
    out = capsys.readouterr().out
    assert f"{len(rows)} arrays, {len(rows)} passed, 0 failed" in out
    assert "not in the format" not in out


def test_missing_arrays_fail(folder, golden):
    code, rows = run(folder, "--only", *PARTIAL)
    assert code == 1
    assert failed(rows) == {f"{name} {array}" for name in PARTIAL for array in golden(name)["@dropped"]}
    assert all(rows[name]["max_abs_error"] is None for name in failed(rows))


def test_a_missing_file_fails_unless_only_leaves_it_out(folder, tmp_path):
    shutil.copy(folder / "metrics.npz", tmp_path)
    code, rows = run(tmp_path)
    assert code == 1
    assert rows["metrics out.union"]["passed"]
    assert "segic_vos the whole file" in failed(rows)


def test_a_changed_array_fails(folder, golden, tmp_path):
    image = golden("preprocess")["out.resize.0.image"].copy()
    image[0, 0, 0] += 1
    changed(folder, tmp_path, "preprocess", **{"out.resize.0.image": image})
    code, rows = run(tmp_path, "--only", "preprocess")
    assert (code, failed(rows)) == (1, {"preprocess out.resize.0.image"})
    assert rows["preprocess out.resize.0.image"]["max_abs_error"] == pytest.approx(1, abs=1e-3)


def test_a_changed_feature_does_not_mislead_the_search_for_the_number_of_heads(folder, golden, tmp_path):
    pooled = golden("text")["out.pooler_output"].copy()
    pooled[1, 2] += 1
    changed(folder, tmp_path, "text", **{"out.pooler_output": pooled})
    shutil.copy(folder / "text.safetensors", tmp_path)
    code, rows = run(tmp_path, "--only", "text")
    assert (code, failed(rows)) == (1, {"text out.pooler_output"})


def test_without_an_input_all_arrays_of_the_file_fail(folder, tmp_path):
    changed(folder, tmp_path, "text", **{"in.attention_mask": None})
    shutil.copy(folder / "text.safetensors", tmp_path)
    code, rows = run(tmp_path, "--only", "text")
    assert code == 1
    assert failed(rows) == set(rows)
    assert {"text in.attention_mask", "text out.pooler_output"} <= set(rows)


def test_arrays_that_are_not_in_the_format_are_named(folder, tmp_path, capsys):
    changed(folder, tmp_path, "metrics", **{"out.more": np.zeros(2)})
    code, _ = run(tmp_path, "--only", "metrics")
    assert code == 0
    assert "not in the format, and not read: metrics out.more" in capsys.readouterr().out


def test_a_truncated_file_does_not_stop_the_others(folder, tmp_path, capsys):
    data = (folder / "preprocess.npz").read_bytes()
    (tmp_path / "preprocess.npz").write_bytes(data[: len(data) // 2])
    shutil.copy(folder / "metrics.npz", tmp_path)
    code, rows = run(tmp_path, "--only", "preprocess", "metrics")
    assert code == 2
    assert failed(rows) == {"preprocess the whole file"}
    assert "preprocess.npz is missing or damaged" in capsys.readouterr().err


def test_missing_or_truncated_weights_are_reported(folder, tmp_path, capsys):
    shutil.copy(folder / "text.npz", tmp_path)
    assert run(tmp_path, "--only", "text")[0] == 2
    assert "no weights text.safetensors" in capsys.readouterr().err
    (tmp_path / "text.safetensors").write_bytes((folder / "text.safetensors").read_bytes()[:5000])
    assert run(tmp_path, "--only", "text")[0] == 2
    assert "text.safetensors is damaged" in capsys.readouterr().err


def test_an_array_of_a_wrong_shape_fails(folder, golden, tmp_path, capsys):
    changed(folder, tmp_path, "optim", **{"in.short.grads": golden("optim")["in.short.grads"][:, :-1]})
    assert run(tmp_path, "--only", "optim")[0] == 2
    assert "optim.npz does not have the format's shapes" in capsys.readouterr().err


def test_a_folder_without_goldens_is_refused(tmp_path, capsys):
    assert run(tmp_path) == (2, None)
    assert "holds no .npz file" in capsys.readouterr().err


def test_an_unknown_name_is_refused(folder, capsys):
    assert run(folder, "--only", "metric") == (2, None)
    assert "--only metric" in (error := capsys.readouterr().err)
    assert "segic_vos" in error


def test_bfloat16_is_measured_against_the_same_tolerance(folder, capsys):
    code, rows = run(folder, "--only", "text", "--dtype", "bfloat16")
    assert code == 1
    assert 1e-4 < rows["text out.pooler_output"]["max_abs_error"] < 0.1
    assert "the tolerances are those of float32" in capsys.readouterr().out


def test_checker_compares_nan_infinity_and_text():
    inf, nan = math.inf, math.nan
    check = Checker("f", {"a": np.array([nan, inf, 1.0]), "b": np.array(["x", "y"]), "e": np.zeros((0, 2))})
    check.close("a", [nan, inf, 1.00005])
    check.equal("b", ["x", "y"])
    check.close("e", np.zeros((0, 2)))
    assert all(row.passed for row in check.rows)
    check.close("a", [nan, nan, 1])
    check.close("a", [nan, inf])
    check.equal("b", ["x", "z"])
    check.equal("b", ["x"])
    check.close("c", 0)
    with pytest.raises(MissingArray):
        check.input("d")
    assert not any(row.passed for row in check.rows[3:])
    assert [row.to_json()["max_abs_error"] for row in check.rows[3:]] == [None] * 6


# A backbone of another size, in numpy.


def layer_norm(x, t, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * t[f"{name}.weight"] + t[f"{name}.bias"]


def linear(x, t, name):
    return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]


def numpy_dinov2(t, image, *, heads, depth, patch):
    """Return the patch embedding, and the tokens before the last norm; the position grid is not resized."""
    n, _, height, width = image.shape
    rows, columns = height // patch, width // patch
    patches = image.reshape(n, 3, rows, patch, columns, patch).transpose(0, 2, 4, 1, 3, 5)
    kernel = t["patch_embed.proj.weight"]
    embedded = (
        patches.reshape(n, rows * columns, -1) @ kernel.reshape(len(kernel), -1).T
        + t["patch_embed.proj.bias"]
    )
    x = np.concatenate([np.repeat(t["cls_token"], n, 0), embedded], axis=1) + t["pos_embed"]
    for i in range(depth):
        name = f"blocks.{i}"
        qkv = linear(layer_norm(x, t, f"{name}.norm1"), t, f"{name}.attn.qkv")
        q, k, v = qkv.reshape(n, x.shape[1], 3, heads, -1).transpose(2, 0, 3, 1, 4)
        scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        attended = (weights / weights.sum(-1, keepdims=True)) @ v
        x = x + t[f"{name}.ls1.gamma"] * linear(
            attended.swapaxes(1, 2).reshape(x.shape), t, f"{name}.attn.proj"
        )
        hidden = linear(layer_norm(x, t, f"{name}.norm2"), t, f"{name}.mlp.fc1")
        hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        x = x + t[f"{name}.ls2.gamma"] * linear(hidden, t, f"{name}.mlp.fc2")
    return embedded, x


def test_other_sizes(tmp_path):
    """Check a backbone of width 20 with 5 heads, 2 blocks and patches of 4 pixels, on 3 batches."""
    random, width, depth, side, patch = np.random.default_rng(0), 20, 2, 3, 4
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, side**2 + 1, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for i in range(depth):
        for name, out, into in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", 2 * width, width),
            ("mlp.fc2", width, 2 * width),
        ):
            shapes |= {f"blocks.{i}.{name}.weight": (out, into), f"blocks.{i}.{name}.bias": (out,)}
        names = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma")
        shapes |= {f"blocks.{i}.{name}": (width,) for name in names}
    tensors = {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "backbone_mlp.safetensors")
    arrays = {"in.n_inputs": 3, "in.antialias": False, "in.offset": 0.1, "in.num_register_tokens": 0}
    for i in range(3):
        image = random.normal(size=(2, 3, side * patch, side * patch)).astype(np.float32)
        exact = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
        embedded, x = numpy_dinov2(exact, image, heads=5, depth=depth, patch=patch)
        normed = layer_norm(x, exact, "norm")
        arrays |= {
            f"in.image.{i}": image,
            f"mid.patch_embed.{i}": embedded,
            f"mid.pos_embed.{i}": tensors["pos_embed"],
            f"out.x_prenorm.{i}": x,
            f"out.x_norm_clstoken.{i}": normed[:, 0],
            f"out.x_norm_patchtokens.{i}": normed[:, 1:],
        }
    write(tmp_path, "backbone_mlp", arrays)
    code, rows = run(tmp_path, "--only", "backbone_mlp")
    assert code == 0, failed(rows)
    assert len(rows) == 15
