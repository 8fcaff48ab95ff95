import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from tiny import CONFIG, bundle
from tiny_text import tokenizer_json, tower

from segic_jax.config import INSTANCE_PROMPT
from segic_jax.errors import BundleError
from segic_jax.models.backbones import backbone_template
from segic_jax.models.head import head_template
from segic_jax.weights.bundle import (
    Weights,
    load_bundle,
    read_weights,
    save_bundle,
    write_weights,
)
from segic_jax.weights.catalog import PACKAGED
from segic_jax.weights.text import encode_prompts


def parts() -> dict[str, dict]:
    """Return the fields of Weights that each part fills."""
    model = bundle()
    return {
        "backbone": {"backbone_config": CONFIG.backbone, "backbone": model.backbone},
        "head": {"model": CONFIG, "head": model.head},
        "tower": {"tower": tower()},
        "text": {"text": model.text},
    }


def assert_equal(before, after):
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].dtype == after[name].dtype
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


@pytest.mark.parametrize(("float16", "tolerance"), [(False, 0), (True, 1e-3)])
def test_a_saved_model_is_read_back(tmp_path, float16, tolerance):
    saved = bundle()
    save_bundle(tmp_path / "m.safetensors", saved, float16=float16)
    loaded = load_bundle(tmp_path / "m.safetensors")
    assert loaded.config == saved.config
    assert loaded.notes == saved.notes
    assert loaded.name == "m.safetensors"
    for part in ("backbone", "head", "text"):
        before, after = getattr(saved, part), getattr(loaded, part)
        assert before.keys() == after.keys()
        for name in before:
            stays_in_file = part == "backbone" and float16
            assert after[name].dtype == (np.float16 if stays_in_file else np.float32)
            np.testing.assert_allclose(after[name], before[name], rtol=tolerance, atol=tolerance / 1000)


def test_text_features_of_the_table():
    assert bundle().text_feature().sum() == 0
    assert bundle().text_feature("disk").sum() == 4
    assert bundle().text_features(["disk", "", "disk"]).sum(1).tolist() == [4, 0, 4]
    with pytest.raises(BundleError, match=r"a photo of a cat.*segic convert"):
        bundle().text_features(["disk", "cat", "dog"])


def test_text_features_of_the_tower_are_cached(monkeypatch):
    model = dataclasses.replace(bundle(), tower=tower())
    calls = []

    def encode(tower, prompts):
        calls.append(list(prompts))
        return encode_prompts(tower, prompts)

    monkeypatch.setattr("segic_jax.weights.bundle.encode_prompts", encode)
    features = model.text_features(["cat", "disk", "dog", "cat", ""])
    assert calls == [["a photo of a cat", "a photo of a dog"]]
    expected = encode_prompts(model.tower, ["a photo of a cat", "a photo of a dog"])
    np.testing.assert_allclose(features[[0, 2]], list(expected.values()), atol=1e-6)
    np.testing.assert_array_equal(features[[0, 1, 4]], [features[3], np.ones(4), np.zeros(4)])
    np.testing.assert_array_equal(model.text_feature("dog"), features[2])
    assert len(calls) == 1


@pytest.mark.parametrize("float16", [False, True])
@pytest.mark.parametrize(
    "names", [("backbone",), ("head",), ("tower",), ("tower", "text"), ("backbone", "tower", "head", "text")]
)
def test_any_parts_are_saved_in_one_file(tmp_path, names, float16):
    fields = {name: value for part in names for name, value in parts()[part].items()}
    path = tmp_path / "w.safetensors"
    write_weights(path, Weights(**fields, notes={"a": [1, "é"]}), float16=float16)
    weights = read_weights(path)
    assert weights.notes == {"a": [1, "é"]}
    assert weights.path == path
    for name in ("backbone_config", "model"):
        assert getattr(weights, name) == fields.get(name)
    for name in ("backbone", "head"):
        if name not in fields:
            assert getattr(weights, name) is None
            continue
        stored = {key: np.asarray(value) for key, value in fields[name].items()}
        assert_equal(
            {key: x.astype(np.float16) if float16 else x for key, x in stored.items()}, getattr(weights, name)
        )
    assert_equal(fields.get("text", {}), weights.text)
    if "tower" in fields:
        assert weights.tower.config == fields["tower"].config
        assert weights.tower.tokenizer == tokenizer_json()
        np.testing.assert_allclose(
            encode_prompts(weights.tower, ["a cat"])["a cat"],
            encode_prompts(fields["tower"], ["a cat"])["a cat"],
            atol=1e-2 if float16 else 0,
        )
    else:
        assert weights.tower is None


