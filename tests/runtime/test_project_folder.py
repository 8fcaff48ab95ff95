"""Test where folders of the project are found."""

from segic_jax.runtime.project_folder import project_folder


def test_a_folder_beside_an_installed_package_is_not_read(tmp_path):
    package = tmp_path / "site-packages/segic_jax"
    for folder in (package / "configs", package.parent / "configs"):
        folder.mkdir(parents=True)
    assert project_folder("configs", package) == package / "configs"


def test_a_checkout_has_its_folders_beside_the_package():
    assert (project_folder("examples") / "CREDITS.md").is_file()
