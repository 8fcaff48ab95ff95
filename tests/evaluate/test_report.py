"""Test that the page and the table show the result."""

from html.parser import HTMLParser

import cv2
import numpy as np
from tiny import DISKS, DiskSource, bundle, random_image

from segic_jax.evaluate import report
from segic_jax.evaluate.episode_report import LABELS
from segic_jax.evaluate.episodes import EpisodeEvaluation
from segic_jax.evaluate.protocols import find_protocol
from segic_jax.evaluate.report import GalleryItem

SCORES = {
    "miou": 61.5,
    "miou_fold_classes": 61.5,
    "miou_seen_classes": 62.25,
    "interval_95": [58.0, 65.1],
    "fb_iou": 70.0,
    "episode_iou": 60.0,
    "boundary_iou": None,
}
RESULT = {
    "benchmark": "disks",
    "title": "disks & <rings>",
    "protocol": {
        "name": "matcher",
        "truth": "nearest to 518 x 518",
        "prediction": "logits",
        "mean_over": "fold",
        "source": "somewhere",
    },
    "shots": 1,
    "folds": [0, 1],
    "class_names_given": False,
    "in_domain": True,
    "manifest": {"sha256": "a" * 64, "folds": {"0": "b" * 64, "1": "c" * 64}},
    "episodes": 30,
    "episodes_in_list": 60,
    "classes": 900,
    "scores": SCORES,
    "instances": None,
    "fold_scores": {"0": SCORES, "1": SCORES},
    "class_iou": {f"class <{i}>": i / 9 for i in range(900)},
    "baselines": {"copy": {**SCORES, "miou": 3.25}},
    "cosine_threshold": None,
    "notes": ["a <note>"],
    "model": {"name": "m.safetensors", "file": "m.safetensors", "sha256": "d" * 64, "notes": {}},
    "environment": {"versions": {"jax": "1"}, "device": "cpu", "devices": 1, "hosts": 1},
    "seconds": 3.5,
}
ROWS = [{"index": i, "iou": None if i == 7 else i / 30} for i in range(30)]


def gallery():
    items = []
    for kind in ("best", "median", "worst"):
        image, mask = random_image(3, 60, 80)
        maps = (mask.astype(np.float32), mask, ~mask)
        items.append(
            GalleryItem(
                kind, "<t>", image, mask, image, *maps, 0.5, wrong_prediction=~mask, wrong_class="<x>"
            )
        )
    return items


class Page(HTMLParser):
    """Check that tags are closed in order and that nothing external is loaded."""

    VOID = ("meta", "img", "link", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.images = [], [], 0
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert tag not in ("script", "link", "iframe")
        for name, value in attributes:
            if name in ("src", "href"):
                assert value.startswith("data:")
        self.images += tag == "img"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_is_complete_and_self_contained():
    bars, ious = RESULT["class_iou"].items(), [row["iou"] for row in ROWS]
    content = report.render("episodes.html.j2", RESULT, bars, ious, gallery=gallery(), labels=LABELS)
    text = content.decode()
    page = Page(text)
    visible = " ".join(" ".join(page.texts).split())
    for text_part in (
        "61.50",
        "58.00 to 65.10",
        "disks & <rings>",
        "a <note>",
        "30 of 60 episodes",
        "class <899>",
    ):
        assert text_part in visible
    assert "In domain" in visible
    assert "reference's mask copied" in visible
    assert page.images == 18
    assert len(text) < 2_000_000


def test_the_table_fits_on_a_screen():
    source = DiskSource()
    evaluation = EpisodeEvaluation(
        bundle(), DISKS, source, [source.manifest("", 0, 1)], protocol=find_protocol("matcher")
    )
    lines = evaluation.table(RESULT).splitlines()
    assert len(lines) <= 24
    assert any("61.5   95 % interval 58.0 - 65.1" in line for line in lines)
    assert any("best" in line and "100.0" not in line and "99.9" in line for line in lines)


def test_best_median_and_worst_episodes_are_selected():
    assert report.select_episodes(ROWS) == {
        "best": [29, 28, 27, 26],
        "median": [17, 16, 15, 14],
        "worst": [3, 2, 1, 0],
    }
    assert report.select_episodes(ROWS[:2]) == {"best": [1, 0], "median": [], "worst": []}
    assert report.select_episodes([]) == {"best": [], "median": [], "worst": []}


def test_the_sheet_has_a_row_for_each_episode():
    sheet = report.sheet(gallery())
    assert sheet.shape == (3 * (report.TILE + report.CAPTION), 6 * (report.TILE + 4), 3)
    png = cv2.imdecode(np.frombuffer(report.encode_png(sheet), np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(png, sheet)


def test_a_sheet_of_many_episodes_is_a_grid():
    height, width, _ = report.sheet(gallery() * 4).shape
    assert 1 < width / height < 4


def test_csv_fields_with_a_comma_are_quoted():
    assert report.to_csv(["class", "iou"], [("a, b", 1.5)]) == b'class,iou\n"a, b",1.5\n'
