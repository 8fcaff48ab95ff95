"""Test that pickles of data sets are read as pickle reads them, and that no code in them is run."""

import collections
import contextlib
import io
import os
import pickle

import numpy as np
import pytest

from segic_jax.data.numpy_pickle import read_npy, read_pickle
from segic_jax.errors import DataError

PLAIN = [
    {"val2017/1.jpg": {"annotations": [{"segmentation": [[1.5, 2.0, 3.25]], "iscrowd": 0}]}, 7: [], -1: None},
    {3: 0, 1: 0, 2: 0},
    [10**30, -5, 2**31, 2**40, True, False, None, 1e-300, float("inf")],
    [b"", b"bytes", "", "text", "é" * 300, b"x" * 300],
    [(), (1,), (1, 2), (1, 2, 3), (1, (2, (3, 4)), 5)],
    [set(), {1, 2}, frozenset({"a"}), frozenset()],
    [float(n) for n in range(2500)],
    list(range(2500)),
]


def assert_same(actual, expected):
    assert type(actual) is type(expected)
    assert actual == expected
    if isinstance(expected, dict):
        assert list(actual) == list(expected)  # the order is part of some protocols


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_are_read_back(tmp_path, protocol):
    shared = ["shared"]
    path = tmp_path / "a.pkl"
    for value in [*PLAIN, [shared, shared, {1: shared}]]:
        path.write_bytes(pickle.dumps(value, protocol))
        assert_same(read_pickle(path), value)
    path.write_bytes(pickle.dumps([shared, shared], protocol))
    first, second = read_pickle(path)
    assert first is second


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_ordered_and_default_dictionaries_become_plain_ones(tmp_path, protocol):
    path = tmp_path / "a.pkl"
    for value in (collections.OrderedDict([("b", 1), ("a", [2])]), collections.defaultdict(list, {3: [4]})):
        path.write_bytes(pickle.dumps(value, protocol))
        assert_same(read_pickle(path), dict(value))


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_arrays_and_scalars_are_read_back(tmp_path, protocol, core):
    path = tmp_path / "a.pkl"
    values = [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.array([[1, 2], [3, 4]], ">i4"),
        np.zeros((0, 4), np.float32),
        np.array(["a", "bcd"]),
        np.array(5, np.uint8),
        np.array([True, False]),
        np.array([{1: np.ones((2, 2), bool)}, [1, 2], None], object),
        np.float64(1.5),
        np.int64(-3),
        np.bool_(True),
        np.str_("text"),
    ]
    for value in values:
        content = pickle.dumps([value, value], protocol)
        if core == "numpy.core" and protocol < 4:  # the name in numpy 1
            content = content.replace(b"cnumpy._core.", b"cnumpy.core.")
        path.write_bytes(content)
        first, second = read_pickle(path)
        assert first is second or np.isscalar(first)
        assert type(first) is type(value)
        assert first.dtype == value.dtype
        assert first.shape == value.shape
        assert repr(first) == repr(value)


