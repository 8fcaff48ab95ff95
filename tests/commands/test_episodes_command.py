"""Test `segic episodes`."""


def test_invalid_episodes_are_refused(segic, tmp_path, capsys):
    for options in (("--shots", "0"), ("--fold", "3"), ("--protocol", "matcher")):
        assert segic("episodes", "make", "emoji", "--out", tmp_path / "new", *options) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "new").exists()
