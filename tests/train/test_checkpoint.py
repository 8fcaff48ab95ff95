"""Checkpoints: what is kept, what comes back, and what is refused."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from segic_jax.errors import CheckpointError
from segic_jax.train.checkpoint import Checkpoints, check_meta, fingerprint, load_head

PARAMS = {f"layers/{i}/kernel": jnp.full((2, 3), i, jnp.float32) for i in range(12)}
UNTRAINED = {"pe_layer/matrix": jnp.arange(4.0)}
META = {
    "config": {"train": {"steps": 10, "seed": 1}, "optim": {"learning_rate": 1e-4}, "backbone": "b"},
    "backbone": {"name": "b", "sha256": "0" * 64},
}


def scaled(factor):
    return {name: value * factor for name, value in PARAMS.items()}


def items(factor):
    params = scaled(factor)
    return {"params": params, "untrained": UNTRAINED, "opt_state": optax.adam(1e-3).init(params)}


def save(tmp_path, *steps):
    checkpoints = Checkpoints(tmp_path)
    for step, score in steps:
        checkpoints.save(step, items(step), META, score)
    checkpoints.close()


def restored(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    found = checkpoints.restore_latest(items(0), META)
    checkpoints.close()
    return found


def kept(tmp_path):
    return sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())


def test_keeps_the_latest_two_and_the_best(tmp_path):
    assert restored(tmp_path) is None
    save(tmp_path, (1, None), (2, 0.9), (3, 0.5), (4, float("nan")), (5, 0.6))
    assert kept(tmp_path) == [2, 4, 5]
    step, found, notes = restored(tmp_path)
    assert (step, notes) == (5, {})
    assert all(np.array_equal(found["params"][name], value) for name, value in scaled(5).items())
    assert np.array_equal(found["untrained"]["pe_layer/matrix"], UNTRAINED["pe_layer/matrix"])
    assert jax.tree.structure(found["opt_state"]) == jax.tree.structure(items(0)["opt_state"])
    save(tmp_path, (6, 0.7), (7, 0.7))
    assert kept(tmp_path) == [2, 6, 7]

    for best, step in ((False, 7), (True, 2)):
        head, meta = load_head(tmp_path, best=best)
        assert head.keys() == PARAMS.keys() | UNTRAINED.keys()
        assert np.array_equal(head["layers/11/kernel"], PARAMS["layers/11/kernel"] * step)
        assert meta.keys() - META.keys() == {"sha256", "notes"}


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(tmp_path, capsys):
    """Whatever file of the newest one is cut, emptied, overwritten or gone."""
    save(tmp_path / "whole", (1, 0.5), (2, 0.4))
    newest = tmp_path / "whole/checkpoints/2"
    names = sorted(str(path.relative_to(newest)) for path in newest.rglob("*") if path.is_file())
    assert len(names) > 8
    noticed = 0
    for number, name in enumerate(names):
        workdir = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", workdir)
        file = workdir / "checkpoints/2" / name
        content = bytearray(file.read_bytes())
        middle = len(content) // 2
        if number % 3 == 0:
            file.unlink()
        elif number % 3 == 1:
            file.write_bytes(content[:middle])
        else:
            content[middle : middle + 4] = b"\xff\x00\xff\x00"
            file.write_bytes(content)
        step, found, _ = restored(workdir)
        # Not every file is needed; but what is given is always what was written.
        assert all(np.array_equal(found["params"][k], value) for k, value in scaled(step).items()), name
        if step == 1:
            noticed += 1
            assert (workdir / "damaged/2").is_dir()
            assert kept(workdir) == [1]
            assert "The checkpoint of step 2 is damaged" in capsys.readouterr().out
            save(workdir, (2, 0.4))
            assert restored(workdir)[0] == 2
    assert noticed > 8


def test_all_damaged_is_an_error_and_moves_nothing(tmp_path):
    save(tmp_path, (1, None), (2, None))
    for path in tmp_path.rglob("checkpoints/*/params/**/*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"No checkpoint in .* can be read"):
        restored(tmp_path)
    assert kept(tmp_path) == [1, 2]


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, items(1), META)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(CheckpointError, match=r"step 2 cannot be written.*No space left.*make room") as error:
        checkpoints.save(2, items(2), META)
    assert "\n" not in str(error.value)
    checkpoints.close()
    assert restored(tmp_path)[0] == 1


def test_another_backbone_or_setting_is_refused(tmp_path):
    check_meta(META, META | {"config": META["config"] | {"train": {"steps": 99, "seed": 1}}}, tmp_path)
    moved = META | {"config": META["config"] | {"backbone": "elsewhere/b"}}
    check_meta(META, moved, tmp_path)
    with pytest.raises(CheckpointError, match=r"optim\.learning_rate = 0\.0001, but it is 0\.01 now"):
        check_meta(META, META | {"config": META["config"] | {"optim": {"learning_rate": 1e-2}}}, tmp_path)
    with pytest.raises(CheckpointError, match=r"trained on the backbone b .*but c "):
        check_meta(META, META | {"backbone": {"name": "c", "sha256": "1" * 64}}, tmp_path)


def test_fingerprint_sees_names_and_values_but_not_order():
    print_ = fingerprint(PARAMS)
    assert fingerprint(dict(reversed(PARAMS.items()))) == print_
    assert fingerprint({name: np.asarray(value, np.float16) for name, value in PARAMS.items()}) == print_
    assert fingerprint({name + "x": value for name, value in PARAMS.items()}) != print_
    assert fingerprint(scaled(2)) != print_


def test_no_checkpoint_is_one_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="There is no checkpoint in"):
        load_head(tmp_path)
    Checkpoints(tmp_path).close()
    with pytest.raises(CheckpointError, match="There is no checkpoint in"):
        load_head(tmp_path)
