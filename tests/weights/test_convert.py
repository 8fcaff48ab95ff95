"""Test the conversion of official files to this project's format and back, and messages about bad files."""

import hashlib
import json
import os
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import official
import pytest
from golden_batch import channels_last, golden_references
from safetensors.numpy import load_file, save_file

from segic_jax.config import ViTConfig
from segic_jax.errors import BundleError, ConfigError, ConvertError, FormatError, ParamsError, SourceError
from segic_jax.models import encoding, segic
from segic_jax.models.backbones import backbone_template
from segic_jax.models.clip_text import text_template
from segic_jax.models.head import head_template
from segic_jax.weights.bundle import load_bundle, read_weights
from segic_jax.weights.convert import convert, export_head, read_frozen
from segic_jax.weights.safetensors_file import write_safetensors
from segic_jax.weights.sources import read_safetensors
from segic_jax.weights.text import TextTower, encode_prompts
from segic_jax.weights.torch_names import from_torch, torch_shapes


@pytest.fixture
def files(tmp_path):
    """Write the files of a complete model as they are published."""
    clip = tmp_path / "clip"
    clip.mkdir()
    save_file(official.clip_model(official.text()), clip / "model.safetensors")
    text = {"num_attention_heads": 1, "eos_token_id": 2, "hidden_size": 64, "num_hidden_layers": 2}
    (clip / "config.json").write_text(json.dumps({"text_config": text}))
    (clip / "tokenizer.json").write_bytes(official.tokenizer_json())
    save_file(official.backbone(), tmp_path / "dinov2.safetensors")
    save_file(official.head(), tmp_path / "segic.safetensors")
    return tmp_path


encode = jax.jit(encoding.encode, static_argnums=0)
segment = jax.jit(segic.segment, static_argnums=0)


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name in expected:
        assert actual[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)


def test_a_complete_model_is_converted(files):
    sources = [files / "segic.safetensors", files / "clip", files / "dinov2.safetensors"]
    report = convert(sources, files / "out.safetensors", canvas=112)
    assert report.missing == ()
    assert report.numbers.keys() == {"backbone", "text", "head"}
    assert {"mask_token", "logit_scale"} < set(report.left_out)
    digest = hashlib.sha256((files / "segic.safetensors").read_bytes()).hexdigest()
    assert report.hashes["segic.safetensors"] == digest
    assert "a complete model" in str(report)

    bundle = load_bundle(files / "out.safetensors")
    assert bundle.config == official.MODEL
    assert_same(
        dict(bundle.backbone), from_torch(official.backbone(), backbone_template(official.VIT).shapes)
    )
    assert_same(dict(bundle.head), from_torch(official.head(), head_template(official.MODEL).shapes))
    assert bundle.notes["sha256"] == report.hashes
    assert "Meta" in bundle.notes["origins"]["backbone"]
    tower = TextTower(
        official.TEXT,
        from_torch(official.text(), text_template(official.TEXT).shapes),
        official.tokenizer_json(),
    )
    for prompt, feature in encode_prompts(tower, ["", "please segment the instances"]).items():
        np.testing.assert_array_equal(bundle.text[prompt], feature)
    assert bundle.text_feature("cat").shape == (64,)


def test_converting_in_steps_equals_converting_at_once(files):
    """Convert part by part through files of this project; the report names the next step."""
    out = files / "out.safetensors"
    convert([files / "segic.safetensors", files / "clip", files / "dinov2.safetensors"], out, canvas=112)
    report = convert([files / "segic.safetensors"], files / "head.safetensors", canvas=112)
    assert report.missing == ("backbone", "text")
    assert "segic convert" in str(report)
    assert "DINOV2 CLIP --out" in str(report)
    with pytest.raises(BundleError, match="segic convert"):
        load_bundle(files / "head.safetensors")
    convert([files / "clip", files / "head.safetensors"], files / "two.safetensors")
    convert([files / "two.safetensors", files / "dinov2.safetensors"], files / "three.safetensors")
    at_once, stepwise = read_weights(out), read_weights(files / "three.safetensors")
    assert stepwise.model == at_once.model
    assert_same(stepwise.head, at_once.head)
    assert_same(stepwise.backbone, at_once.backbone)
    assert_same(stepwise.text, at_once.text)
    assert stepwise.tower.config == at_once.tower.config == official.TEXT


