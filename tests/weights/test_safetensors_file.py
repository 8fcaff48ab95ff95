"""Read files of the .safetensors writer with the safetensors library."""

import os
import signal
import subprocess
import sys
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from segic_jax.errors import WriteError
from segic_jax.weights.safetensors_file import write_safetensors

RNG = np.random.default_rng(0)
BASE = RNG.normal(size=(6, 8)).astype(np.float32)
TENSORS = {
    "plain": BASE,
    "transposed": BASE.T,
    "every second": BASE[::2, ::-2],
    "broadcast": np.broadcast_to(BASE[0], (3, 8)),
    "big endian": BASE.astype(">f4"),
    "scalar": np.float32(3).reshape(()),
    "empty": np.zeros((0, 5), np.float32),
    "bfloat16": BASE.astype(ml_dtypes.bfloat16)[:, 1:4],
    "héad/0": np.float64(BASE),
    "odd": np.arange(7, dtype=np.uint8),
    "yes or no": BASE > 0,
    **{
        np.dtype(kind).name: np.arange(3, dtype=kind)
        for kind in ("i1", "i2", "i4", "i8", "u2", "u4", "u8", "f2")
    },
}


def test_every_type_and_stride_is_read_back(tmp_path):
    path = tmp_path / "t.safetensors"
    write_safetensors(path, TENSORS, {"b": "2", "a": "é"})
    loaded = load_file(path)
    assert loaded.keys() == TENSORS.keys()
    for name, expected in TENSORS.items():
        assert loaded[name].dtype == expected.dtype.newbyteorder("="), name
        assert loaded[name].shape == expected.shape, name
        np.testing.assert_array_equal(loaded[name], expected, err_msg=name)
    with safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"a": "é", "b": "2"}
    assert os.listdir(tmp_path) == ["t.safetensors"]


def test_the_same_input_gives_the_same_bytes(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    write_safetensors(first, TENSORS, {"a": "1", "b": "2"})
    write_safetensors(second, dict(reversed(TENSORS.items())), {"b": "2", "a": "1"})
    assert first.read_bytes() == second.read_bytes()
    assert int.from_bytes(first.read_bytes()[:8], "little") % 8 == 0  # the data are aligned


def test_float16_applies_to_floating_point_tensors_only(tmp_path):
    write_safetensors(tmp_path / "t", TENSORS, {}, float16=True)
    loaded = load_file(tmp_path / "t")
    assert loaded["plain"].dtype == loaded["bfloat16"].dtype == loaded["héad/0"].dtype == np.float16
    np.testing.assert_array_equal(loaded["transposed"], BASE.T.astype(np.float16))
    assert loaded["odd"].dtype == np.uint8
    assert loaded["int64"].dtype == np.int64


def test_the_writer_copies_one_tensor_at_a_time(tmp_path):
    tensors = {str(i): np.ones((512, 512), np.float32).T for i in range(8)}  # 1 MiB each
    tracemalloc.start()
    try:
        write_safetensors(tmp_path / "t", tensors, {})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * 2**20


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("folder/t", BASE, r"folder/t cannot be written to: No such file"),
        ("t", BASE.astype(complex), "x has the type complex128"),
        ("t", np.array(["a"]), "x has the type <U1"),
    ],
)
def test_what_cannot_be_written_is_named(tmp_path, name, value, message):
    with pytest.raises(WriteError, match=message):
        write_safetensors(tmp_path / name, {"x": value}, {})
    assert os.listdir(tmp_path) == []


def test_only_files_are_replaced(tmp_path):
    """Refuse devices, which a rename would replace; allow names of the maximal length."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder", "", "a\0b"):
        with pytest.raises(WriteError, match="not a valid file name"):
            write_safetensors(tmp_path / name, {"x": BASE}, {})
    assert (tmp_path / "pipe").is_fifo()
    write_safetensors(tmp_path / ("x" * 255), {"x": BASE}, {})
    assert sorted(map(len, os.listdir(tmp_path))) == [4, 6, 255]


def test_a_full_disk_keeps_the_old_file(tmp_path):
    """Simulate a full disk by a limit on the size of files."""
    script = (
        "import numpy as np, resource, signal, sys\n"
        "from segic_jax.weights.safetensors_file import WriteError, write_safetensors\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
        "try:\n"
        "    write_safetensors(sys.argv[1], {'x': np.zeros(1 << 20)}, {})\n"
        "except WriteError as error:\n"
        "    print(error)\n"
    )
    path = tmp_path / "t.safetensors"
    path.write_text("old")
    run = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert run.stdout == f"{path} cannot be written to: File too large.\n"
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == [path.name]


class Killer:
    """Kill the process when the tensor is read, as a power failure would."""

    shape, dtype = (4,), np.dtype(np.uint8)  # the narrowest type is written last

    def __array__(self, dtype=None, copy=None):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "t.safetensors"
    write_safetensors(path, {"x": BASE}, {})
    if not (child := os.fork()):
        try:
            write_safetensors(path, {"x": BASE + 1, "y": Killer()}, {})
        finally:
            os._exit(0)  # not reached
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    np.testing.assert_array_equal(load_file(path)["x"], BASE)
    assert sorted(os.listdir(tmp_path)) == [path.name, f"{path.name}.part"]
    write_safetensors(path, {"x": BASE + 2}, {})
    np.testing.assert_array_equal(load_file(path)["x"], BASE + 2)
    assert os.listdir(tmp_path) == [path.name]


def test_an_interruption_leaves_nothing_behind(tmp_path):
    class Interrupted(Killer):
        def __array__(self, dtype=None, copy=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_safetensors(tmp_path / "t", {"x": BASE, "y": Interrupted()}, {})
    assert os.listdir(tmp_path) == []
