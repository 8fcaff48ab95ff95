"""Evaluation of semantic segmentation: scores by hand, chunks, references, resuming."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from layouts_semantic import write_ade20k, write_ade847, write_coco_semantic, write_pc459
from tiny import CONFIG, bundle

from segic_jax.data.preprocess import resize
from segic_jax.data.semantic import SemanticImage
from segic_jax.data.sources import ade20k, ade847, coco_semantic, pc459
from segic_jax.errors import BundleError, ConfigError, DataError
from segic_jax.evaluate import semantic
from segic_jax.evaluate.semantic import class_logits, evaluate_semseg
from segic_jax.evaluate.semantic_bank import Bank
from segic_jax.evaluate.semantic_metrics import PixelCounts, bootstrap_interval, score, unique_names
from segic_jax.inference import engine
from segic_jax.inference.engine import Engine, padded_concepts
from segic_jax.models.segic import Prototypes, decode, upsample

TRUTH = SemanticImage(  # classes 1 and 4; the last column is ignored
    image=np.zeros((2, 4, 3), np.uint8),
    classes=(1, 4),
    masks=np.array([[[1, 1, 0, 0], [1, 0, 0, 0]], [[0, 0, 1, 0], [0, 1, 1, 0]]], bool),
    ignored=np.array([[0, 0, 0, 1], [0, 0, 0, 1]], bool),
)
LOGITS = np.array(
    [
        [[2, 2, 2, 2], [-1, -1, -1, -1]],  # of class 1
        [[3, -1, 1, 1], [-1, 1, 3, -1]],  # of class 4
        [[-1, -1, 5, -1], [-1, -1, -1, 5]],  # of class 7, which is not there
    ],
    np.float32,
)


def test_each_class_by_itself():
    counts = score(TRUTH, (1, 4, 7), LOGITS, "independent")
    assert counts == {
        1: PixelCounts(2, 4, 5, 3),  # 2 right of 3; one pixel of 4, and one more on ignored ground
        4: PixelCounts(3, 4, 5, 3),
        7: PixelCounts(0, 1, 2, 0),
    }


def test_the_largest_logit_decides():
    assert score(TRUTH, (1, 4, 7), LOGITS, "argmax") == {
        # Winners: 4 1 7 1 / none 4 4 7.
        1: PixelCounts(1, 3, 4, 3),
        4: PixelCounts(2, 4, 4, 3),
        7: PixelCounts(0, 1, 2, 0),
    }


def test_background_wins_where_no_logit_is_above_zero():
    counts = score(TRUTH, (1, 4), np.zeros((2, 2, 4), np.float32), "argmax")
    assert counts == {1: PixelCounts(0, 3, 3, 3), 4: PixelCounts(0, 3, 3, 3)}


def test_a_class_that_is_not_decoded_counts_as_missed():
    assert score(TRUTH, (4,), LOGITS[1:2], "independent")[1] == PixelCounts(0, 3, 3, 3)


@pytest.mark.parametrize("merge", ["independent", "argmax"])
def test_scores_equal_loops_over_pixels(merge):
    random = np.random.default_rng(2)
    for _ in range(30):
        height, width = random.integers(1, 12, 2)
        labels = random.integers(-1, 5, (height, width))  # -1 is ignored
        classes = np.unique(labels[labels >= 0])
        shown = SemanticImage(
            np.zeros((height, width, 3), np.uint8),
            tuple(classes.tolist()),
            labels == classes[:, None, None],
            labels < 0,
        )
        decoded = (0, 2, 3, 9)
        rows = random.normal(-0.5, 1, (4, 5, 7)).astype(np.float32)
        rows[1] = -np.abs(rows[1])  # nowhere
        own = resize(rows, (height, width))
        expected: dict[int, list[int]] = {}
        for y, x in np.ndindex(height, width):
            above = [c for c, row in zip(decoded, own, strict=True) if row[y, x] > 0]
            if merge == "argmax" and above:
                above = [max(above, key=lambda c: own[decoded.index(c), y, x])]
            for c in {*above, int(labels[y, x])} - {-1}:
                true, found = labels[y, x] == c, c in above
                add = (true and found, labels[y, x] >= 0, True, true)
                expected[c] = [a + int(b) for a, b in zip(expected.get(c, [0] * 4), add, strict=True)]
        assert {c: [*n] for c, n in score(shown, decoded, rows, merge).items()} == expected


def concepts(count: int, slots: int) -> Prototypes:
    random = np.random.default_rng(count)
    visual = np.zeros((1, slots, 1, CONFIG.vit.width), np.float32)
    text = np.zeros((1, slots, CONFIG.text_width), np.float32)
    visual[0, :count, 0] = random.normal(size=(count, CONFIG.vit.width))
    text[0, :count] = random.normal(size=(count, CONFIG.text_width))
    valid = np.arange(slots)[None, :, None] < count
    return Prototypes(pooled=visual[:, :, 0], visual=visual, visual_valid=valid, text=text)


def test_chunks_change_nothing():
    model, small = bundle(), concepts(21, 32)
    image = np.random.default_rng(0).integers(0, 255, (CONFIG.canvas, 50, 3), dtype=np.uint8)
    parted = np.array(list(class_logits(Engine(model), image, small)))
    padded = np.full((1, CONFIG.canvas, CONFIG.canvas, 3), 128, np.uint8)
    padded[0, :, :50] = image
    features = engine.extract(CONFIG, model.backbone, padded, np.array([[CONFIG.canvas, 50]]))
    whole = jax.jit(decode, static_argnums=0)(CONFIG, model.head, features, concepts(21, 21))[0]
    whole = np.asarray(upsample(whole, CONFIG.canvas))[0, :, :, :50]
    np.testing.assert_allclose(parted, whole, atol=1e-4 * np.abs(whole).max())
    decided = np.abs(whole) > 1e-3
    np.testing.assert_array_equal((parted > 0)[decided], (whole > 0)[decided])


def test_847_concepts_are_decoded_by_one_program():
    assert padded_concepts(847) == 848
    assert [padded_concepts(n) for n in (0, 1, 4, 5, 9, 16, 17, 33)] == [1, 1, 4, 16, 16, 16, 32, 48]
    runner = Engine(bundle())
    before = engine._decode._cache_size()
    image = np.random.default_rng(1).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    rows = list(class_logits(runner, image, concepts(847, 848)))
    assert len(rows) == 847
    assert {row.shape for row in rows} == {(48, 64)}
    assert np.isfinite(rows).all()
    assert engine._decode._cache_size() == before + 1


def test_a_image_is_never_its_own_reference():
    bank = Bank("val", {0: ("a", "b"), 1: ("a",), 2: ()}, np.zeros((3, 2, 1)), np.zeros((3, 1)))
    assert [bank.slot(0, target, "val") for target in ("a", "b", "c")] == [1, 0, 0]
    assert [bank.slot(1, target, "val") for target in ("a", "b")] == [None, 0]
    assert bank.slot(2, "a", "val") is None
    assert replace(bank, split="train").slot(1, "a", "val") == 0


def run(root, out, open_source=ade20k.open_source, benchmark=ade20k.BENCHMARK, model=None, **changes):
    options = {
        "classes": "present",
        "merge": "independent",
        "bank": "train",
        "class_names": None,
        "batch_size": 1,
        "limit": None,
    } | changes
    source = open_source(root)
    return evaluate_semseg(model or bundle(), source, benchmark=benchmark, out=out, **options)


def rows(out) -> dict[int, str]:
    lines = [line for path in out.glob("parts/*.jsonl") for line in path.read_text().splitlines()]
    return {json.loads(line)["index"]: line for line in lines}


def test_result_is_the_sum_of_the_rows(tmp_path):
    root, out = write_ade20k(tmp_path / "data"), tmp_path / "out"
    result = run(root, out)
    assert json.loads((out / "result.json").read_text()) == result
    sums = {}
    for line in rows(out).values():
        for number, counts in json.loads(line)["classes"].items():
            sums[int(number)] = np.add(sums.get(int(number), 0), counts)
    assert sorted(sums) == [0, 2, 4, 149]
    iou = {number: 100 * one[0] / one[1] for number, one in sums.items()}
    assert result["scores"]["miou"] == pytest.approx(np.mean(list(iou.values())), abs=0.006)
    official = [100 * one[0] / one[2] for one in sums.values()]
    assert result["scores"]["miou_official"] == pytest.approx(np.mean(official), abs=0.006)
    assert result["class_iou"] == {
        name: pytest.approx(iou[number], abs=0.006)
        for number, name in ((0, "wall"), (2, "sky"), (4, "tree"), (149, "flag"))
    }
    low, high = result["scores"]["interval_95"]
    assert low <= result["scores"]["miou"] <= high
    assert result["protocol"]["classes"] == "present"
    assert any("oracle" in note for note in result["notes"])
    assert result["class_names_given"] is False  # the tiny model cannot encode them
    assert (result["classes"], result["classes_seen"]) == (150, 4)
    table = (out / "per_class.csv").read_text().splitlines()
    assert len(table) == 151
    assert table[1].startswith("0,wall,")
    lines = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2]
    first = [n[0] / n[1] for n in lines[0]["classes"].values() if n[3]]
    assert lines[0]["iou"] == pytest.approx(np.mean(first))
    page = (out / "report.html").read_text()
    for words in (
        f"{result['scores']['miou']:.2f} <small>",
        ">wall<",
        result["manifest"]["sha256"],
        "oracle",
    ):
        assert words in page


def test_neither_batch_size_nor_interruption_changes_a_row(tmp_path, monkeypatch):
    root = write_ade20k(tmp_path / "data")
    result = run(root, tmp_path / "one", bank="val", merge="argmax")
    other = run(root, tmp_path / "three", bank="val", merge="argmax", batch_size=3)
    assert rows(tmp_path / "three") == rows(tmp_path / "one")
    picture = root / "ade20k/images/validation/ADE_val_3.jpg"
    content = picture.read_bytes()
    picture.write_bytes(content[: len(content) // 2])
    real = semantic.score
    with pytest.raises(DataError, match=r"ADE_val_3\.jpg is cut off"):
        run(root, tmp_path / "killed", bank="val", merge="argmax")
    picture.write_bytes(content)
    calls = []

    def stop_at_second(shown, *rest):
        calls.append(shown)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(shown, *rest)

    monkeypatch.setattr(semantic, "score", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path / "killed", bank="val", merge="argmax")
    assert len(rows(tmp_path / "killed")) == 1
    calls[:] = [None, None]
    again = run(root, tmp_path / "killed", bank="val", merge="argmax")
    assert len(calls) == 4  # two images were left
    for one in (other, again):
        assert one | {"seconds": 0} == result | {"seconds": 0}
    with pytest.raises(DataError, match="holds another run"):
        run(root, tmp_path / "one", bank="val", merge="independent")


def test_all_classes_are_decoded(tmp_path):
    root, out = write_ade20k(tmp_path / "data"), tmp_path / "out"
    result = run(root, out, classes="all", limit=2)
    assert result["pictures"] == 2
    # Training images show four classes of 150, and only these have a reference.
    assert len(result["bank"]["classes_without_reference"]) == 146
    assert {int(c) for line in rows(out).values() for c in json.loads(line)["classes"]} <= {0, 2, 4, 149}


def test_a_limit_is_spread(tmp_path):
    root = write_ade20k(tmp_path / "data")
    result = run(root, tmp_path / "out", limit=1, bank="val")
    run(root, tmp_path / "out", limit=2, bank="val")
    assert sorted(rows(tmp_path / "out")) == [0, 1]  # of three: 0, then 0 and 3 // 2
    assert (result["pictures"], result["pictures_in_list"]) == (1, 3)
    for options in ({"limit": 0}, {"limit": -1}, {"batch_size": 0}):
        with pytest.raises(ConfigError, match="must be at least 1"):
            run(root, tmp_path / "out", bank="val", **options)


def test_the_other_benchmarks(tmp_path):
    root = tmp_path / "data"
    write_ade847(root)
    write_pc459(root)
    write_coco_semantic(root)
    for module, open_source, bank in (
        (ade847, ade847.open_source, "train"),
        (pc459, pc459.open_source, "val"),
        (coco_semantic, coco_semantic.CocoSemanticSource, "train"),
    ):
        name = module.BENCHMARK.name
        result = run(root, tmp_path / name, open_source, module.BENCHMARK, bank=bank)
        assert result["benchmark"] == name
        assert 0 <= result["scores"]["miou"] <= 100
    assert result["scores"]["miou"] == result["scores"]["miou_official"]  # COCO ignores nothing


def test_class_names_are_given_or_refused(tmp_path):
    root = write_ade20k(tmp_path / "data")
    with pytest.raises(BundleError, match="photo of a wall"):
        run(root, tmp_path / "out", class_names=True)
    text = {f"a photo of a {name}": np.ones(4, np.float32) for name in ade20k.open_source(root).classes}
    model = replace(bundle(), text=bundle().text | text)
    assert run(root, tmp_path / "named", model=model)["class_names_given"]
    assert not run(root, tmp_path / "unnamed", model=model, class_names=False)["class_names_given"]


def test_bootstrap_interval():
    counts = np.zeros((40, 2, 4), np.int64)
    counts[:, 0] = (3, 6, 6, 4)
    assert bootstrap_interval(counts) == (50.0, 50.0)  # the other class is never true
    counts[::2, 0, 0] = 5
    low, high = bootstrap_interval(counts)
    assert 50 < low < 66.7 < high < 83.4
    assert bootstrap_interval(counts) == (low, high)


def test_names_that_classes_share_are_told_apart():
    assert unique_names(["bag", "wall", "bag"]) == ["bag (0)", "wall", "bag (2)"]
