"""Test what `segic serve` refuses before it serves."""

import pytest

from segic_jax.commands import serve


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--host", "0.0.0.0"), "give a token with --token-file"),
        (("--host", "0.0.0.0", "--token-file", "short"), "at least 16 printable ASCII"),
        (("--token-file", "missing"), "the token cannot be read"),
        (("--seconds", 0), "--seconds 0 allows nothing"),
        (("--images", 100), "--pending-images 64 is below --images 100"),
        (("--folder", "tiny.safetensors"), "cannot be created"),
        (("--port", 99999), "choose another --port"),
    ],
)
def test_wrong_input_is_named(segic, files, monkeypatch, capsys, arguments, sentence):
    pytest.importorskip("fastapi")
    monkeypatch.delenv("SEGIC_TOKEN", raising=False)
    (files / "short").write_text("abc")
    assert segic("serve", "--weights", "tiny.safetensors", *arguments) == 2
    assert sentence in capsys.readouterr().err


def test_missing_packages_are_named(segic, monkeypatch, capsys):
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    assert segic("serve") == 2
    assert "pip install 'segic_jax[serve]'" in capsys.readouterr().err
