"""Test that files and folders appear under their names only once they are complete."""

import os

import pytest

from segic_jax.errors import DataError, WriteError
from segic_jax.runtime.atomic_write import atomic_folder, atomic_path, atomic_write, part_path


def test_a_file_is_replaced_when_it_is_complete(tmp_path):
    path = tmp_path / "result.json"
    for content, stored in (
        (b"bytes", b"bytes"),
        ("text \u00e9", "text \u00e9".encode()),
        ([b"a", b"b"], b"ab"),
    ):
        atomic_write(path, content)
        assert path.read_bytes() == stored

    def interrupted():
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, interrupted())
    assert path.read_bytes() == b"ab"
    assert os.listdir(tmp_path) == ["result.json"]


def test_an_error_of_the_disk_names_the_file(tmp_path):
    with pytest.raises(DataError, match=r"none/a\.txt cannot be written to: No such file"):
        atomic_write(tmp_path / "none/a.txt", b"")
    with (
        pytest.raises(WriteError, match=r"none/a\.txt"),
        atomic_path(tmp_path / "none/a.txt", WriteError) as part,
    ):
        part.write_bytes(b"")


def test_the_partial_file_has_a_valid_name(tmp_path):
    assert part_path(tmp_path / "a.mp4") == tmp_path / "a.mp4.part"
    assert part_path(tmp_path / "a.mp4", keep_suffix=True) == tmp_path / "a.part.mp4"
    longest = tmp_path / ("n" * 251 + ".png")
    atomic_write(longest, b"image")
    assert longest.read_bytes() == b"image"


def test_long_names_with_the_same_end_have_parts_of_their_own(tmp_path):
    first, second = (tmp_path / (f"{number}_" + "n" * 100 + ".png") for number in (1, 2))
    with atomic_path(first) as part:
        part.write_bytes(b"first")
        atomic_write(second, b"second")
    assert (first.read_bytes(), second.read_bytes()) == (b"first", b"second")
    assert part_path(first, keep_suffix=True).suffix == ".png"
    assert part_path(first, keep_suffix=True) != part_path(second, keep_suffix=True)


def test_a_folder_is_replaced_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "clip"
    for name in ("first", "second"):
        with atomic_folder(path) as part:
            (part / name).write_text("")
            assert part != path
    assert os.listdir(path) == ["second"]
    with pytest.raises(KeyboardInterrupt), atomic_folder(path):
        raise KeyboardInterrupt
    assert os.listdir(path) == ["second"]
    assert os.listdir(path.parent) == ["clip"]


def test_the_first_of_several_processes_makes_a_shared_folder(tmp_path):
    path = tmp_path / "cache"
    with atomic_folder(path, shared=True) as slower:
        (slower / "slower").write_text("")
        with atomic_folder(path, shared=True) as faster:
            (faster / "faster").write_text("")
    assert os.listdir(path) == ["faster"]
    assert os.listdir(tmp_path) == ["cache"]
