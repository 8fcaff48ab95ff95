"""Test the page of the parity report, made from numbers alone; see also test_dump_torch.py."""

import numpy as np

from segic_jax.parity.report_html import plot, render_page, worst_rows

IMAGE = np.full((20, 30, 3), 90, np.uint8)


def row(stage, dtype, error, *, file="pair_0.npz", passed=True):
    is_float32 = dtype == "float32"
    return {
        "file": file,
        "array": f"mid.{stage}",
        "stage": stage,
        "dtype": dtype,
        "max_abs_error": error,
        "relative_error": error,
        "largest": 1.0,
        "tolerance": 1e-4 if is_float32 else None,
        "torch_rounding": None,
        "passed": passed if is_float32 else None,
    }


def content(rows):
    failed = [line for line in rows if line["passed"] is False]
    return {
        "passed": not failed,
        "first_failure": failed[0] if failed else None,
        "rows": rows,
        "pairs": [
            {"file": "pair_0.npz", "target": "<i>.png", "mask_iou": {"float32": 1.0, "bfloat16": None}}
        ],
        "jax": {"command": "segic parity", "device": "cpu", "versions": {"segic_jax": "0"}},
        "torch": {"device": "<script>", "segic": "not a dictionary"},
        "files": [{"file": "pair_0.npz", "sha256": "00", "as_dumped": False}],
    }


def rows(error=1e-6, passed=True):
    exact = [row("<block>", "float32", error, passed=passed), row("point", "float32", 0.0)]
    return [*exact, row("<block>", "bfloat16", 1e-2), row("point", "bfloat16", 3.0)]


def test_text_from_files_is_escaped():
    text = render_page(content(rows()), [[(IMAGE, "a < b")]])
    assert "&lt;block&gt;" in text
    assert "&lt;i&gt;.png" in text
    assert "a &lt; b" in text
    assert not any(raw in text for raw in ("<block>", "<i>", "<script>"))


def test_the_page_says_whether_all_stages_passed():
    assert "Passed: all 2 float32 stages" in render_page(content(rows()), [[]])
    text = render_page(content(rows(error=0.5, passed=False)), [[]])
    assert "Failed: the first float32 stage that exceeds its tolerance is &lt;block&gt; in pair_0.npz" in text
    assert text.count('<tr class="bad">') == 1
    assert "error no number" in render_page(content(rows(error=None, passed=False)), [[]])


def test_the_worst_pair_of_a_stage_is_chosen():
    first, second = row("block", "float32", 1e-6), row("block", "float32", 2e-6, file="pair_1.npz")
    assert worst_rows([first, second], "max_abs_error") == {"block": {"float32": second}}
    missing = row("block", "float32", None, passed=False)
    assert worst_rows([missing, second], "max_abs_error") == {"block": {"float32": missing}}


def test_zeros_and_missing_errors_can_be_plotted():
    zeros = [row("point", dtype, 0.0) for dtype in ("float32", "bfloat16")]
    assert "<svg" in plot(zeros, "max_abs_error", "title")
    assert "nan" not in plot([*zeros, *rows(error=None)], "max_abs_error", "title")
