"""Test lists of episodes: the published hashes, changed and damaged files, and the command."""

import dataclasses
import gzip
import hashlib
import json

import pytest

from segic_jax.commands.command_line import main
from segic_jax.data.episodes import Episode, Manifest, View, packaged_manifest, read_manifest
from segic_jax.data.sources import coco20i, fss1000
from segic_jax.errors import DataError

PUBLISHED = {  # first 16 digits, by (benchmark, fold, shots)
    ("coco20i", 0, 1): "aeb00fa3d011d93e",
    ("coco20i", 1, 1): "62d707ab49cb3372",
    ("coco20i", 2, 1): "18954956331d10f4",
    ("coco20i", 3, 1): "f80651936bdcc412",
    ("coco20i", 0, 5): "7b6a3bf924842c95",
    ("coco20i", 1, 5): "91fc2f64f0569d52",
    ("coco20i", 2, 5): "a5ea7cecf977b4c7",
    ("coco20i", 3, 5): "d6f3b40ac3ca9c39",
    ("fss1000", 0, 1): "7d7b481f604bd857",
    ("fss1000", 0, 5): "bc6393a7126fcc3f",
}
PARTS = Manifest(
    "parts",
    "matcher",
    2,
    2,
    ("head", "tail"),
    (Episode("head", "a.jpg", ("b.jpg", "b.jpg"), (3, 0, 1)), Episode("tail", "é.jpg", ("a.jpg", "b.jpg"))),
)


@pytest.mark.parametrize(("name", "digest"), PUBLISHED.items())
def test_shipped_lists_have_the_published_hashes_and_equal_the_draw(name, digest):
    benchmark, fold, shots = name
    manifest = packaged_manifest(benchmark, "matcher", fold, shots)
    assert manifest.sha256[:16] == digest
    expected = (
        coco20i.draw("matcher", fold, shots) if benchmark == "coco20i" else fss1000.draw("matcher", shots)
    )
    assert manifest == expected
    assert packaged_manifest(benchmark, "insid3", fold, shots).sha256 == manifest.sha256
    assert packaged_manifest(benchmark, "segic", fold, shots) is None


OFFICIAL_RUNS = {  # of the official loaders, run with torch 2.13; by (benchmark, fold)
    "segic-1gpu": {
        ("fss1000", 0): "891156ffd3f184c8",
        ("coco20i", 0): "bf03fb74a5232f1b",
        ("coco20i", 1): "f75d2290d2f4deb9",
        ("coco20i", 2): "83130aaf40470e57",
        ("coco20i", 3): "1544f4667abaa076",
    },
    "segic-8gpu": {
        ("fss1000", 0): "9ce5c24de9b50898",
        ("coco20i", 0): "3731cbf715a804b8",
        ("coco20i", 1): "a7f3295fed5929da",
        ("coco20i", 2): "6a63097d607d0b7e",
        ("coco20i", 3): "a61747aed83b0d25",
    },
}


@pytest.mark.parametrize("protocol", OFFICIAL_RUNS)
def test_episodes_are_those_of_official_runs(protocol):
    for (benchmark, fold), digest in OFFICIAL_RUNS[protocol].items():
        drawn = fss1000.draw(protocol, 1) if benchmark == "fss1000" else coco20i.draw(protocol, fold, 1)
        assert drawn.sha256[:16] == digest


def test_the_hashes_of_single_references_are_those_of_other_tools():
    """Hash [class, target, reference] without a list of references."""
    for protocol, digest in (("segic-1gpu", "4593e0ca97d4627f"), ("segic-8gpu", "9202fc3a611fedb4")):
        rows = [[e.class_id, e.target, e.references[0]] for e in fss1000.draw(protocol, 1).episodes]
        assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] == digest


def test_the_first_episode_is_that_of_the_published_logs():
    """Compare COCO-20i's first episode with the published logs."""
    first = packaged_manifest("coco20i", "matcher", 0, 1).episodes[0]
    names = [f"val2014/COCO_val2014_{number:012}.jpg" for number in (507081, 486122)]
    assert first == Episode(72, names[0], (names[1],))
    assert coco20i.draw("segic", 0, 1) != coco20i.draw("matcher", 0, 1)


