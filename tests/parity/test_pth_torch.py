"""Compare the checkpoint reader with torch.load on files that the installed torch writes."""

import collections
import warnings

import numpy as np
import pytest
from requirements import require_torch

from segic_jax.errors import PthError
from segic_jax.weights.pth import read_pth

torch = require_torch()

DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
FORMATS = pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])


def save(path, content, new, **settings):
    torch.save(content, path, _use_new_zipfile_serialization=new, **settings)
    return path


def assert_same(path, select=lambda content: content):
    """Check that names, order, shapes, types and bits are those that torch reads."""
    expected = select(torch.load(path, map_location="cpu", weights_only=True))
    actual = read_pth(path)
    assert list(actual) == list(expected)
    for name, tensor in expected.items():
        assert actual[name].shape == tuple(tensor.shape), name
        assert str(actual[name].dtype) == str(tensor.dtype).removeprefix("torch."), name
        assert not actual[name].flags.writeable, name
        bits = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        assert actual[name].tobytes() == bits.tobytes(), name


@FORMATS
@pytest.mark.parametrize("dtype", DTYPES)
def test_types_and_views(tmp_path, dtype, new):
    x = torch.arange(-30, 30).reshape(3, 4, 5).to(getattr(torch, dtype))
    tensors = {
        "whole": x,
        "transposed": x.transpose(0, 2),
        "stepped": x[::2, 1:, ::3],
        "one": x[2, 3, 4],
        "expanded": x[:1, :, :1].expand(6, 4, 7),
        "broadcast scalar": x[0, 0, 0].expand(2, 3),
        "nothing": x[:0],
        "empty": torch.empty(0, 3, dtype=x.dtype),
        "scalar": torch.ones((), dtype=x.dtype),
        "odd strides": x.as_strided((1, 5), (10**15, 2), 7),
        "windows": x.flatten().unfold(0, 3, 2),
    }
    assert_same(save(tmp_path / "a.pth", tensors, new))


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(tmp_path, new, protocol):
    content = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).state_dict()
    path = save(tmp_path / "a.pth", content, new, pickle_protocol=protocol)
    actual = read_pth(path)
    assert list(actual) == list(content)
    for name, tensor in content.items():
        np.testing.assert_array_equal(actual[name], tensor.numpy())


@FORMATS
def test_nan_keeps_its_bits(tmp_path, new):
    bits = torch.tensor([0x7FC00001, 0x7F800001, -1, -(2**31), 0x7F800000], dtype=torch.int32)
    assert_same(save(tmp_path / "a.pth", {"x": bits.view(torch.float32)}, new))


@FORMATS
def test_modules_and_parameters(tmp_path, new):
    model = torch.nn.TransformerEncoderLayer(8, 2, 16)
    assert_same(save(tmp_path / "a.pth", model.state_dict(), new))
    assert_same(save(tmp_path / "b.pth", dict(model.named_parameters()), new))
    marked = torch.nn.Parameter(torch.ones(3))
    marked.note = "text"  # written with its state
    assert_same(save(tmp_path / "c.pth", {"x": marked}, new))


@FORMATS
def test_tied_weights(tmp_path, new):
    model = torch.nn.ModuleList([torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)])
    model[1].weight = model[0].weight
    path = save(tmp_path / "a.pth", model.state_dict(), new)
    assert_same(path)
    tensors = read_pth(path)
    assert np.shares_memory(tensors["0.weight"], tensors["1.weight"])


@FORMATS
@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "teacher"])
def test_training_checkpoint(tmp_path, new, key):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 3, 5])
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    schedule.step()
    other_entries = {
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "epoch": 3,
        "best": (0.5, None, True, "text", b"bytes", {1, 2}, [1 << 70, -1]),
        "types": [torch.device("cpu"), torch.bfloat16, torch.bool, torch.Size([2, 3])],
        "rng": torch.get_rng_state(),
        "counts": collections.Counter("aab"),
        "bytes": bytearray(b"abc"),
    }
    path = save(tmp_path / "a.pth", {**other_entries, key: model.state_dict()}, new)
    # The name of a role is kept, since a file may hold several.
    prefix = "teacher." if key == "teacher" else ""
    assert_same(path, lambda content: {prefix + name: tensor for name, tensor in content[key].items()})


@FORMATS
def test_refused_kinds_of_tensors_and_modules(tmp_path, new):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about sparse and quantized tensors
        cases = {
            "module": torch.nn.Linear(2, 2),
            "sparse": {"x": torch.eye(3).to_sparse()},
            "complex": {"x": torch.ones(2, dtype=torch.complex64)},
            "negated": {"x": torch.ones(2, dtype=torch.complex64).conj().imag},
            "float8": {"x": torch.ones(2).to(torch.float8_e4m3fn)},
            "numpy": {"x": torch.ones(2), "epoch": np.float64(3)},
        }
        for name, content in cases.items():
            path = save(tmp_path / f"{name}.pth", content, new)
            with pytest.raises(PthError, match=rf"{name}\.pth .*; .*\.$"):
                read_pth(path)


def test_torchscript_is_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer torch deprecates it
        program = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
        program.save(str(tmp_path / "a.pth"))
    with pytest.raises(PthError, match=r"a\.pth is a TorchScript program"):
        read_pth(tmp_path / "a.pth")


def test_a_file_without_checksums_is_read(tmp_path):
    computed = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = save(tmp_path / "a.pth", torch.nn.Linear(3, 2).state_dict(), True)
    finally:
        torch.serialization.set_crc32_options(computed)
    assert_same(path)
