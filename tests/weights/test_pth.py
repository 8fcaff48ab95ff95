"""Test checkpoints written without torch: they are read, or refused in one sentence without running code."""

import builtins
import copyreg
import gzip
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
from pth_writer import (
    DTYPES,
    MAGIC,
    Ops,
    array,
    call,
    name,
    ops,
    pickled,
    storage,
    tensor,
    write_legacy,
    write_zip,
)
from safetensors.numpy import save_file

from segic_jax.errors import PthError
from segic_jax.weights.pth import read_pth

NUMBERS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
RNG = np.random.default_rng(0)


def write(path, content, data=NUMBERS, new=True):
    """Write a checkpoint whose storage "0" holds `data`."""
    if new:
        return write_zip(path, content, {"0": data.tobytes()})
    return write_legacy(path, content, {"0": (data.size, data.tobytes())})


def refusal(path) -> str:
    """Return the reader's message, after checking that it is one line that names the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PthError) as error:
            read_pth(path)
    message = str(error.value)
    assert message.startswith(f"{path} ")
    assert message.endswith(".")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 400
    return message


BOTH_FORMATS = pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])


@BOTH_FORMATS
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_is_read(tmp_path, dtype, new):
    expected = RNG.integers(0, 2, (3, 5)).astype(DTYPES[dtype])
    path = write(tmp_path / "a.pth", {"x": array(expected, "0")}, expected, new)
    actual = read_pth(path)["x"]
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)
    assert not actual.flags.writeable


@BOTH_FORMATS
def test_views_are_read(tmp_path, new):
    storage_of_numbers = storage("float32", "0", 24)
    views = {
        "transposed": (tensor(storage_of_numbers, 0, (4, 3, 2), (1, 4, 12)), NUMBERS.T),
        "expanded": (tensor(storage_of_numbers, 5, (2, 3), (0, 0)), np.full((2, 3), 5)),
        "part": (tensor(storage_of_numbers, 12, (2, 2), (4, 3)), NUMBERS[1, :2, ::3]),
        "one": (tensor(storage_of_numbers, 23, (), ()), NUMBERS[1, 2, 3]),
        "last": (tensor(storage_of_numbers, 23, (1, 1), (10**18, 7)), NUMBERS[1:, 2, 3:]),
        "nothing": (tensor(storage_of_numbers, 24, (0, 3), (3, 1)), np.zeros((0, 3))),
    }
    actual = read_pth(write(tmp_path / "a.pth", {key: view for key, (view, _) in views.items()}, new=new))
    assert list(actual) == list(views)
    for key, (_, expected) in views.items():
        np.testing.assert_array_equal(actual[key], expected, err_msg=key)
        assert actual[key].dtype == np.float32
    assert np.shares_memory(actual["transposed"], actual["part"])


def test_stored_weights_are_not_copied(tmp_path):
    numbers = np.zeros(1 << 20, np.float32)
    path = write(tmp_path / "a.pth", {"x": array(numbers, "0")}, numbers)
    base = read_pth(path)["x"]
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    assert type(base).__name__ == "mmap"


def test_compressed_files_are_read(tmp_path):
    content = {"x": array(NUMBERS, "0")}
    packed = write_zip(tmp_path / "a.pth", content, {"0": NUMBERS.tobytes()}, packed=True, folder="any name")
    plain = write(tmp_path / "b.pth", content)
    for path in (packed, plain):
        zipped = tmp_path / "c.pth.gz"
        zipped.write_bytes(gzip.compress(path.read_bytes()))
        for file in (path, zipped):
            np.testing.assert_array_equal(read_pth(file)["x"], NUMBERS)


@BOTH_FORMATS
def test_other_entries_of_a_checkpoint_are_left_out(tmp_path, new):
    parameter = call(name("torch._utils", "_rebuild_parameter"), array(NUMBERS, "0"), True, None)
    metadata = {"_metadata": call(name("collections", "OrderedDict"), [["", {"version": 1}]])}
    state = call(name("collections", "OrderedDict"), [["x", parameter], ["count", 3]])
    other_entries = {
        "epoch": 3,
        "optimizer": {"state": {0: {"step": array(NUMBERS, "0")}}, "lr": 0.5, 1: None},
        "set": call(name("__builtin__", "set"), ["a"]),
        "bytes": call(name("_codecs", "encode"), "a", "latin1"),
        "none": call(name("__builtin__", "bytes")),
        "device": call(name("torch", "device"), "cpu"),
        "size": call(name("torch", "Size"), (2, 3)),
        "type": name("torch", "float32"),
        "milestones": call(name("collections", "Counter"), {3: 1}),
        "seed": (1 << 64) - 1,
    }
    content = {**other_entries, "model": Ops(state + ops(metadata) + b"b")}
    assert list(read_pth(write(tmp_path / "a.pth", content, new=new))) == ["x"]


def test_byte_strings_of_python_2_are_names(tmp_path):
    content = Ops(b"}U\x01x" + array(NUMBERS, "0") + b"s")
    assert list(read_pth(write(tmp_path / "a.pth", content, new=False))) == ["x"]


def test_the_dictionary_of_tensors_is_found(tmp_path):
    x = array(NUMBERS, "0")
    for key, found in {
        "state_dict": "a",
        "model_state_dict": "a",
        "model": "a",
        "teacher": "teacher.a",
    }.items():
        assert list(read_pth(write(tmp_path / "a.pth", {key: {"a": x}, "rng_state": x}))) == [found]
    two_models = write(tmp_path / "b.pth", {"model": {"a": x}, "teacher": {"b": x}})
    assert list(read_pth(two_models)) == ["model.a", "teacher.b"]
    nested = write(tmp_path / "b.pth", {"model": {"state_dict": {"a": x}}, "epoch": 3})
    assert list(read_pth(nested)) == ["a"]
    assert "no named tensors, but 'optimizer', 'epoch'" in refusal(
        write(tmp_path / "c.pth", {"optimizer": {"a": {"b": x}}, "epoch": 3})
    )
    assert "but nothing" in refusal(write(tmp_path / "d.pth", {}))
    assert "no dictionary" in refusal(write(tmp_path / "e.pth", [x]))
    assert "no dictionary" in refusal(write(tmp_path / "f.pth", x))
    assert "no named tensors" in refusal(write(tmp_path / "g.pth", {0: x, "a": storage("float32", "0", 24)}))


# Hostile pickles: each would run `touch FILE`, or import a module, under a plain unpickler.


class Reduced:
    """Pickle as the call of a function."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def programs(touch: str) -> dict[str, bytes | Ops]:
    """Return hostile programs by name: a complete pickle, or the instructions of a value."""
    run = f"__import__('os').system({touch!r})"
    system = name("os", "system")
    dictionary = name("collections", "OrderedDict")
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    stack_global = Ops(b"\x8c\x02os\x8c\x06system\x93")
    dumped = {
        f"system, protocol {n}": pickle.dumps({"x": Reduced(os.system, touch)}, protocol=n) for n in range(6)
    }
    return {
        **dumped,
        "eval": pickle.dumps(Reduced(eval, run), protocol=2),
        "exec": pickle.dumps(Reduced(exec, run), protocol=4),
        "import": pickle.dumps(Reduced(builtins.__import__, "antigravity"), protocol=2),
        "popen": pickle.dumps(Reduced(subprocess.Popen, touch, 0, None, None, None, None), protocol=2),
        "getattr": call(call(name("builtins", "getattr"), name("os", "path"), "os"), "system"),
        "dotted name": call(name("collections", "abc.sys.modules"), "os"),
        "dotted global": pickle.dumps(io.BytesIO.__init__, protocol=4),
        "attribute of a known name": call(name("collections", "OrderedDict.fromkeys.__self__"), touch),
        "function of torch's module": call(name("torch._utils", "os.system"), touch),
        "spaced name": call(name("collections ", " OrderedDict"), touch),
        "escaped name": call(name("\\x6fs", "system"), touch),
        "stack global": call(stack_global, touch),
        "stack global of no text": Ops(ops(["os"]) + ops("system") + b"\x93"),
        "a text as a function": call(ops("os.system"), touch),
        "dtype as a function": call(name("torch", "float32"), touch),
        "storage type as a function": call(name("torch", "FloatStorage"), touch),
        "numpy.load": call(name("numpy", "load"), touch, None, True),
        "torch.load": call(name("torch", "load"), touch),
        "torch.hub.load": call(name("torch.hub", "load"), "a/b", "c"),
        "nested pickle": pickle.dumps(Reduced(pickle.loads, pickle.dumps(Reduced(os.system, touch))), 2),
        "namespace": Ops(name("argparse", "Namespace") + b")\x81" + ops({"__class__": system}) + b"b"),
        "build on a global": Ops(dictionary + ops({"fromkeys": system}) + b"b"),
        "build on a tensor": Ops(array(NUMBERS, "0") + ops({"__class__": system}) + b"b"),
        "build with slots": Ops(rebuild + ops((None, {"__code__": system})) + b"b"),
        "setstate": Ops(call(dictionary) + ops({"__setstate__": system}) + b"b" + ops(touch) + b"b"),
        "instance": Ops(f"(S'{touch}'\nios\nsystem\n".encode()),
        "object": Ops(b"(" + system + ops(touch) + b"o"),
        "new object": Ops(system + ops((touch,)) + b"\x81"),
        "new object with keywords": Ops(system + ops((touch,)) + ops({}) + b"\x92"),
        "extension": Ops(b"\x82\xf0" + ops((touch,)) + b"R"),
        "extension, two bytes": Ops(b"\x83\xf0\x00" + ops((touch,)) + b"R"),
        "extension, four bytes": Ops(b"\x84\xf0\x00\x00\x00" + ops((touch,)) + b"R"),
        "persistent text": Ops(f"P{touch}\n".encode()),
        "persistent number": Ops(ops(7) + b"Q"),
        "persistent module": Ops(ops(("module", name("collections", "Counter"), "a.py", run)) + b"Q"),
        "storage of a text": Ops(ops(("storage", "FloatStorage", "0", "cpu", 24)) + b"Q"),
        "storage of a function": Ops(ops(("storage", system, "0", "cpu", 24)) + b"Q"),
        "buffers": Ops(b"\x97"),
        "a view of a view": tensor(storage("float32", "0", 24, ("1", 0, 4)), 0, (4,), (1,)),
        "conjugate": call(rebuild, storage("float32", "0", 24), 0, (2,), (1,), False, None, {"neg": True}),
        "ordered dict of numbers": call(dictionary, 10**12),
        "ordered dict of words": call(dictionary, ["ab", "cde"]),
        "no arguments": call(rebuild),
        "parameter of a text": call(name("torch._utils", "_rebuild_parameter"), touch, False, None),
        "unhashable key": Ops(b"}" + ops([1]) + ops(1) + b"s"),
        "empty stack": Ops(b"R"),
        "no mark": Ops(b"t"),
        "short stack": pickled(Ops(b"N\x87")),
        "odd dictionary": Ops(b"}(Nu"),
        "unknown memo": Ops(b"hX"),
        "append to a dictionary": Ops(b"}Na"),
        "item of a list": Ops(b"]NNs"),
        "bad text": Ops(b"X\x02\x00\x00\x00\xff\xff"),
        "long text": Ops(b"X\xff\xff\xff\xff"),
        "negative text": Ops(b"T\xff\xff\xff\xff"),
        "long number": Ops(b"\x8b\xff\xff\xff\x7f"),
    }


