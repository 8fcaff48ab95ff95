"""Test `segic eval` from end to end on a tiny tree of every benchmark, in its official layout."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
from layouts import WRITE, write_some_coco20i

from segic_jax.commands.command_line import parse
from segic_jax.commands.eval import Eval
from segic_jax.config import INSTANCE_PROMPT
from segic_jax.data.benchmarks import BENCHMARKS, open_benchmark
from segic_jax.data.episodes import packaged_manifest, read_manifest
from segic_jax.weights.bundle import save_bundle

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    model = tiny.bundle()
    text = model.text | {INSTANCE_PROMPT: np.ones(4, np.float32)}
    save_bundle(path, dataclasses.replace(model, text=text))
    return str(path)


def command(**options) -> Eval:
    """Return the command for options as on the command line."""
    arguments = ["eval"]
    for name, value in options.items():
        arguments += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return parse(arguments)


def run(weights, out, **options):
    command(weights=weights, out=out, **options).evaluate()
    return json.loads((out / "result.json").read_text())


def lines(out):
    return [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]


LIMIT = {
    "coco20i": 8,
    "fss1000": 6,
    "emoji": 4,
    "lvis92i": 5,
    "pascal_part": 5,
    "paco_part": 5,
    "isic": 6,
    "lung": 4,
}


def test_every_benchmark_is_tested():
    assert set(WRITE) == set(BENCHMARKS)


@pytest.mark.parametrize("name", WRITE)
def test_every_benchmark_is_evaluated(weights, tmp_path, name, capsys):
    WRITE[name](tmp_path / "data")
    options = {"benchmark": name}
    if BENCHMARKS[name].needs_root:
        options["data_root"] = tmp_path / "data"
    if name in LIMIT:
        options["limit"] = LIMIT[name]
    if name in ("lvis92i", "pascal_part", "paco_part"):
        options["fold"] = 0
    if name == "coco":
        options["class_names"] = "False"
    result = run(weights, tmp_path / "out", **options)
    out = capsys.readouterr().out
    assert out.startswith(f"{name}: ")
    assert result["benchmark"] == name
    assert len(result["model"]["sha256"]) == 64
    kind, rows = BENCHMARKS[name].kind, lines(tmp_path / "out")
    table = "per_object.csv" if kind == "video" else "per_class.csv"
    files = {"result.json", "episodes.jsonl", "report.html", *([table] if result["scores"] else [])}
    assert {path.name for path in (tmp_path / "out").iterdir()} >= files
    {"episodes": check_episodes, "semseg": check_semantic, "video": check_videos}[kind](result, rows)
    assert (name in ("emoji", "folder")) == bool(result.get("baselines"))


def check_episodes(result, rows):
    """Compute the mIoU from the rows, as the mean over folds."""
    assert len(rows) == result["episodes"] > 0
    means = []
    for number in {row["fold"] for row in rows}:
        sums: dict = {}
        for row in (row for row in rows if row["fold"] == number):
            pixels = sums.setdefault(row["class"], [0, 0])
            pixels[0] += row["intersection"]
            pixels[1] += row["union"]
        means.append(100 * np.mean([i / max(u, 1) for i, u in sums.values()]))
    assert result["scores"]["miou_seen_classes"] == pytest.approx(np.mean(means), abs=0.011)


def check_semantic(result, rows):
    """Compute the mIoU from the pixel counts of all images."""
    sums: dict = {}
    for row in rows:
        for number, counts in row["classes"].items():
            sums[number] = np.add(sums.get(number, 0), counts)
    ious = [100 * counts[0] / counts[1] for counts in sums.values() if counts[3]]
    assert len(ious) == result["classes_seen"] > 0
    assert result["scores"]["miou"] == pytest.approx(np.mean(ious), abs=0.006)


def check_videos(result, rows):
    """Compute J&F from the rows; the validation set of YouTube-VOS has no public truth."""
    assert len(rows) == result["videos"] == 2
    if result["benchmark"] == "ytvos18":
        assert result["scores"] is None
        return
    scores = [scored["jf"] for row in rows for scored in row["objects"]]
    assert len(scores) == result["scores"]["objects"] > 0
    assert result["scores"]["jf"] == pytest.approx(np.mean(scores), abs=0.006)


def test_the_shipped_episodes_are_evaluated(weights, tmp_path):
    write_some_coco20i(tmp_path / "data")
    options = {"benchmark": "coco20i", "data_root": tmp_path / "data", "limit": 8}
    result = run(weights, tmp_path / "all", **options)
    assert [row["index"] for row in lines(tmp_path / "all")] == list(range(0, 4000, 500))
    assert list(result["manifest"]["folds"]) == ["0", "1", "2", "3"]
    assert result["manifest"]["folds"]["2"].startswith("18954956331d10f4")
    manifest = packaged_manifest("coco20i", "matcher", 2, 1)
    manifest.write(tmp_path / "list.gz")
    of_list = run(weights, tmp_path / "own", **options | {"episodes": tmp_path / "list.gz", "limit": 2})
    assert of_list["manifest"]["folds"] == {"2": manifest.sha256}
    assert of_list["fold_scores"]["2"]["episode_iou"] == result["fold_scores"]["2"]["episode_iou"]
    assert read_manifest(tmp_path / "list.gz") == manifest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"benchmark": "nothing"}, "There is no benchmark 'nothing'"),
        ({"benchmark": "folder"}, "--data-root is missing: folder needs a folder with <class>/<n>.jpg"),
        ({"benchmark": "davis17", "data_root": Path("nowhere")}, "nowhere is missing"),
        ({"random_backbone": "x", "baselines": "False"}, "--random-backbone is a baseline"),
        ({"protocol": "matcher"}, "emoji has no protocol matcher"),
        ({"episodes": Path("list.gz"), "shots": 5}, "--shots has no effect with --episodes"),
        ({"protocol": "nonsense"}, "There is no protocol 'nonsense'"),
        ({"fold": 3}, "emoji has only fold 0; give another one."),
        ({"data_root": Path("anywhere")}, "--data-root anywhere has no effect: emoji is in the package"),
        ({"shots": 0}, "--shots 0"),
        ({"shots": 12}, "at most 9 shots"),
        ({"limit": 0}, "--limit 0 must be at least 1"),
        ({"batch_size": 0}, "--batch-size 0 must be at least 1"),
        ({"workers": -1}, "--workers -1 must be at least 0"),
        ({"class_names": "True"}, "no text feature for"),
        ({"episodes": Path("gone.jsonl.gz")}, "gone.jsonl.gz cannot be read"),
    ],
)
def test_wrong_options_are_reported_in_one_sentence(weights, tmp_path, options, message):
    with pytest.raises(ValueError, match=message) as error:
        run(weights, tmp_path / "out", **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("benchmark", ["coco20i", "fss1000"])
def test_the_training_free_method_is_scored_under_its_own_protocol(weights, tmp_path, benchmark):
    WRITE[benchmark](tmp_path / "data")
    options = {"benchmark": benchmark, "data_root": tmp_path / "data", "limit": 2}
    result = run(weights, tmp_path / "out", **options, method="training_free", protocol="insid3")
    assert result["protocol"]["name"] == "insid3"
    assert result["method"]["name"] == "training_free"


def test_a_list_is_scored_under_its_own_protocol(weights, tmp_path):
    WRITE["fss1000"](tmp_path / "data")
    options = {"benchmark": "fss1000", "data_root": tmp_path / "data", "limit": 2}
    source = open_benchmark(BENCHMARKS["fss1000"], tmp_path / "data")
    source.manifest("insid3", 0, 1).write(tmp_path / "list.gz")
    options["episodes"] = tmp_path / "list.gz"
    assert run(weights, tmp_path / "own", **options)["protocol"]["name"] == "insid3"
    other = run(weights, tmp_path / "other", **options, protocol="segic", class_names="False")
    assert other["protocol"]["name"] == "segic"


def test_a_list_of_another_benchmark_is_refused(weights, tmp_path):
    packaged_manifest("coco20i", "matcher", 0, 1).write(tmp_path / "list.gz")
    with pytest.raises(ValueError, match="lists episodes of coco20i, not of emoji"):
        run(weights, tmp_path / "out", episodes=tmp_path / "list.gz")


def test_missing_files_are_named_before_the_first_episode(weights, tmp_path):
    """Evaluate eight episodes, the only ones with files; a ninth is refused before the first."""
    write_some_coco20i(tmp_path / "data")
    options = {"benchmark": "coco20i", "data_root": tmp_path / "data"}
    with pytest.raises(ValueError, match=r"val2014.*\.jpg is missing, and an episode needs it"):
        run(weights, tmp_path / "out", limit=9, **options)
    assert not (tmp_path / "out/parts/00000.jsonl").read_bytes()
    assert run(weights, tmp_path / "out", limit=8, **options)["episodes"] == 8


def test_a_model_without_the_instance_prompt_tracks_videos(tmp_path):
    WRITE["davis17"](tmp_path / "data")
    save_bundle(tmp_path / "model.safetensors", tiny.bundle())
    options = {"benchmark": "davis17", "data_root": tmp_path / "data"}
    result = run(str(tmp_path / "model.safetensors"), tmp_path / "out", **options)
    assert "does not know the sentence 'please segment the instances'" in result["notes"][0]
    assert result["scores"]["objects"] > 0


def test_the_default_folder_depends_on_the_experiment(weights):
    def name(**options):
        return command(weights=weights, **options).default_name(Path(weights))

    assert name() == name(limit=5, workers=2, batch_size=3)
    assert len({name(), name(shots=5), name(fold=0), name(protocol="segic"), name(class_names="True")}) == 5


def test_list_names_every_benchmark_and_its_download(capsys):
    assert command(list=True).run() == 0
    out = capsys.readouterr().out
    assert all(f"{name}: " in out and spec.download in out for name, spec in BENCHMARKS.items())


@pytest.mark.parametrize(
    ("benchmark", "option", "value"),
    [
        ("davis17", "--shots", "1"),
        ("davis17", "--fold", "0"),
        ("davis17", "--protocol", "segic"),
        ("davis17", "--episodes", "list.gz"),
        ("davis17", "--baselines", "False"),
        ("davis17", "--random-backbone", "x"),
        ("davis17", "--workers", "0"),
        ("davis17", "--classes", "present"),
        ("davis17", "--class-names", "False"),
        ("davis17", "--batch-size", "16"),
        ("davis17", "--method", "training_free"),
        ("ade20k", "--method", "training_free"),
        ("ade20k", "--shots", "5"),
        ("ade20k", "--protocol", "segic"),
        ("ade20k", "--semantics", "official"),
        ("emoji", "--semantics", "official"),
        ("emoji", "--classes", "all"),
        ("emoji", "--merge", "argmax"),
        ("emoji", "--bank", "val"),
    ],
)
def test_options_of_another_kind_are_refused(tmp_path, capsys, benchmark, option, value):
    """Refuse the option also if its value is the default."""
    arguments = ["eval", "--benchmark", benchmark, "--data-root", str(tmp_path), option, value]
    assert parse(arguments).run() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{option} is for ")
    assert f"but {benchmark} is a benchmark of " in line


def test_eval_py_runs_the_command(tmp_path):
    script = [sys.executable, str(ROOT / "eval.py")]
    listed = subprocess.run([*script, "--list"], capture_output=True, text=True)
    assert (listed.returncode, listed.stdout.startswith("emoji: ")) == (0, True)
    refused = subprocess.run([*script, "--benchmark", "folder"], capture_output=True, text=True)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert refused.stderr.startswith("--data-root is missing")


def run_eval(*arguments):
    command = [sys.executable, str(ROOT / "eval.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_a_folder_of_images_is_evaluated(files, tmp_path):
    for name in ("disk", "ring"):
        (tmp_path / name).mkdir()
        for i in range(2):
            image, mask = tiny.random_image(i + 2 * (name == "ring"), 60, 50)
            cv2.imwrite(str(tmp_path / name / f"{i + 1}.jpg"), image)
            cv2.imwrite(str(tmp_path / name / f"{i + 1}.png"), mask.astype(np.uint8) * 255)
    out = tmp_path.with_name("out")
    arguments = ("--benchmark", "folder", "--data-root", tmp_path, "--out", out)
    model = tiny.bundle()
    model.notes["domain"] = "scenes of emoji"
    save_bundle(files / "emoji.safetensors", model)
    process = run_eval(*arguments, "--weights", files / "emoji.safetensors", "--batch-size", "4")
    assert process.returncode == 0, process.stderr
    assert "warning: emoji.safetensors segments scenes of emoji only" in process.stderr
    assert "4 episodes of 2 classes" in process.stdout
    result = json.loads((out / "result.json").read_text())
    assert result["model"]["sha256"]
    assert set(result["baselines"]) == {"copy", "cosine", "no_reference", "wrong_reference"}
    assert (out / "sheet.png").exists()


def test_a_missing_data_root_is_reported(files):
    weights = ("--weights", files / "tiny.safetensors")
    process = run_eval("--benchmark", "folder", *weights)
    assert (process.returncode, len(process.stderr.splitlines())) == (2, 1)
    assert "--data-root" in process.stderr