def test_a_converted_model_predicts_the_goldens(golden, golden_weights, tmp_path):
    """Convert SegIC's complete state dict, and its trained part joined with another file's backbone."""
    weights = golden_weights("segic")
    trained = {name: w for name, w in weights.items() if not name.startswith(("encoder", "pixel"))}
    backbone = {
        name.removeprefix("encoder.dinov2."): w
        for name, w in weights.items()
        if name.startswith("encoder.dinov2.")
    }
    text = {
        name.removeprefix("encoder.text_model."): w
        for name, w in weights.items()
        if name.startswith("encoder.text")
    }
    (tmp_path / "tokenizer.json").write_bytes(official.tokenizer_json(512))
    named = {
        "complete": weights,
        "trained": trained,
        "text": text,
        "backbone": official.hugging_face(backbone),
    }
    for name, tensors in named.items():
        save_file(dict(tensors), tmp_path / f"{name}.safetensors")
    g = golden("segic_infer_instances")
    for names in (["complete"], ["trained", "backbone", "text"]):
        out = tmp_path / "out.safetensors"
        convert([tmp_path / f"{name}.safetensors" for name in names], out, canvas=112, num_heads=4)
        bundle = load_bundle(out)
        assert (
            bundle.config.backbone.pos_offset == 0.1
        )  # that of the head's training, for any source of the backbone
        context = encode(bundle.config, bundle.backbone, golden_references(g))
        logits, iou = segment(
            bundle.config,
            bundle.backbone,
            bundle.head,
            channels_last(g["in.image"]),
            g["in.ori_size"],
            context,
        )
        height, width = g["in.ori_size"][0]
        np.testing.assert_allclose(logits[0, :, :height, :width], g["out.masks"][:, 0], atol=1e-4)
        np.testing.assert_allclose(iou[0], g["out.iou_pred"][:, 0], atol=1e-4)


def test_export_round_trips(files, tmp_path):
    convert([files / "segic.safetensors"], files / "ours.safetensors", canvas=112)
    assert export_head(files / "ours.safetensors", files / "exported.safetensors") == len(official.head())
    assert_same(load_file(files / "exported.safetensors"), official.head())
    convert([files / "exported.safetensors"], files / "again.safetensors", canvas=112)
    assert_same(read_weights(files / "again.safetensors").head, read_weights(files / "ours.safetensors").head)


def test_export_of_the_published_shape_has_148_tensors(golden_weights, tmp_path):
    head = {
        name: w for name, w in golden_weights("segic").items() if not name.startswith(("encoder", "pixel"))
    }
    save_file(head, tmp_path / "official.safetensors")
    convert([tmp_path / "official.safetensors"], tmp_path / "ours.safetensors", canvas=112)
    assert export_head(tmp_path / "ours.safetensors", tmp_path / "out.safetensors") == 148
    assert_same(load_file(tmp_path / "out.safetensors"), head)


def test_export_needs_a_head(files):
    convert([files / "dinov2.safetensors"], files / "ours.safetensors")
    with pytest.raises(ConvertError, match=r"ours\.safetensors has no head"):
        export_head(files / "ours.safetensors", files / "out.safetensors")


def test_a_backbone_keeps_its_position_resampling(files):
    """Check that a backbone keeps its resampling unless it joins SegIC's head, trained with Meta's."""
    save_file(official.hugging_face(official.backbone()), files / "hf.safetensors")
    for sources, offset in (
        (["dinov2.safetensors"], 0.1),
        (["hf.safetensors"], 0.0),
        (["hf.safetensors", "segic.safetensors"], 0.1),
    ):
        convert([files / name for name in sources], files / "out.safetensors")
        assert read_weights(files / "out.safetensors").backbone_config.pos_offset == offset
    convert([files / "hf.safetensors"], files / "alone.safetensors")
    convert([files / "alone.safetensors", files / "segic.safetensors"], files / "out.safetensors")
    assert read_weights(files / "out.safetensors").backbone_config.pos_offset == 0.1