@pytest.mark.parametrize("case", programs("touch file"))
def test_hostile_programs_are_refused_and_not_run(tmp_path, monkeypatch, case):
    ran = tmp_path / "ran"
    monkeypatch.setattr(copyreg, "_inverted_registry", {0xF0: ("os", "system")})
    monkeypatch.setattr(copyreg, "_extension_cache", {0xF0: os.system})
    program = programs(f"touch {ran}")[case]
    weights = array(NUMBERS, "0")
    before = set(sys.modules)
    files = []
    if isinstance(program, Ops):  # between valid weights
        for new in (True, False):
            content = {"model": {"x": weights, "y": program}, "z": weights}
            files.append(write(tmp_path / f"{new}.pth", content, new=new))
        program = pickled(program)
    files.append(write(tmp_path / "zip.pth", program))
    files += [  # at every position of a pickle in the older format
        write_legacy(
            tmp_path / f"{n}.pth", {"x": weights}, {"0": (24, NUMBERS.tobytes())}, start=[*start, program]
        )
        for n, start in enumerate(
            [[], [pickled(MAGIC)], [pickled(MAGIC), pickled(1)], [pickled(MAGIC), pickled(1), pickled(2)]]
        )
    ]
    bare = tmp_path / "bare.pth"
    bare.write_bytes(program)
    for path in [*files, bare]:
        refusal(path)
    assert not ran.exists()
    assert not {"antigravity", "torch"} & (set(sys.modules) - before)


