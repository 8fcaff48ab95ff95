"""Checkpoints: what is kept, what comes back, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from segic_jax.checkpoint import CheckpointError, Checkpoints, check_meta, fingerprint, load_head

PARAMS = {f"layers/{i}/kernel": jnp.full((2, 3), i, jnp.float32) for i in range(12)}
UNTRAINED = {"pe_layer/matrix": jnp.arange(4.0)}
META = {
    "config": {"train": {"steps": 10, "seed": 1}, "optim": {"learning_rate": 1e-4}, "backbone": "b"},
    "backbone": {"name": "b", "sha256": "0" * 64},
}


def scaled(factor):
    return {name: value * factor for name, value in PARAMS.items()}


def test_keeps_the_latest_two_and_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    optimizer = optax.adam(1e-3)
    for step, score in [(1, None), (2, 0.9), (3, 0.5), (4, float("nan")), (5, 0.6)]:
        params = scaled(step)
        checkpoints.save(step, params, UNTRAINED, optimizer.init(params), META, score)
    checkpoints.close()
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [2, 4, 5]

    reopened = Checkpoints(tmp_path)
    assert reopened.latest() == 5
    assert reopened.meta(5) == META
    params, untrained, opt_state = reopened.restore(5, PARAMS, UNTRAINED, optimizer.init(PARAMS))
    assert all(np.array_equal(params[name], value) for name, value in scaled(5).items())
    assert np.array_equal(untrained["pe_layer/matrix"], UNTRAINED["pe_layer/matrix"])
    assert jax.tree.structure(opt_state) == jax.tree.structure(optimizer.init(PARAMS))
    for step in (6, 7):
        reopened.save(step, scaled(step), UNTRAINED, optimizer.init(PARAMS), META, 0.7)
    reopened.close()
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [2, 6, 7]

    for best, step in ((False, 7), (True, 2)):
        head, meta = load_head(tmp_path, best=best)
        assert head.keys() == PARAMS.keys() | UNTRAINED.keys()
        assert np.array_equal(head["layers/11/kernel"], PARAMS["layers/11/kernel"] * step)
        assert meta == META


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