def test_the_same_weights_give_the_same_bytes(tmp_path):
    for name in ("1", "2"):
        save_bundle(tmp_path / name, dataclasses.replace(bundle(), tower=tower()))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("tower",), "no backbone and no head.* BACKBONE HEAD --out MODEL.safetensors"),
        (("backbone",), "no text tower and no head.* CLIP HEAD --out"),
        (("backbone", "head"), "no text tower; join the parts: segic convert .*w.safetensors CLIP --out"),
    ],
)
def test_a_file_of_parts_is_not_a_complete_model(tmp_path, names, message):
    fields = {name: value for part in names for name, value in parts()[part].items()}
    write_weights(tmp_path / "w.safetensors", Weights(**fields))
    with pytest.raises(BundleError, match=message):
        load_bundle(tmp_path / "w.safetensors")


def test_the_tower_encodes_the_empty_prompt(tmp_path):
    fields = parts()["backbone"] | parts()["head"] | parts()["tower"]
    write_weights(tmp_path / "w.safetensors", Weights(**fields))
    model = load_bundle(tmp_path / "w.safetensors")
    np.testing.assert_allclose(model.text_feature(), encode_prompts(tower(), [""])[""], atol=1e-6)
    save_bundle(tmp_path / "again.safetensors", model, float16=False)
    assert_equal(load_bundle(tmp_path / "again.safetensors").text, model.text)


def test_inconsistent_parts_are_refused(tmp_path):
    all_parts = parts()
    wide = all_parts["head"] | {"tower": tower(width=8)}
    other = dataclasses.replace(CONFIG, backbone=dataclasses.replace(CONFIG.backbone, pos_offset=0.0))
    for fields, message in (
        (wide, "text_width"),
        (all_parts["backbone"] | all_parts["head"] | {"model": other}, "another backbone"),
        (
            all_parts["backbone"] | {"backbone_config": dataclasses.replace(CONFIG.backbone, depth=1)},
            "unknown: blocks/1",
        ),
        (all_parts["tower"] | {"text": {"": np.zeros(3)}}, "text_width"),
    ):
        with pytest.raises(BundleError, match=message):
            write_weights(tmp_path / "w.safetensors", Weights(**fields))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("float16", [False, True])
def test_values_that_are_not_finite_are_refused(tmp_path, value, float16):
    model = bundle()
    model.head["neck/0/kernel"][0] = value
    with pytest.raises(BundleError, match="head/neck/0/kernel holds NaN or infinite"):
        save_bundle(tmp_path / "m.safetensors", model, float16=float16)
    assert not list(tmp_path.iterdir())


def test_bfloat16_is_kept_as_it_is(tmp_path):
    values = {name: np.asarray(value).astype(ml_dtypes.bfloat16) for name, value in bundle().backbone.items()}
    write_weights(tmp_path / "w.safetensors", Weights(backbone_config=CONFIG.backbone, backbone=values))
    assert_equal(read_weights(tmp_path / "w.safetensors").backbone, values)
    values["norm/bias"][0] = np.nan
    with pytest.raises(BundleError, match="backbone/norm/bias holds NaN"):
        write_weights(tmp_path / "w.safetensors", Weights(backbone_config=CONFIG.backbone, backbone=values))


def test_the_packaged_emoji_model_loads():
    model = load_bundle(PACKAGED["emoji-tiny"].path)
    assert model.name == "emoji-tiny"
    assert model.tower is None
    assert model.text.keys() == {"", INSTANCE_PROMPT}
    assert model.config.canvas == 128
    assert model.backbone.keys() == backbone_template(model.config.backbone).shapes.keys()
    assert model.head.keys() == head_template(model.config).shapes.keys()
    assert model.notes["cosine_threshold"] == 0.31
    assert model.domain_warning.startswith("emoji-tiny segments scenes of emoji only")


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_models_are_small_and_say_what_they_are_for(name):
    model = load_bundle(PACKAGED[name].path)
    assert PACKAGED[name].path.stat().st_size <= 20_000_000
    assert model.notes["domain"] == {"photo": "photographs", "emoji-tiny": "scenes of emoji"}[name]
    assert {"trained_on", "cosine_threshold", "presence"} <= model.notes.keys()


def test_models_of_photographs_or_of_an_unknown_domain_give_no_warning():
    for notes in ({}, {"domain": "photographs"}, {"domain": "photographs and scenes of emoji"}):
        assert dataclasses.replace(bundle(), notes=notes).domain_warning == ""