def test_a_hostile_program_runs_under_plain_pickle(tmp_path):
    ran = tmp_path / "ran"
    pickle.loads(programs(f"touch {ran}")["system, protocol 2"])
    assert ran.exists()


def test_the_message_names_the_requested_global(tmp_path):
    path = write(tmp_path / "a.pth", {"x": call(name("os", "system"), "true")})
    assert "asks for 'os.system', which plain tensors and containers do not need" in refusal(path)
    assert "instruction b'\\x82'" in refusal(write(tmp_path / "b.pth", Ops(b"\x82\xf0")))


def test_a_sound_file_that_is_refused_is_not_called_damaged(tmp_path):
    key = refusal(write(tmp_path / "a.pth", {"x": {(1, 2): 3}}))
    assert "has a dictionary key or an item of a set that is neither text nor a number; save model" in key
    many = refusal(write(tmp_path / "b.pth", {"x": Ops(b"](" + b"N" * 3_000_000 + b"e")}))
    assert "describes far more than plain data need; save model.state_dict() alone" in many


def test_the_state_of_a_dictionary_is_ignored(tmp_path):
    attack = {"__class__": name("collections", "Counter"), "__dict__": {}, "items": name("torch", "int8")}
    state = Ops(call(name("collections", "OrderedDict"), [["x", array(NUMBERS, "0")]]) + ops(attack) + b"b")
    tensors = read_pth(write(tmp_path / "a.pth", state))
    assert type(tensors) is dict
    assert list(tensors) == ["x"]
    np.testing.assert_array_equal(tensors["x"], NUMBERS)


