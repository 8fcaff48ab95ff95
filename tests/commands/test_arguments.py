"""Test the arguments that several commands share."""

from pathlib import Path

from segic_jax.commands.arguments import name_targets


def test_results_have_unique_names():
    jpeg, png, in_capitals = Path("x/a.jpg"), Path("x/a.png"), Path("y/A.jpg")
    assert list(name_targets([jpeg, jpeg, Path("y/../x/a.jpg")])) == ["a"]
    assert list(name_targets([jpeg, png])) == ["a.jpg", "a.png"]
    assert list(name_targets([jpeg, in_capitals, Path("b.jpg")])) == ["x_a.jpg", "y_A.jpg", "b"]
