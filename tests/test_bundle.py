import dataclasses
import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from tiny import bundle

from segic_jax.weights.bundle import BundleError, load_bundle, save_bundle


@pytest.mark.parametrize(("half", "tolerance"), [(False, 0), (True, 1e-3)])
def test_what_is_saved_comes_back(tmp_path, half, tolerance):
    saved = bundle()
    save_bundle(tmp_path / "m.safetensors", saved, half=half)
    loaded = load_bundle(tmp_path / "m.safetensors")
    assert loaded.config == saved.config
    assert loaded.notes == saved.notes
    assert loaded.name == "m.safetensors"
    for part in ("backbone", "head", "text"):
        before, after = getattr(saved, part), getattr(loaded, part)
        assert before.keys() == after.keys()
        for name in before:
            assert after[name].dtype == np.float32
            np.testing.assert_allclose(after[name], before[name], rtol=tolerance, atol=tolerance / 1000)


def test_text_features():
    assert bundle().text_feature().sum() == 0
    assert bundle().text_feature("disk").sum() == 4
    with pytest.raises(BundleError, match="a photo of a cat"):
        bundle().text_feature("cat")


def test_values_beyond_float16_are_refused(tmp_path):
    model = bundle()
    model.head["neck/0/kernel"] = model.head["neck/0/kernel"] + 1e6
    with pytest.raises(BundleError, match=r"head/neck/0/kernel.*half=False"):
        save_bundle(tmp_path / "m.safetensors", model)


def test_the_empty_prompt_is_required(tmp_path):
    with pytest.raises(BundleError, match="empty prompt"):
        save_bundle(tmp_path / "m.safetensors", dataclasses.replace(bundle(), text={}))


def broken(path, change):
    """Rewrite the file after `change(tensors, metadata)`."""
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, metadata)
    save_file(tensors, path, metadata)


def forget_a_tensor(tensors, metadata):
    del tensors["head/prompt_proj/bias"]


def another_width(tensors, metadata):
    config = json.loads(metadata["config"])
    config["vit"]["depth"] = 3
    metadata["config"] = json.dumps(config)


def unknown_field(tensors, metadata):
    config = json.loads(metadata["config"])
    config["vit"]["colour"] = "red"
    metadata["config"] = json.dumps(config)


def another_format(tensors, metadata):
    metadata["format"] = "something else"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (forget_a_tensor, "prompt_proj/bias"),
        (another_width, "blocks/2"),
        (unknown_field, "colour"),
        (another_format, "format"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path, change, named):
    path = tmp_path / "m.safetensors"
    save_bundle(path, bundle())
    broken(path, change)
    with pytest.raises(BundleError, match=named) as error:
        load_bundle(path)
    assert "m.safetensors" in str(error.value)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(BundleError, match="no such"):
        load_bundle(tmp_path / "m.safetensors")
    path = tmp_path / "cut.safetensors"
    save_bundle(path, bundle())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BundleError, match=r"cut\.safetensors is damaged"):
        load_bundle(path)