def bombs() -> dict[str, Ops]:
    """Return small programs that would need unbounded time or memory under a plain unpickler."""
    doubled = b")" + b"q\x00h\x00\x86" * 200  # a tuple of 2^200 empty ones
    long_list = b"](" + b"N" * 1000 + b"eq\x00"
    pairs = b"](" + b"](NNe" * 1000 + b"eq\x00"
    return {
        "nested tuples as a key": Ops(b"}" + doubled + b"Ns"),
        "nested tuples as a name": Ops(doubled + doubled + b"\x93"),
        "nested tuples as an id": Ops(doubled + b"Q"),
        "nested tuples in a set": Ops(b"\x8f(" + doubled + b"\x90"),
        "one list many times": Ops(pairs + (name("collections", "OrderedDict") + b"h\x00\x85R") * 5000),
        "colliding keys": Ops(b"}" + ops(((1 << 61) - 1) << 100) + b"Ns"),
        "depth": Ops(b"(" * 500_000 + b"t" * 500_000),
        "steps": Ops(b"N" * 3_000_000),
        "huge sizes": tensor(storage("float32", "0", 24), 0, (1 << 200,) * 30, (0,) * 30),
        "many axes": tensor(storage("float32", "0", 24), 0, (1,) * 100, (0,) * 100),
        "long list of sizes": Ops(long_list + call(name("torch", "Size"), Ops(b"h\x00"))),
    }


@pytest.mark.parametrize("case", bombs())
def test_bombs_are_refused(tmp_path, case):
    refusal(write(tmp_path / "a.pth", {"x": bombs()[case]}))