def test_a_broken_tokenizer_names_the_file(tmp_path):
    broken = dataclasses.replace(tower(), tokenizer=b"{}")
    write_weights(
        tmp_path / "w.safetensors",
        Weights(**parts()["backbone"], **parts()["head"], **parts()["text"], tower=broken),
    )
    with pytest.raises(BundleError, match=r"w\.safetensors: The tokenizer\.json is broken"):
        load_bundle(tmp_path / "w.safetensors").text_feature("cat")


def test_values_beyond_float16_are_refused(tmp_path):
    model = bundle()
    model.head["neck/0/kernel"] = model.head["neck/0/kernel"] + 1e6
    with pytest.raises(BundleError, match=r"head/neck/0/kernel.*float16=False"):
        save_bundle(tmp_path / "m.safetensors", model)


def test_the_empty_prompt_is_required(tmp_path):
    with pytest.raises(BundleError, match="empty prompt"):
        save_bundle(tmp_path / "m.safetensors", dataclasses.replace(bundle(), text={}))


def rewrite(path, change):
    """Rewrite the file after `change(tensors, metadata)`."""
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, metadata)
    save_file(tensors, path, metadata)


def missing_tensor(tensors, metadata):
    del tensors["head/prompt_proj/bias"]


def another_depth(tensors, metadata):
    config = json.loads(metadata["config"])
    config["backbone"]["depth"] = 3
    metadata["config"] = json.dumps(config)


def no_heads(tensors, metadata):
    metadata["config"] = metadata["config"].replace('"num_heads": 2', '"num_heads": 0')


def text_for_a_number(tensors, metadata):
    metadata["config"] = metadata["config"].replace('"depth": 2', '"depth": "two"')


def unknown_field(tensors, metadata):
    config = json.loads(metadata["config"])
    config["backbone"]["colour"] = "red"
    metadata["config"] = json.dumps(config)


def unknown_tensor(tensors, metadata):
    tensors["tail/bias"] = np.zeros(3)


def no_configuration(tensors, metadata):
    del metadata["config"]


def more_prompts_than_rows(tensors, metadata):
    metadata["prompts"] = json.dumps(["", "a", "b"])


def no_json(tensors, metadata):
    metadata["notes"] = "{"


def null_notes(tensors, metadata):
    metadata["notes"] = "null"


def another_format(tensors, metadata):
    metadata["format"] = "something else"


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (missing_tensor, "prompt_proj/bias"),
        (another_depth, "blocks/2"),
        (no_heads, "num_heads 0 must be"),
        (text_for_a_number, "depth 'two' must be an integer"),
        (unknown_field, "colour"),
        (unknown_tensor, "unknown tail/bias"),
        (no_configuration, "config"),
        (more_prompts_than_rows, "shorter"),
        (no_json, "does not fit this version"),
        (null_notes, "notes"),
        (another_format, "format"),
    ],
)
def test_an_inconsistent_file_is_named(tmp_path, change, message):
    path = tmp_path / "m.safetensors"
    save_bundle(path, bundle())
    rewrite(path, change)
    with pytest.raises(BundleError, match=message) as error:
        load_bundle(path)
    assert "m.safetensors" in str(error.value)


def test_a_type_that_numpy_lacks_is_reported(tmp_path):
    path = tmp_path / "m.safetensors"
    save_bundle(path, dataclasses.replace(bundle(), tower=tower()))
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"U8",', b'"F8_E4M3",').replace(content[:8], _longer(content, 5), 1))
    with pytest.raises(BundleError, match=r"m\.safetensors: tokenizer is stored as F8_E4M3"):
        load_bundle(path)


def _longer(content: bytes, by: int) -> bytes:
    """Return the header's length after it grew by `by` bytes."""
    return (int.from_bytes(content[:8], "little") + by).to_bytes(8, "little")


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(BundleError, match="no such"):
        load_bundle(tmp_path / "m.safetensors")
    path = tmp_path / "cut.safetensors"
    save_bundle(path, bundle())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BundleError, match=r"cut\.safetensors is not a readable .safetensors file"):
        load_bundle(path)


def test_official_weights_are_refused_with_the_convert_command(tmp_path):
    """Try to load a downloaded file without converting it."""
    (tmp_path / "segic.pth").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(BundleError, match=r"not a model of this project.*segic convert .*segic\.pth"):
        load_bundle(tmp_path / "segic.pth")
