"""Test where experiments are found; tests/test_configs.py tests their content."""

import pytest

from segic_jax.errors import ConfigError
from segic_jax.train.experiment import config_names, configure, find_config


def test_experiments_of_a_checkout_are_found_by_name():
    assert "emoji_tiny" in config_names()
    assert find_config("emoji_tiny").parent.name == "configs"


def test_an_unknown_name_lists_the_experiments():
    with pytest.raises(ConfigError, match=r"emoji_tinny: there is no such .*emoji_tiny"):
        find_config("emoji_tinny")


def test_the_command_line_changes_fields_of_the_backbone():
    config = configure("emoji_tiny", ["--model.backbone.depth", "3", "--pretrain.steps", "5"], "", "")
    assert (config.model.backbone.depth, config.pretrain.steps) == (3, 5)