@BOTH_FORMATS
@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (25, (), ()),
        (24, (1,), (1,)),
        (0, (25,), (1,)),
        (0, (2, 13), (13, 1)),
        (0, (2,), (24,)),
        (1, (2, 3, 4), (12, 4, 1)),
        (-1, (2,), (1,)),
        (0, (-1,), (1,)),
        (5, (3,), (-1,)),
        (0, (2,), (1 << 62,)),
        (1 << 62, (2,), (1,)),
        (0, (1 << 40, 1 << 40), (0, 0)),
        (0, (10**9,), (0,)),
        (0, (2, 2), (1,)),
        (0, (2.0,), (1,)),
        (0, (True,), (1,)),
        (0, [2], [1]),
        (0, 2, 1),
        (None, (2,), (1,)),
        ("0", (2,), (1,)),
        (0, (0, 1 << 62, 1 << 62), (0, 0, 0)),
    ],
)
def test_views_outside_their_storage_are_refused(tmp_path, offset, size, stride, new):
    view = tensor(storage("float32", "0", 24), offset, size, stride)
    refusal(write(tmp_path / "a.pth", {"x": view}, new=new))


def test_too_many_views_of_a_storage_are_refused(tmp_path):
    numbers = np.zeros(1 << 18, np.float32)  # 1 MB
    content = {str(n): array(numbers, "0") for n in range(60)}
    assert len(read_pth(write(tmp_path / "a.pth", content, numbers))) == 60
    content |= {str(n): array(numbers, "0") for n in range(200)}
    assert "far more than its size explains" in refusal(write(tmp_path / "b.pth", content, numbers))


@BOTH_FORMATS
@pytest.mark.parametrize("count", [23, 25, 0, 1 << 40, -1, "24", None, 24.0])
def test_storages_of_another_size_are_refused(tmp_path, count, new):
    refusal(write(tmp_path / "a.pth", {"x": tensor(storage("float32", "0", count), 0, (2,), (1,))}, new=new))


def test_missing_and_repeated_storages_are_refused(tmp_path):
    for new in (True, False):
        refusal(write(tmp_path / "a.pth", {"x": array(NUMBERS, "1")}, new=new))
        repeated = {"x": array(NUMBERS, "0"), "y": array(NUMBERS.view(np.int32), "0")}
        refusal(write(tmp_path / "b.pth", repeated, new=new))
        refusal(write(tmp_path / "c.pth", {"x": array(NUMBERS, "../data.pkl")}, new=new))
    keys = write_legacy(tmp_path / "d.pth", {"x": array(NUMBERS, "0")}, {"9": (24, NUMBERS.tobytes())})
    refusal(keys)


def test_zip_bombs_are_refused(tmp_path):
    size = 1 << 28
    zeros = np.zeros(size // 4, np.float32)
    x = array(zeros, "0")
    path = write_zip(tmp_path / "a.pth", {"x": x}, {"0": zeros.tobytes()}, packed=True)
    assert "far more than its size explains" in refusal(path)
    long = write_zip(tmp_path / "b.pth", b"N" * size, {}, packed=True)
    assert "wrong size" in refusal(long)
    zipped = tmp_path / "c.pth.gz"
    zipped.write_bytes(gzip.compress(b"PK\x03\x04" + zeros.tobytes(), 1))
    assert "far more than its size explains" in refusal(zipped)


def damaged_zip(path, change):
    """Write a valid file, then let `change` edit the entry of data/0 in the central directory."""
    write_zip(path, {"x": array(NUMBERS, "0")}, {"0": NUMBERS.tobytes()})
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(b"archive/data/0"))
    change(data, entry)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("field", "form", "value"),
    [
        (8, "<H", 1),  # encrypted
        (10, "<H", 8),  # deflated, although the data are stored
        (10, "<H", 12),  # bzip2
        (10, "<H", 77),
        (20, "<I", 92),
        (20, "<I", 1 << 30),
        (24, "<I", 92),
        (24, "<I", 1 << 30),
        (42, "<I", 0),  # the offset of data.pkl
        (42, "<I", 1 << 20),
        (42, "<I", 40),
        (46, "<I", 0),  # within the name
    ],
)
def test_a_wrong_zip_directory_is_refused(tmp_path, field, form, value):
    refusal(
        damaged_zip(
            tmp_path / "a.pth", lambda data, entry: struct.pack_into(form, data, entry + field, value)
        )
    )


