"""The arguments that several commands share."""

from pathlib import Path

from segic_jax.commands.arguments import name_targets


def test_names_of_results(tmp_path):
    one, two, other = Path("x/a.jpg"), Path("x/a.png"), Path("y/A.jpg")
    assert list(name_targets([one, one, Path("y/../x/a.jpg")])) == ["a"]
    assert list(name_targets([one, two])) == ["a.jpg", "a.png"]
    assert list(name_targets([one, other, Path("b.jpg")])) == ["x_a.jpg", "y_A.jpg", "b"]
