"""Test which files of a folder are taken as images, and what is said about the others."""

import warnings

import pytest

from segic_jax.data.image_folder import list_images
from segic_jax.errors import DataError, InputWarning


@pytest.fixture
def folder(tmp_path):
    names = ["b.jpg", "a.HEIC", "c.ppm", "._b.jpg", ".hidden.png", "Thumbs.db", "notes.txt", "sub/d.gif"]
    for name in [*names, "sub/deep/e.avif", "sub/f.psd", ".cache/g.png", "out/h.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(folder, **options) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in list_images(folder, **options)]


def test_every_format_is_taken_and_the_rest_counted_and_named(folder):
    with pytest.warns(InputWarning) as warned:
        assert names(folder) == ["a.HEIC", "b.jpg", "c.ppm"]
    assert [str(warning.message).removeprefix(str(folder)) for warning in warned] == [
        ": 1 other file left out: notes.txt.",
        ": 2 folders left out, which --recursive includes: out/, sub/.",
    ]


def test_folders_below_are_taken_but_for_that_of_the_results(folder):
    with pytest.warns(InputWarning, match=r"2 other files left out: notes\.txt, f\.psd"):
        found = names(folder, recursive=True, exclude=folder / "out")
    assert found == ["a.HEIC", "b.jpg", "c.ppm", "sub/d.gif", "sub/deep/e.avif"]


def test_nothing_is_said_where_nothing_is_left_out(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert names(folder / "sub" / "deep") == ["e.avif"]


def test_files_of_labelling_tools_are_not_reported(tmp_path):
    for name in ("a.jpg", "a.json", "b.jpg", "b.txt", "b.xml", "classes.txt", "data.yaml", "a.mov", "c.txt"):
        (tmp_path / name).touch()
    with pytest.warns(InputWarning, match=r"2 other files left out: a\.mov, c\.txt\."):
        assert names(tmp_path) == ["a.jpg", "b.jpg"]


def test_a_folder_without_images_is_refused(folder):
    for path in folder.glob("*.*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(DataError, match="has no images; it has folders: give --recursive"):
        list_images(folder)
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"has no images \(\.avif, "):
        list_images(folder / "empty")
