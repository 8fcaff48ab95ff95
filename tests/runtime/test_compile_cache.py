import subprocess
import sys

import jax
import pytest

from segic_jax.runtime.compile_cache import VARIABLE, compile_cache_folder, use_compile_cache


@pytest.fixture(autouse=True)
def _restore_cache_folder():
    folder = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", folder)


def test_a_second_process_compiles_nothing(tmp_path, monkeypatch):
    for name in (VARIABLE, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SEGIC_CACHE", str(tmp_path))
    code = (
        "from segic_jax.runtime.compile_cache import use_compile_cache; folder = use_compile_cache();"
        "import jax;"
        "jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((3, 3))); print(folder)"
    )

    def files():
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert process.stderr == ""
        assert process.stdout.strip() == str(compile_cache_folder())
        return sorted((path.name, path.stat().st_mtime_ns) for path in compile_cache_folder().iterdir())

    first = files()
    assert any(name.startswith("jit") for name, _ in first)
    assert files() == first


def test_the_environment_sets_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine"))
    assert use_compile_cache() == tmp_path / "mine"
    monkeypatch.setenv(VARIABLE, "")
    assert use_compile_cache() is None


def test_a_read_only_folder_switches_the_cache_off(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / "below"))
    assert use_compile_cache() is None
