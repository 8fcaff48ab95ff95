"""Test which checkpoints are kept, what is restored, and what is refused."""

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


def restore(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    result = checkpoints.restore_latest(items(0), META)
    checkpoints.close()
    return result


def kept_steps(tmp_path):
    return sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())


def test_the_latest_two_and_the_best_are_kept(tmp_path):
    assert restore(tmp_path) is None
    save(tmp_path, (1, None), (2, 0.9), (3, 0.5), (4, float("nan")), (5, 0.6))
    assert kept_steps(tmp_path) == [2, 4, 5]
    step, state, notes = restore(tmp_path)
    assert (step, notes) == (5, {})
    assert all(np.array_equal(state["params"][name], value) for name, value in scaled(5).items())
    assert np.array_equal(state["untrained"]["pe_layer/matrix"], UNTRAINED["pe_layer/matrix"])
    assert jax.tree.structure(state["opt_state"]) == jax.tree.structure(items(0)["opt_state"])
    save(tmp_path, (6, 0.7), (7, 0.7))
    assert kept_steps(tmp_path) == [2, 6, 7]

    for best, step in ((False, 7), (True, 2)):
        head, meta = load_head(tmp_path, best=best)
        assert head.keys() == PARAMS.keys() | UNTRAINED.keys()
        assert np.array_equal(head["layers/11/kernel"], PARAMS["layers/11/kernel"] * step)
        assert meta.keys() - META.keys() == {"sha256", "notes"}


def test_a_damaged_checkpoint_is_moved_and_the_previous_one_is_restored(tmp_path, capsys):
    """Truncate, overwrite or delete each file of the newest checkpoint."""
    save(tmp_path / "whole", (1, 0.5), (2, 0.4))
    newest = tmp_path / "whole/checkpoints/2"
    names = sorted(str(path.relative_to(newest)) for path in newest.rglob("*") if path.is_file())
    assert len(names) > 8
    detected = 0
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
        step, state, _ = restore(workdir)
        # Not every file is needed, but what is restored is always what was saved.
        assert all(np.array_equal(state["params"][k], value) for k, value in scaled(step).items()), name
        if step == 1:
            detected += 1
            assert (workdir / "damaged/2").is_dir()
            assert kept_steps(workdir) == [1]
            assert "The checkpoint of step 2 is damaged" in capsys.readouterr().out
            save(workdir, (2, 0.4))
            assert restore(workdir)[0] == 2
    assert detected > 8


def test_if_all_are_damaged_nothing_is_moved(tmp_path):
    save(tmp_path, (1, None), (2, None))
    for path in tmp_path.rglob("checkpoints/*/params/**/*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"No checkpoint in .* can be read"):
        restore(tmp_path)
    assert kept_steps(tmp_path) == [1, 2]


def test_a_full_disk_is_reported_in_one_sentence(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, items(1), META)

    def raise_disk_full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints._manager, "save", raise_disk_full)
    with pytest.raises(CheckpointError, match=r"step 2 cannot be written.*No space left.*make room") as error:
        checkpoints.save(2, items(2), META)
    assert "\n" not in str(error.value)
    checkpoints.close()
    assert restore(tmp_path)[0] == 1


def test_another_backbone_or_setting_is_refused(tmp_path):
    check_meta(META, META | {"config": META["config"] | {"train": {"steps": 99, "seed": 1}}}, tmp_path)
    moved = META | {"config": META["config"] | {"backbone": "elsewhere/b"}}
    check_meta(META, moved, tmp_path)
    with pytest.raises(CheckpointError, match=r"optim\.learning_rate = 0\.0001, but it is 0\.01 now"):
        check_meta(META, META | {"config": META["config"] | {"optim": {"learning_rate": 1e-2}}}, tmp_path)
    with pytest.raises(CheckpointError, match=r"trained on the backbone b .*but c "):
        check_meta(META, META | {"backbone": {"name": "c", "sha256": "1" * 64}}, tmp_path)


def test_the_fingerprint_depends_on_names_and_values_but_not_on_order():
    hash_value = fingerprint(PARAMS)
    assert fingerprint(dict(reversed(PARAMS.items()))) == hash_value
    assert fingerprint({name: np.asarray(value, np.float16) for name, value in PARAMS.items()}) == hash_value
    assert fingerprint({name + "x": value for name, value in PARAMS.items()}) != hash_value
    assert fingerprint(scaled(2)) != hash_value


def test_a_missing_checkpoint_is_reported(tmp_path):
    with pytest.raises(CheckpointError, match="There is no checkpoint in"):
        load_head(tmp_path)
    Checkpoints(tmp_path).close()
    with pytest.raises(CheckpointError, match="There is no checkpoint in"):
        load_head(tmp_path)
