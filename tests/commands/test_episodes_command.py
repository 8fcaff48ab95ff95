"""`segic episodes`."""


def test_episodes_that_are_not_drawn(segic, tmp_path, capsys):
    for wrong in (("--shots", "0"), ("--fold", "3"), ("--protocol", "matcher")):
        assert segic("episodes", "make", "emoji", "--out", tmp_path / "new", *wrong) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "new").exists()
