"""Test that `segic data check` finds and names every problem."""

from pathlib import Path

import numpy as np
import pytest
from layouts_domains import write_isic
from layouts_parts import write_lvis92i, write_pascal_part
from layouts_semantic import write_pc459
from layouts_video import write_davis17, write_ytvos18
from PIL import Image

from segic_jax.commands.command_line import main
from segic_jax.data.benchmarks import BENCHMARKS, find_benchmark


def segic(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["data", *map(str, arguments)])
    return stopped.value.code


@pytest.fixture
def folder(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for i in (1, 2, 3):
            mask = np.zeros((20, 30), np.uint8)
            mask[:5] = 255
            Image.fromarray(mask).convert("RGB").save(tmp_path / name / f"{i}.jpg")
            Image.fromarray(mask).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_complete_data_pass(folder, capsys):
    assert segic("check", "folder", "--data-root", folder) == 0
    out = capsys.readouterr().out
    assert "No problems found." in out
    lines = [line.split() for line in out.splitlines()]
    assert ["images", "with", "masks,", "read", "6", "6", "ok"] in lines


def test_every_problem_is_named(folder, capsys):
    truncated = folder / "ant/2.jpg"
    truncated.write_bytes(truncated.read_bytes()[:-20])
    Image.fromarray(np.full((20, 31), 255, np.uint8)).save(folder / "bee/1.png")
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(folder / "bee/3.png")
    (folder / "bee/note\r").write_text("")
    assert segic("check", "folder", "--data-root", folder) == 1
    out = capsys.readouterr().out
    for message in (
        "ant/2.jpg is cut off",
        "bee/1.png is 31 x 20",
        "shows nothing of class bee",
        "bee/note\\r",
    ):
        assert message in out
    assert "3       6  not what the benchmark has" in out
    assert segic("check", "folder", "--data-root", folder, "--quick") == 1
    assert "cut off" not in capsys.readouterr().out


def test_a_missing_benchmark_says_where_to_get_it(tmp_path, capsys):
    for name, benchmark in BENCHMARKS.items():
        if not benchmark.needs_root:
            continue
        assert segic("check", name, "--data-root", tmp_path / "none") == 2
        message = capsys.readouterr().err
        assert benchmark.layout.splitlines()[0] in message
        assert benchmark.download in message
        assert segic("check", name) == 2


def test_an_empty_folder_is_reported_in_one_sentence(tmp_path, capsys):
    for name, benchmark in BENCHMARKS.items():
        if benchmark.needs_root:
            code = segic("check", name, "--data-root", tmp_path)
            captured = capsys.readouterr()
            assert code in (1, 2), name
            assert "Traceback" not in captured.err
            assert code == 1 or len(captured.err.splitlines()) == 1


def test_a_label_map_of_another_size_is_reported(tmp_path, capsys):
    write_davis17(tmp_path)
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "2017/Annotations/480p/cows/00002.png")
    (tmp_path / "2017/JPEGImages/480p/bear/00003.jpg").unlink()
    assert segic("check", "davis17", "--data-root", tmp_path) == 1
    out = capsys.readouterr().out
    assert "cows/00002.png is 4 x 3 pixels, its frame 56 x 40" in out
    assert "bear/00003.png has no frame" in out
    assert out.count("  handled") == 2
    assert "  problem" not in out
    assert "not what the benchmark has" in out  # 2 videos of 30


def test_a_damaged_first_label_map_does_not_stop_the_check(tmp_path, capsys):
    write_davis17(tmp_path)
    (tmp_path / "2017/Annotations/480p/bear/00000.png").write_bytes(b"")
    assert segic("check", "davis17", "--data-root", tmp_path) == 1
    out = capsys.readouterr().out
    assert "bear/00000.png is damaged" in out
    assert "first label maps, read" in out


def test_a_damaged_list_of_videos_is_reported(tmp_path, capsys):
    write_davis17(tmp_path)
    (tmp_path / "2017/ImageSets/2017/val.txt").write_bytes(b"\xff\xfe\0")
    assert segic("check", "davis17", "--data-root", tmp_path) == 2
    assert "val.txt is missing or not text" in capsys.readouterr().err
    (tmp_path / "2017/ImageSets/2017/val.txt").write_text("bear\nunicorn\n")
    assert segic("check", "davis17", "--data-root", tmp_path) == 2
    assert "val.txt lists unicorn, but" in capsys.readouterr().err


def test_hidden_files_are_not_frames(tmp_path):
    write_davis17(tmp_path)
    for folder in ("JPEGImages", "Annotations"):
        for hidden in ("._00000.jpg", "._00000.png"):
            (tmp_path / "2017" / folder / "480p/bear" / hidden).write_bytes(b"\0")
    clip = find_benchmark("davis17").open(tmp_path).videos()[0]
    assert len(clip.frames) == len(clip.annotations) == 5


def test_youtube_vos_opens_under_the_name_of_its_archive(tmp_path):
    write_ytvos18(tmp_path / "ytbvos18")
    (tmp_path / "ytbvos18/val").rename(tmp_path / "ytbvos18/valid")
    for root in (tmp_path, tmp_path / "ytbvos18", tmp_path / "ytbvos18/valid"):
        assert len(find_benchmark("ytvos18").open(root).videos()) == 2


def test_a_damaged_annotation_does_not_stop_the_check(tmp_path, capsys):
    write_pascal_part(tmp_path)
    folder = tmp_path / "Pascal-Part/VOCdevkit/VOC2010/Annotations_Part_json_merged_part_classes"
    (folder / "2008_000003.json").write_text("{")
    assert segic("check", "pascal_part", "--data-root", tmp_path) == 1
    assert "2008_000003.json is cut off" in capsys.readouterr().out


def test_optional_files_are_no_problem(tmp_path, capsys):
    write_lvis92i(tmp_path)
    (tmp_path / "LVIS/lvis_v1_val.json").unlink()
    segic("check", "lvis92i", "--data-root", tmp_path, "--quick")
    assert capsys.readouterr().out.endswith("1 problem(s).\n")  # 20 classes of 920
    write_pc459(tmp_path)
    segic("check", "pc459", "--data-root", tmp_path)
    out = capsys.readouterr().out
    assert "pc459_train" not in out
    assert out.endswith("1 problem(s).\n")  # 3 images of 5104


def test_a_built_data_set_is_checked_without_its_original_layout(tmp_path, capsys):
    write_isic(tmp_path / "ISIC")
    assert segic("build", "isic", "--data-root", tmp_path, "--out", tmp_path / "built") == 0
    assert segic("check", "isic", "--data-root", tmp_path / "built") == 0
    assert "No problems found." in capsys.readouterr().out


def test_list_names_every_benchmark(capsys):
    assert segic("list") == 0
    out = capsys.readouterr().out
    assert all(f"{name}: " in out for name in BENCHMARKS)


def test_the_page_names_every_benchmark():
    page = (Path(__file__).parents[2] / "docs/benchmarks.md").read_text()
    assert all(f"`{name}`" in page for name in BENCHMARKS)