def test_other_zip_files_are_refused(tmp_path):
    x, data = {"x": array(NUMBERS, "0")}, {"0": NUMBERS.tobytes()}
    for extra in (("constants.pkl", b""), ("code/a.py", b"")):
        assert "TorchScript" in refusal(write_zip(tmp_path / "a.pth", x, data, extra=[extra]))
    assert "big-endian" in refusal(write_zip(tmp_path / "b.pth", x, data, extra=[("byteorder", b"big")]))
    assert read_pth(write_zip(tmp_path / "c.pth", x, data, extra=[("byteorder", b"little")]))
    with pytest.warns(UserWarning, match="Duplicate"):
        write_zip(tmp_path / "d.pth", x, data, extra=[("data/0", bytes(96))])
    assert "two entries of one name" in refusal(tmp_path / "d.pth")
    with zipfile.ZipFile(write_zip(tmp_path / "e.pth", x, data), "a") as archive:
        archive.writestr("other/data.pkl", pickled({}))
    assert "without a checkpoint's data.pkl" in refusal(tmp_path / "e.pth")
    np.savez(tmp_path / "f.npz", x=NUMBERS)
    assert "without a checkpoint's data.pkl" in refusal(tmp_path / "f.npz")


def test_other_files_are_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "none.pth")
    assert "is a folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "fifo.pth")
    assert "not a regular file" in refusal(tmp_path / "fifo.pth")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1200000000\n"
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    for content, message in [
        (b"", "is empty"),
        (pointer, "is a Git LFS pointer; fetch the real file"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        (b"some text", "is not a torch checkpoint"),
        (b"PK", "is not a torch checkpoint"),
        (b"\xfd7zXZ\x00", "is compressed; unpack it"),
        (tar.getvalue(), "is in the tar format"),
        (pickle.dumps({"x": [1.0, 2.0]}), "is a pickle that torch.save did not write"),
        (gzip.compress(b"some text"), "is not a torch checkpoint"),
        (gzip.compress(gzip.compress(b"some text")), "is not a torch checkpoint"),
        (gzip.compress(b"some text")[:-4], "get the file again"),
        (b"PK\x05\x06" + bytes(18), "without a checkpoint's data.pkl"),
    ]:
        path = tmp_path / "a.pth"
        path.write_bytes(content)
        assert message in refusal(path)
    save_file({"x": NUMBERS}, tmp_path / "b.pth")
    assert "is a safetensors file; rename it to .safetensors" in refusal(tmp_path / "b.pth")


@pytest.mark.parametrize("kind", ["zip", "legacy", "gzip"])
def test_every_truncation_is_refused(tmp_path, kind):
    numbers = np.arange(64, dtype=np.float32)
    path = write(tmp_path / "a.pth", {"x": array(numbers, "0")}, numbers, kind != "legacy")
    data = gzip.compress(path.read_bytes()) if kind == "gzip" else path.read_bytes()
    for end in range(len(data)):
        path.write_bytes(data[:end])
        refusal(path)
    path.write_bytes(data)
    np.testing.assert_array_equal(read_pth(path)["x"], numbers)


@pytest.mark.parametrize("kind", ["zip", "packed", "legacy", "gzip"])
def test_random_damage_is_refused_or_harmless(tmp_path, kind):
    path = tmp_path / "a.pth"
    content = {"x": array(NUMBERS, "0"), "y": tensor(storage("float32", "0", 24), 3, (4,), (2,))}
    if kind == "packed":
        write_zip(path, content, {"0": NUMBERS.tobytes()}, packed=True)
    else:
        write(path, content, new=kind != "legacy")
    data = gzip.compress(path.read_bytes()) if kind == "gzip" else path.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(300):
        damaged = np.frombuffer(data, np.uint8).copy()
        positions = rng.integers(damaged.size, size=rng.integers(1, 5))
        damaged[positions] = rng.integers(256, size=positions.size)
        path.write_bytes(damaged.tobytes())
        try:
            arrays = read_pth(path)
        except PthError:
            continue
        assert all(array.size < 1 << 24 for array in arrays.values())