class Hostile:
    """Run a command when pickle reads the file."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def hostile_files(sentinel):
    command = f"touch {sentinel}"
    yield pickle.dumps(Hostile(os.system, command))
    yield pickle.dumps({"annotations": [Hostile(os.mkdir, str(sentinel))]})
    yield pickle.dumps(Hostile(eval, f"open({str(sentinel)!r}, 'w')"), 2)
    yield pickle.dumps(Hostile(exec, f"open({str(sentinel)!r}, 'w')"), 4)
    yield pickle.dumps(Hostile(np.memmap, str(sentinel), "u1", "w+", 0, (4,)))
    yield pickle.dumps(Hostile(np.ndarray, (2**50,)))
    yield pickle.dumps(Hostile(getattr, Hostile(__import__, "os"), "system"))
    yield b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncos\nsystem\n\x85R."
    yield b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.tofile\x93."
    yield b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00evil\x86b."
    yield b"\x80\x02(K\x01ios\nsystem\n."  # INST
    yield b"\x80\x02ccollections\nOrderedDict\n)\x81}X\x05\x00\x00\x00itemsK\x01sb."  # NEWOBJ, BUILD
    yield b"\x80\x02ccollections\nOrderedDict\nN}X\x04\x00\x00\x00nameK\x01s\x86b."  # BUILD on a global
    yield b"\x80\x02X\x01\x00\x00\x00aQ."  # persistent id
    yield b"\x80\x02\x82\x01."  # extension registry
    # A dtype that claims a pointer inside plain bytes.
    fields = b"(K\x03X\x01\x00\x00\x00|NX\x01\x00\x00\x00a\x85}X\x01\x00\x00\x00aNsK\x08K\x01K\x00t"
    yield b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00V8K\x00K\x01\x87R" + fields + b"b."


def test_nothing_in_a_hostile_file_is_run(tmp_path):
    sentinel = tmp_path / "sentinel"
    path = tmp_path / "hostile.pkl"
    for content in hostile_files(sentinel):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"hostile\.pkl"):
            read_pickle(path)
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        path.write_bytes(header.getvalue() + content)
        with pytest.raises(DataError, match=r"hostile\.pkl"):
            read_npy(path)
        assert not sentinel.exists()


def test_the_forbidden_name_is_in_the_message(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(Hostile(os.system, "true")))
    with pytest.raises(DataError, match=r"asks for '(posix|nt)\.system'.*nothing of it was run"):
        read_pickle(path)


HUGE = (2**40).to_bytes(8, "little")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80",
        b"\x80\x04",
        b"no pickle at all",
        b"\x80\x04.",
        b"\x80\x03Kar\xff\xff\xff\xff.",  # the memo's last index: pickle allocates 64 GB
        b"\x80\x03K\x01q\xff.",
        b"\x80\x04h\x00.",
        b"\x80\x04\x8e" + HUGE + b".",
        b"\x80\x04\x8d" + HUGE + b".",
        b"\x80\x05\x96" + HUGE + b".",
        b"\x80\x03B\xff\xff\xff\xff.",
        b"\x80\x03}K\x01" + b"\x85" * 1_000_000 + b"K\x01s.",  # a key to hash: pickle overflows the C stack
        b"\x80\x04(K\x01" + b"\x85" * 1_000_000 + b"\x91.",
        b"\x80\x03e.",
        b"\x80\x03(K\x01u.",
        b"\x80\x03}(K\x01u.",
        b"\x80\x03]K\x01s.",
        b"\x80\x03K\x01}s.",
        b"\x80\x03\x87.",
        b"\x80\x03G\x00.",
        b"\x80\x04\x8c\x02\xff\xff.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R.",  # never built
        b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00O8K\x00K\x01\x87R.",
        b"\x80\x02cnumpy\nndarray\n.",
        b"\x80\x02cbuiltins\nbytes\nK\x64\x85R.",
        b"\x80\x02cbuiltins\nlist\n)R.",
    ],
)
def test_garbage_and_bombs_are_reported_in_one_sentence(tmp_path, content):
    path = tmp_path / "bomb.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bomb\.pkl"):
        read_pickle(path)


def test_arrays_must_have_their_declared_size(tmp_path):
    path = tmp_path / "a.pkl"
    content = pickle.dumps(np.arange(4, dtype=np.uint8), 4)
    assert b"K\x04\x85" in content  # the shape
    for shape in (
        b"K\x05\x85",
        b"K\x03\x85",
        b"J\xff\xff\xff\xff\x85",
        b"J\xff\xff\xff\x7f\x85",
        b"N\x85",
        b"K\x04N\x86",
    ):
        path.write_bytes(content.replace(b"K\x04\x85", shape))
        with pytest.raises(DataError, match="get the file again"):
            read_pickle(path)


def test_every_truncation_is_reported(tmp_path):
    value = {"a": [1.5, 2, (3,)], 2: np.arange(3), "b": {4}, "c": np.array([{"d": b"e"}], object)}
    path = tmp_path / "cut.pkl"
    for protocol in (2, 4, 5):
        content = pickle.dumps(value, protocol)
        for end in range(len(content)):
            path.write_bytes(content[:end])
            with pytest.raises(DataError, match=r"cut\.pkl"):
                read_pickle(path)


def test_random_damage_raises_data_errors_only(tmp_path):
    rng = np.random.default_rng(0)
    content = bytearray(pickle.dumps({"a": [1.5, (3,)], 2: np.arange(3), "b": {4: np.float32(2)}}, 4))
    path = tmp_path / "odd.pkl"
    for _ in range(3000):
        changed = content.copy()
        for position in rng.integers(0, len(content), rng.integers(1, 4)):
            changed[position] = rng.integers(256)
        path.write_bytes(changed)
        with contextlib.suppress(DataError):
            read_pickle(path)


def test_missing_files_and_folders_are_reported(tmp_path):
    for read in (read_pickle, read_npy):
        with pytest.raises(DataError, match="no such file"):
            read(tmp_path / "none.pkl")
        with pytest.raises(DataError, match="cannot be read"):
            read(tmp_path)


def test_npy_files_of_objects_and_of_numbers_are_read(tmp_path):
    path = tmp_path / "masks.npz"
    masks = [{7: np.eye(3, dtype=bool)}, {7: np.zeros((3, 3), bool)}, {7: np.ones((2, 3), np.uint8)}]
    np.save(path, masks)  # adds .npy, as PerMIRS/permirs_gen_dataset.py of dvirsamuel/PDM has it
    read_masks = read_npy(tmp_path / "masks.npz.npy")
    assert read_masks.shape == (3,)
    for entry, expected in zip(read_masks, masks, strict=True):
        assert list(entry) == [7]
        np.testing.assert_array_equal(entry[7], expected[7])
    for array in (np.arange(6.0).reshape(2, 3), np.asfortranarray(np.eye(3)), np.array(3), np.zeros((0, 2))):
        np.save(path, array)
        np.testing.assert_array_equal(read_npy(tmp_path / "masks.npz.npy"), array)


def test_damaged_npy_files_are_reported(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([{1: 2}, None], object))
    content = path.read_bytes()
    damaged_files = [content[:end] for end in (0, 5, 8, 40, len(content) - 1)]
    damaged_files += [
        content.replace(b"(2,)", b"(3,)"),
        content.replace(b"NUMPY\x01", b"NUMPY\x09"),
        b"x" * 100,
    ]
    np.save(path, np.arange(4))
    content = path.read_bytes()
    damaged_files += [content[:-1], content + b"x", content.replace(b"(4,), ", b"(2**40,), ")]
    for damaged in damaged_files:
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.npy"):
            read_npy(path)