def test_a_sharded_folder_is_converted(files):
    folder = files / "sharded"
    folder.mkdir()
    tensors = official.hugging_face(official.backbone())
    names = sorted(tensors)
    shards = {name: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, name in enumerate(names)}
    for shard in set(shards.values()):
        save_file({name: tensors[name] for name in names if shards[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": 4, "hidden_size": 64}))
    report = convert([folder], files / "out.safetensors")
    weights = read_weights(files / "out.safetensors")
    assert weights.backbone_config.num_heads == 4  # config.json counts more than 64 channels a head
    shapes = backbone_template(weights.backbone_config).shapes
    assert_same(weights.backbone, from_torch(official.backbone(), shapes))
    assert report.hashes.keys() == {f"sharded/{path.name}" for path in folder.iterdir()}
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(SourceError, match="model-00002-of-00002"):
        convert([folder], files / "out.safetensors")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_float16_and_bfloat16_sources_are_kept_exactly(files, dtype):
    tensors = {name: tensor.astype(dtype) for name, tensor in official.backbone().items()}
    save_file(tensors, files / "half.safetensors")
    convert([files / "half.safetensors"], files / "out.safetensors")
    backbone = read_weights(files / "out.safetensors").backbone
    expected = from_torch(tensors, backbone_template(official.VIT).shapes)
    for name, value in backbone.items():
        np.testing.assert_array_equal(value.astype(np.float32), expected[name].astype(np.float32))


def test_float64_is_accepted_only_if_exact_in_float32(files):
    tensors = {name: tensor.astype(np.float64) for name, tensor in official.backbone().items()}
    save_file(tensors, files / "double.safetensors")
    convert([files / "double.safetensors"], files / "out.safetensors")
    assert_same(
        read_weights(files / "out.safetensors").backbone,
        from_torch(official.backbone(), backbone_template(official.VIT).shapes),
    )
    tensors["norm.bias"] = tensors["norm.bias"] + 1e-12
    save_file(tensors, files / "double.safetensors")
    with pytest.raises(ConvertError, match=r"norm\.bias is float64 and not exact"):
        convert([files / "double.safetensors"], files / "out.safetensors")


def test_the_option_float16_stores_float16(files):
    convert([files / "dinov2.safetensors"], files / "out.safetensors", float16=True)
    assert {tensor.dtype for tensor in load_file(files / "out.safetensors").values()} == {
        np.dtype(np.float16)
    }


def test_a_head_of_this_project_keeps_its_canvas(files):
    convert([files / "segic.safetensors"], files / "head.safetensors", canvas=112)
    convert([files / "head.safetensors"], files / "out.safetensors")
    assert read_weights(files / "out.safetensors").model.canvas == 112
    convert([files / "head.safetensors"], files / "out.safetensors", canvas=224)
    assert read_weights(files / "out.safetensors").model.canvas == 224
    convert([files / "segic.safetensors"], files / "out.safetensors")
    assert read_weights(files / "out.safetensors").model.canvas == 896


def test_a_logit_offset_is_kept_and_not_exported(files):
    convert([files / "segic.safetensors"], files / "head.safetensors", canvas=112, logit_offset=0.5)
    convert([files / "head.safetensors"], files / "out.safetensors")
    assert read_weights(files / "out.safetensors").model.head.logit_offset == 0.5
    with pytest.raises(ConvertError, match="--logit-offset 0"):
        export_head(files / "out.safetensors", files / "exported.safetensors")
    convert([files / "out.safetensors"], files / "head.safetensors", logit_offset=0.0)
    assert read_weights(files / "head.safetensors").model.head.logit_offset == 0.0
    with pytest.raises(ConfigError, match="no number"):
        convert([files / "segic.safetensors"], files / "out.safetensors", logit_offset=float("nan"))


def test_training_reads_any_backbone(files):
    expected = from_torch(official.backbone(), backbone_template(official.VIT).shapes)
    assert_same(read_frozen(files / "dinov2.safetensors", official.VIT).backbone, expected)
    save_file(official.hugging_face(official.backbone()), files / "hf.safetensors")
    assert_same(read_frozen(files / "hf.safetensors", official.VIT).backbone, expected)
    with pytest.raises(ConvertError, match="holds no backbone"):
        read_frozen(files / "segic.safetensors", official.VIT)
    with pytest.raises(ParamsError, match=r"unknown: blocks\.2\."):
        read_frozen(files / "dinov2.safetensors", ViTConfig(width=64, depth=2, num_heads=1, pos_grid=5))


def test_the_tokenizer_is_an_argument_or_a_file_in_the_folder(files):
    (files / "clip" / "tokenizer.json").rename(files / "tokenizer.json")
    source, out = files / "clip" / "model.safetensors", files / "out.safetensors"
    with pytest.raises(ConvertError, match=r"clip.*put tokenizer\.json"):
        convert([source], out)
    convert([source, files / "tokenizer.json"], out)
    source.rename(files / "clip.safetensors")
    convert([files / "clip.safetensors"], out, num_heads=1)
    assert read_weights(out).tower.config == official.TEXT


def test_a_complete_checkpoint_without_a_tokenizer_loses_only_its_text_tower(files):
    state = official.segic(official.head(), official.backbone(), official.text())
    save_file(state, files / "whole.safetensors")
    report = convert([files / "whole.safetensors"], files / "out.safetensors", canvas=112)
    assert report.missing == ("text",)
    assert "tokenizer.json" in str(report)
    convert([files / "out.safetensors", files / "clip"], files / "joined.safetensors")
    sources = [files / "whole.safetensors", files / "clip" / "tokenizer.json"]
    assert convert(sources, files / "once.safetensors", canvas=112).missing == ()
    joined, at_once = load_bundle(files / "joined.safetensors"), load_bundle(files / "once.safetensors")
    assert joined.config == at_once.config == official.MODEL
    assert_same(joined.text, at_once.text)


def with_fault(change):
    def write(files):
        tensors = official.backbone()
        change(tensors)
        save_file(tensors, files / "bad.safetensors")
        return [files / "bad.safetensors"]

    return write


def infinite(tensors):
    tensors["blocks.1.norm1.weight"][3] = np.inf


def integers(tensors):
    tensors["norm.weight"] = np.ones(64, np.int64)


def without_patches(tensors):
    del tensors["patch_embed.proj.weight"]


def wide_text(files):
    head = official.head()
    head["prompt_proj.weight"] = np.ones((32, 65), np.float32)
    save_file(head, files / "wide.safetensors")
    return [files / "wide.safetensors", files / "clip"]


def wrong_depth(files):
    (files / "clip" / "config.json").write_text(json.dumps({"text_config": {"num_hidden_layers": 3}}))
    return [files / "clip"]


def damaged_file(files):
    (files / "bad.safetensors").write_bytes(b"x" * 100)
    return [files / "bad.safetensors"]


def empty_folder(files):
    (files / "bad").mkdir()
    return [files / "bad"]


def no_tokenizer(files):
    (files / "bad.json").write_text('{"a": 1}')
    return [files / "bad.json"]


def text_file(files):
    (files / "bad.txt").write_text("hello")
    return [files / "bad.txt"]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (with_fault(infinite), r"bad\.safetensors: blocks\.1\.norm1\.weight holds NaN or infinite"),
        (with_fault(integers), r"norm\.weight holds int64"),
        (with_fault(without_patches), r"bad\.safetensors.*lacks patch_embed\.proj\.weight"),
        (lambda files: [files / "dinov2.safetensors"] * 2, "both hold a backbone"),
        (lambda files: [files / "nothing.pth"], r"nothing\.pth: there is no such"),
        (lambda files: [files / "clip" / "tokenizer.json"], "no weights"),
        (wide_text, r"width 64, but the head of .*wide\.safetensors was trained with width 65"),
        (wrong_depth, r"config\.json says num_hidden_layers 3, the tensors say 2"),
        (damaged_file, r"bad\.safetensors is not a readable"),
        (empty_folder, r"bad holds none of model\.safetensors"),
        (no_tokenizer, r"bad\.json is not a tokenizer\.json"),
        (text_file, r"bad\.txt: weights are"),
    ],
)
def test_wrong_sources_are_reported_and_nothing_is_written(files, sources, message):
    with pytest.raises(ParamsError, match=message) as error:
        convert(sources(files), files / "out.safetensors")
    assert "\n" not in str(error.value)
    assert not (files / "out.safetensors").exists()


def test_the_number_of_heads_must_be_given_if_no_file_has_it(files, tmp_path):
    narrow = ViTConfig(width=48, depth=1, num_heads=4, pos_grid=3)
    save_file(official.backbone(narrow), files / "narrow.safetensors")
    with pytest.raises(FormatError, match=r"narrow\.safetensors.*--num-heads"):
        convert([files / "narrow.safetensors"], files / "out.safetensors")
    convert([files / "narrow.safetensors"], files / "out.safetensors", num_heads=4)
    assert read_weights(files / "out.safetensors").backbone_config == narrow


def test_read_safetensors_maps_every_dtype(tmp_path):
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(3, dtype=np.int64),
        "c": np.ones(5, ml_dtypes.bfloat16),
        "d": np.array(2.0, np.float16),
        "e": np.zeros((0, 4), np.uint8),
    }
    save_file(tensors, tmp_path / "good.safetensors")
    assert_same(read_safetensors(tmp_path / "good.safetensors"), tensors)