def test_a_written_list_is_read_back_and_deterministic(tmp_path):
    for name in ("a", "b"):
        PARTS.write(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_manifest(tmp_path / "a") == PARTS
    (tmp_path / "plain").write_bytes(gzip.decompress((tmp_path / "a").read_bytes()))
    assert read_manifest(tmp_path / "plain") == PARTS
    episode = read_manifest(tmp_path / "a").episodes[0]
    assert episode.target_view == View("a.jpg", "head", 3)
    assert episode.reference_views == (View("b.jpg", "head", 0), View("b.jpg", "head", 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda lines: [*lines[:1], lines[1].replace("a.jpg", "c.jpg"), *lines[2:]],
            "does not have the episodes",
        ),
        (lambda lines: lines[:-1], "does not have the episodes"),
        (lambda lines: [lines[0].replace('"version": 1', '"version": 2'), *lines[1:]], "of version 2"),
        (lambda lines: ["[]", *lines], "not a list of episodes"),
        (lambda lines: [lines[0], "{"], "not a list of episodes"),
        (lambda lines: [], "not a list of episodes"),
    ],
)
def test_a_changed_file_is_refused(tmp_path, change, message):
    PARTS.write(tmp_path / "a")
    lines = gzip.decompress((tmp_path / "a").read_bytes()).decode().splitlines()
    (tmp_path / "b").write_text("\n".join(change(lines)))
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path / "b")


def write_list(path, *rows, **header):
    first = {"format": "segic_jax episodes", "version": 1, "benchmark": "parts", "protocol": "matcher"}
    lines = [first | {"fold": 2, "shots": 2, "classes": ["head", "tail"]} | header, *rows]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_a_list_written_by_hand_needs_no_hash(tmp_path):
    rows = (["head", "a.jpg", ["b.jpg", "b.jpg"], [3, 0, 1]], ["tail", "é.jpg", ["a.jpg", "b.jpg"]])
    assert read_manifest(write_list(tmp_path / "mine", *rows)) == PARTS
    with pytest.raises(DataError, match="remove sha256 from that line"):
        read_manifest(write_list(tmp_path / "mine", *rows, sha256="0"))


@pytest.mark.parametrize(
    "row",
    [
        ["head", "a.jpg", "b.jpg"],
        ["head", 3, ["b.jpg"]],
        ["head", "", ["b.jpg"]],
        ["head", "a.jpg", [3]],
        [["head"], "a.jpg", ["b.jpg"]],
        [1.5, "a.jpg", ["b.jpg"]],
        ["head", "a.jpg", ["b.jpg"], [1]],
        ["head", "a.jpg", ["b.jpg"], ["1", "2"]],
        ["head", "a.jpg", ["b.jpg"], [1, 2], 3],
        ["head", "a.jpg"],
        "head",
    ],
)
def test_a_row_that_is_not_an_episode_is_refused(tmp_path, row):
    with pytest.raises(DataError, match="mine is not a list of episodes"):
        read_manifest(write_list(tmp_path / "mine", row, shots=1))


@pytest.mark.parametrize("header", [{"shots": 2}, {"shots": 1, "fold": "0"}, {"shots": 1, "classes": 3}])
def test_a_wrong_header_is_refused(tmp_path, header):
    row = ["head", "a.jpg", ["b.jpg"]]
    assert read_manifest(write_list(tmp_path / "mine", row, shots=1)).episodes
    with pytest.raises(DataError, match="mine is not a list of episodes"):
        read_manifest(write_list(tmp_path / "mine", row, **header))


def test_a_damaged_file_is_refused(tmp_path):
    PARTS.write(tmp_path / "a")
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-20])
    for name, message in (("a", "not a list of episodes"), ("gone", "cannot be read")):
        with pytest.raises(DataError, match=message):
            read_manifest(tmp_path / name)


def segic(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["episodes", *map(str, arguments)])
    return stopped.value.code


def test_the_command_makes_hashes_shows_and_compares_lists(tmp_path, capsys):
    assert segic("make", "emoji", "--out", tmp_path) == 0
    path = tmp_path / "emoji_original_fold0_1shot.jsonl.gz"
    emoji = read_manifest(path)
    assert segic("hash", path) == 0
    assert emoji.sha256 in capsys.readouterr().out.splitlines()[-1]
    assert segic("show", path, "--number", "2") == 0
    assert "640 episodes of 64 classes" in capsys.readouterr().out
    first = dataclasses.replace(emoji.episodes[0], references=("5",))
    dataclasses.replace(emoji, episodes=(first, *emoji.episodes[1:])).write(tmp_path / "other")
    assert segic("diff", path, path) == 0
    assert segic("diff", path, tmp_path / "other") == 1
    assert "1 of 640 episodes differ" in capsys.readouterr().out
    assert segic("make", "nothing", "--out", tmp_path) == 2
    assert segic("make", "coco20i", "--out", tmp_path) == 2
    assert "COCO2014/val2014" in capsys.readouterr().err
    assert json.loads(gzip.decompress(path.read_bytes()).splitlines()[0])["benchmark"] == "emoji"
