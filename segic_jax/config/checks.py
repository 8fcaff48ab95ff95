"""Check values of settings."""

from typing import Any

from segic_jax.errors import ConfigError


def require(condition: bool, message: str) -> None:
    """Raise a ConfigError with the message where the condition does not hold."""
    if not condition:
        raise ConfigError(message)


def require_counts(config: Any, *names: str) -> None:
    """Require fields of a configuration to be integers of at least 1."""
    for name in names:
        value = getattr(config, name)
        require(
            isinstance(value, int) and value >= 1,
            f"{type(config).__name__}.{name} {value!r} must be an integer of at least 1.",
        )
