import sys

from segic_jax.runtime import progress


def test_short_work_prints_a_bar_on_a_terminal_only(capsys, monkeypatch):
    assert list(progress.bar(range(3))) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(progress.bar(range(3))) == [0, 1, 2]
    assert "3/3" in capsys.readouterr().err
    list(progress.bar(range(3), enabled=False))
    assert capsys.readouterr().err == ""


def test_long_work_is_logged_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0)
    list(progress.bar(range(3), desc="scenes"))
    assert "scenes" in capsys.readouterr().err