_PEAK = """
import sys
from segic_jax.weights.convert import convert
convert([sys.argv[1]], sys.argv[2])
# Not getrusage, whose peak includes that of the parent.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")
def test_a_full_size_vit_l_takes_little_memory(tmp_path):
    """Check that the process, with all its libraries, uses less than 1.5 times the state dict's memory."""
    random = np.random.default_rng(0)
    source, out = tmp_path / "vitl.safetensors", tmp_path / "out.safetensors"
    shapes = torch_shapes(backbone_template(ViTConfig.dinov2("l")).shapes)
    tensors = {  # broadcast views, which the writer expands one at a time
        name: np.broadcast_to(random.random(spec.shape[-1:], np.float32), spec.shape)
        for name, spec in shapes.items()
    }
    write_safetensors(source, tensors, {})
    run = subprocess.run(
        [sys.executable, "-c", _PEAK, source, out],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(run.stdout) * 1024 < 1.5 * sum(tensor.nbytes for tensor in tensors.values())
    assert out.stat().st_size == pytest.approx(source.stat().st_size, rel=1e-4)
    for path in (source, out):  # pytest would keep these 2.4 GB
        path.unlink()


def test_a_checkpoint_with_two_models_is_asked_about(files):
    """Take the teacher or the student of a training, never one by a guess."""
    teacher, student = official.backbone(), {n: t + 1 for n, t in official.backbone().items()}
    both = {f"teacher.backbone.{name}": tensor for name, tensor in teacher.items()}
    both |= {f"student.backbone.{name}": tensor for name, tensor in student.items()}
    both |= {"dino_loss.center": np.zeros((1, 4), np.float32)}
    save_file(both, files / "training.safetensors")
    out = files / "backbone.safetensors"
    with pytest.raises(ConvertError, match="holds several models, student and teacher: choose with --take"):
        convert([files / "training.safetensors"], out)
    assert not out.exists()
    for take, tensors in (("teacher", teacher), ("student", student)):
        report = convert([files / "training.safetensors"], out, take=take)
        assert f"without {take}. in its names" in str(report)
        weight = read_weights(out).backbone["norm/scale"]
        np.testing.assert_array_equal(weight, tensors["norm.weight"])
    with pytest.raises(ConvertError, match="holds one model, one without a role"):
        convert([files / "dinov2.safetensors"], out, take="student")
