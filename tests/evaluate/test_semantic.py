"""Test the evaluation of semantic segmentation: chunks, references, results, resuming."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from layouts_semantic import write_ade20k, write_ade847, write_coco_semantic, write_pc459
from tiny import CONFIG, bundle

from segic_jax.data.sources import ade20k, ade847, coco_semantic, pc459
from segic_jax.errors import BundleError, ConfigError, DataError
from segic_jax.evaluate import semantic
from segic_jax.evaluate.runner import run_evaluation
from segic_jax.evaluate.semantic import SemanticEvaluation, class_logits, unique_names
from segic_jax.evaluate.semantic_bank import ReferenceBank
from segic_jax.inference import engine
from segic_jax.inference.engine import Engine, padded_concepts
from segic_jax.models.encoding import Prototypes
from segic_jax.models.segic import decode, upsample


def concepts(count: int, slots: int) -> Prototypes:
    random = np.random.default_rng(count)
    visual = np.zeros((1, slots, 1, CONFIG.backbone.width), np.float32)
    text = np.zeros((1, slots, CONFIG.text_width), np.float32)
    visual[0, :count, 0] = random.normal(size=(count, CONFIG.backbone.width))
    text[0, :count] = random.normal(size=(count, CONFIG.text_width))
    valid = np.arange(slots)[None, :, None] < count
    return Prototypes(pooled=visual[:, :, 0], visual=visual, visual_valid=valid, text=text)


def test_logits_do_not_depend_on_chunks():
    model, prototypes = bundle(), concepts(21, 32)
    image = np.random.default_rng(0).integers(0, 255, (CONFIG.canvas, 50, 3), dtype=np.uint8)
    chunked = np.array(list(class_logits(Engine(model), image, prototypes)))
    padded = np.full((1, CONFIG.canvas, CONFIG.canvas, 3), 128, np.uint8)
    padded[0, :, :50] = image
    features = engine.extract(CONFIG, model.backbone, padded, np.array([[CONFIG.canvas, 50]]))
    at_once = jax.jit(decode, static_argnums=0)(CONFIG, model.head, features, concepts(21, 21))[0]
    at_once = np.asarray(upsample(at_once, CONFIG.canvas))[0, :, :, :50]
    np.testing.assert_allclose(chunked, at_once, atol=1e-4 * np.abs(at_once).max())
    decided = np.abs(at_once) > 1e-3
    np.testing.assert_array_equal((chunked > 0)[decided], (at_once > 0)[decided])


def test_847_concepts_are_decoded_by_one_program():
    assert padded_concepts(847) == 848
    before = engine._decode._cache_size()
    image = np.random.default_rng(1).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    logits = list(class_logits(Engine(bundle()), image, concepts(847, 848)))
    assert len(logits) == 847
    assert {row.shape for row in logits} == {(48, 64)}
    assert np.isfinite(logits).all()
    assert engine._decode._cache_size() == before + 1


def test_an_image_is_never_its_own_reference():
    visual, text = np.zeros((3, 2, 1), np.float32), np.zeros((3, 1), np.float32)
    bank = ReferenceBank("val", {0: ("a", "b"), 1: ("a",), 2: ()}, visual, text)
    assert [bank.slot(0, target, "val") for target in ("a", "b", "c")] == [1, 0, 0]
    assert [bank.slot(1, target, "val") for target in ("a", "b")] == [None, 0]
    assert bank.slot(2, "a", "val") is None
    assert replace(bank, split="train").slot(1, "a", "val") == 0


def make(root, open_source=ade20k.open_source, benchmark=ade20k.BENCHMARK, model=None, **options):
    return SemanticEvaluation(model or bundle(), benchmark, open_source(root), **options)


def run(root, out, *, limit=None, **options):
    return run_evaluation(make(root, **options), out, limit=limit)


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
    iou = {number: 100 * pixels[0] / pixels[1] for number, pixels in sums.items()}
    assert result["scores"]["miou"] == pytest.approx(np.mean(list(iou.values())), abs=0.006)
    official = [100 * pixels[0] / pixels[2] for pixels in sums.values()]
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
    assert table[1] == f"0,wall,{result['class_iou']['wall']},{','.join(map(str, sums[0]))}"
    lines = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2]
    first = [n[0] / n[1] for n in lines[0]["classes"].values() if n[3]]
    assert lines[0]["iou"] == pytest.approx(np.mean(first))
    page = (out / "report.html").read_text()
    for text in (
        f"{result['scores']['miou']:.2f} <small>",
        ">wall<",
        result["manifest"]["sha256"],
        "oracle",
    ):
        assert text in page


def test_neither_batch_size_nor_interruption_changes_a_row(tmp_path, monkeypatch):
    root, options = write_ade20k(tmp_path / "data"), {"bank": "val", "merge": "argmax"}
    result = run(root, tmp_path / "one", batch_size=1, **options)
    in_batches = run(root, tmp_path / "three", batch_size=3, **options)
    assert rows(tmp_path / "three") == rows(tmp_path / "one")
    image = root / "ade20k/images/validation/ADE_val_3.jpg"
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    score_image = semantic.score_image
    with pytest.raises(DataError, match=r"ADE_val_3\.jpg is cut off"):
        run(root, tmp_path / "killed", batch_size=1, **options)
    image.write_bytes(content)
    calls = []

    def stop_at_second(image, *rest):
        calls.append(image)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score_image(image, *rest)

    monkeypatch.setattr(semantic, "score_image", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path / "killed", batch_size=1, **options)
    assert len(rows(tmp_path / "killed")) == 1
    calls[:] = [None, None]
    resumed = run(root, tmp_path / "killed", batch_size=1, **options)
    assert len(calls) == 4  # two images remained
    for repeated in (in_batches, resumed):
        assert repeated | {"seconds": 0} == result | {"seconds": 0}
    with pytest.raises(DataError, match="holds another run"):
        run(root, tmp_path / "one", bank="val", merge="independent")


def test_all_classes_with_a_reference_are_decoded(tmp_path):
    root, out = write_ade20k(tmp_path / "data"), tmp_path / "out"
    result = run(root, out, classes="all", limit=2)
    assert result["images"] == 2
    # Training images show four classes of 150, and only these have a reference.
    assert len(result["bank"]["classes_without_reference"]) == 146
    assert {int(c) for line in rows(out).values() for c in json.loads(line)["classes"]} <= {0, 2, 4, 149}


def test_a_limit_is_spread_over_the_list(tmp_path):
    root = write_ade20k(tmp_path / "data")
    result = run(root, tmp_path / "out", limit=1, bank="val")
    run(root, tmp_path / "out", limit=2, bank="val")
    assert sorted(rows(tmp_path / "out")) == [0, 1]  # of three: 0, then 0 and 3 // 2
    assert (result["images"], result["images_in_list"]) == (1, 3)
    for options in ({"limit": 0}, {"limit": -1}, {"batch_size": 0}):
        with pytest.raises(ConfigError, match="must be at least 1"):
            run(root, tmp_path / "out", bank="val", **options)


def test_scores_of_the_other_benchmarks_follow_from_the_rows(tmp_path):
    """Compute the scores from the rows by a loop; COCO ignores no pixel."""
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
        result = run(root, tmp_path / name, open_source=open_source, benchmark=module.BENCHMARK, bank=bank)
        assert result["benchmark"] == name
        sums: dict[str, list[int]] = {}
        for line in rows(tmp_path / name).values():
            for number, pixels in json.loads(line)["classes"].items():
                sums[number] = [a + b for a, b in zip(sums.get(number, [0] * 4), pixels, strict=True)]
        ious = [100 * pixels[0] / pixels[1] for pixels in sums.values() if pixels[3]]
        assert result["scores"]["miou"] == pytest.approx(np.mean(ious), abs=0.006)
        assert result["classes_seen"] == len(ious) > 0
    assert result["scores"]["miou"] == result["scores"]["miou_official"]


def test_the_truth_scores_100(tmp_path, monkeypatch):
    def true_logits(image, classes, logits, merge):
        masks = dict(zip(image.classes, image.masks, strict=True))
        return score_image(
            image, classes, [np.where(masks[c], 1, -1).astype(np.float32) for c in classes], merge
        )

    score_image = semantic.score_image
    monkeypatch.setattr(semantic, "score_image", true_logits)
    result = run(write_ade20k(tmp_path / "data"), tmp_path / "out")
    assert result["scores"] == {"miou": 100, "interval_95": [100, 100], "miou_official": 100}


def test_class_names_are_given_or_refused(tmp_path):
    root = write_ade20k(tmp_path / "data")
    with pytest.raises(BundleError, match="photo of a wall"):
        run(root, tmp_path / "out", class_names=True)
    text = {f"a photo of a {name}": np.ones(4, np.float32) for name in ade20k.open_source(root).classes}
    model = replace(bundle(), text=bundle().text | text)
    assert run(root, tmp_path / "named", model=model)["class_names_given"]
    assert not run(root, tmp_path / "unnamed", model=model, class_names=False)["class_names_given"]


def test_classes_of_the_same_name_get_their_numbers():
    assert unique_names(["bag", "wall", "bag"]) == ["bag (0)", "wall", "bag (2)"]
