"""Test the study that helps to choose a method."""

import json

import cv2
import numpy as np
import pytest
import tiny

from studies import choosing
from studies.cutouts import EmojiMaterial
from studies.small_objects import SIDE, SmallObjects


def test_the_map_is_cut_where_it_scores_best():
    """The second of three thresholds is best for the mean of both classes, not for each."""
    rows = [
        {"class": "a", "map": ([9, 6, 1], [10, 10, 10]), "baselines": {}},
        {"class": "b", "map": ([1, 5, 5], [10, 10, 9]), "baselines": {}},
    ]
    best = choosing._at_best_threshold(rows)
    assert [row["baselines"]["map"] for row in best] == [[6, 10], [5, 10]]


def test_scenes_with_small_objects_are_episodes():
    source = SmallObjects(EmojiMaterial(2), 3)
    manifest = source.manifest("original", 0, 1)
    assert [episode.class_id for episode in manifest.episodes] == [*manifest.classes, manifest.classes[0]]
    for episode in manifest.episodes:
        target, reference = (source.load(view) for view in (episode.target_view, *episode.reference_views))
        assert max(target.image.shape) == SIDE
        assert 0 < target.mask.mean() < 0.1
        assert reference.mask.any()


@pytest.fixture
def photographs(tmp_path):
    """Write four classes of two images, and a background."""
    for number, name in enumerate(("ant", "bee", "cow", "dog")):
        (tmp_path / "objects" / name).mkdir(parents=True)
        for i in (1, 2):
            image, mask = tiny.random_image(10 * number + i, 40 + i, 50)
            cv2.imwrite(str(tmp_path / "objects" / name / f"{i}.jpg"), image)
            cv2.imwrite(str(tmp_path / "objects" / name / f"{i}.png"), mask.astype(np.uint8) * 255)
    (tmp_path / "backgrounds").mkdir()
    cv2.imwrite(str(tmp_path / "backgrounds" / "1.jpg"), np.full((480, 640, 3), 90, np.uint8))
    return tmp_path


def test_the_tables_are_printed_and_scores_are_kept(photographs, monkeypatch, capsys):
    """Run both models as a tiny one; a second run measures nothing."""
    monkeypatch.setattr(choosing, "load_bundle", lambda path: tiny.bundle())
    roots = (photographs / "objects",), photographs / "backgrounds"
    arguments = choosing.Args(*roots, scenes=2, limit=2, out=photographs / "out")
    choosing.main(arguments)
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0] == "| model | method | objects | small objects | emoji |"
    assert [line.split(" | ")[1] for line in lines[2:10]] == [*choosing.METHODS] * 2
    assert lines[11].startswith("photo, objects, beside the trained head (")
    kept = json.loads((photographs / "out" / "photo_objects.json").read_text())["rows"]
    assert len(kept) == 8
    assert kept[0]["baselines"].keys() == {"training_free", "both", "map"}
    monkeypatch.setattr(choosing, "load_bundle", None)
    choosing.main(arguments)
    assert capsys.readouterr().out == printed
