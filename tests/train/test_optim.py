import jax.numpy as jnp
import numpy as np
import optax
import pytest

from segic_jax.config import OptimConfig
from segic_jax.errors import ConfigError
from segic_jax.train import optim


@pytest.mark.parametrize(("tag", "drop_at"), [("short", 2 / 3), ("long", 10 / 12)])
def test_adamw_equals_the_goldens(golden, tag, drop_at):
    g = golden("optim")
    grads = g[f"in.{tag}.grads"]
    config = OptimConfig(drop_at=drop_at)
    rate = optim.learning_rate(config, len(grads))
    np.testing.assert_allclose([rate(i) for i in range(len(grads))], g[f"out.{tag}.lr"], rtol=1e-6)
    optimizer = optim.make_optimizer(config, len(grads))
    params = {"param": jnp.asarray(g["in.param"]), "param_zero_grad": jnp.asarray(g["in.param_zero_grad"])}
    state = optimizer.init(params)
    for step, grad in enumerate(grads):
        updates, state = optimizer.update(
            {"param": jnp.asarray(grad), "param_zero_grad": jnp.zeros(3)}, state, params
        )
        params = optax.apply_updates(params, updates)
        for name, value in params.items():
            np.testing.assert_allclose(value, g[f"out.{tag}.{name}"][step], rtol=0, atol=5e-7)
    np.testing.assert_allclose(state[0].mu["param"], g[f"out.{tag}.exp_avg"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(state[0].nu["param"], g[f"out.{tag}.exp_avg_sq"], rtol=1e-6)


def test_untrained_parameters_are_those_of_the_official_code(golden, golden_weights):
    official = [name for name in golden_weights("segic") if not name.startswith(("encoder.", "pixel_"))]
    trained = optim.trainable_names(dict.fromkeys(name.replace(".", "/") for name in official))
    untrained = set(official) - {name.replace("/", ".") for name in trained}
    without_grad = set(golden("segic_train_ragged")["out.params_without_grad"].tolist())
    assert untrained == without_grad | {"prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"}


def test_the_cosine_schedule_warms_up_and_decays():
    rate = optim.learning_rate(OptimConfig(schedule="cosine", learning_rate=1.0, warmup_steps=4), 24)
    np.testing.assert_allclose(
        [rate(0), rate(3), rate(4), rate(14), rate(24)], [0.25, 1, 1, 0.5, 0], atol=1e-6
    )


def test_invalid_settings_are_refused():
    with pytest.raises(ConfigError, match=r"optim\.drop_at 10"):
        OptimConfig(drop_at=10)
    with pytest.raises(ConfigError, match=r"optim\.warmup_steps"):
        OptimConfig(warmup_steps=-1)
