"""Test the command line: help, version, mistakes and interruptions."""

import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from segic_jax.commands import command_line
from segic_jax.commands.command_line import COMMANDS, main, run_command

ROOT = Path(__file__).parents[2]


def test_mistyped_arguments_exit_with_2(segic):
    assert segic("predict", "--reff", "x") == 2
    assert segic("emoji", "import") == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["predictt", "--ref", "a", "b"], "segic has no command 'predictt': did you mean 'predict'?"),
        (["-V"], "segic has no command '-V': choose predict, fit, "),
        (["data", "chekc"], "segic data has no command 'chekc': did you mean 'check'?"),
    ],
)
def test_an_unknown_command_is_named(segic, capsys, arguments, sentence):
    assert segic(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(sentence)
    assert error.count("\n") == 1


def test_help_is_fast_and_complete(segic, capsys):
    assert segic("--help") == 0
    text = capsys.readouterr().out
    assert all(f"• {name} " in text for name in COMMANDS)
    code = (
        "import sys, segic_jax.commands.command_line as p\n"
        "[p._command(name) for name in p.COMMANDS]\n"
        "print({'numpy', 'jax', 'cv2', 'flax'} & sys.modules.keys())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("version", [4, 5])
def test_opencv_is_silenced_where_its_version_has_the_function(monkeypatch, version):
    levels = []
    here = SimpleNamespace(setLogLevel=levels.append)
    opencv = here if version == 4 else SimpleNamespace(utils=SimpleNamespace(logging=here))
    monkeypatch.setitem(sys.modules, "cv2", opencv)
    command_line._silence_libraries()
    assert levels == [0]


def test_the_version_is_printed(segic, capsys):
    assert segic("--version") == 0
    assert re.fullmatch(r"segic_jax \d+\.\d+\S*\n", capsys.readouterr().out)


@pytest.mark.parametrize("name", ["predict", "fit", "video", "explain"])
def test_help_has_examples(segic, capsys, name):
    assert segic(name, "--help") == 0
    assert f"  segic {name} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "actions"),
    [
        ("data", ["check", "list", "build"]),
        ("episodes", ["make", "show", "hash", "diff"]),
        ("parity", ["report", "end-to-end", "goldens"]),
        ("runs", ["plot", "list"]),
        ("weights", ["list", "fetch"]),
    ],
)
def test_help_of_a_group_has_the_first_sentence_of_each_action(segic, capsys, command, actions):
    assert segic(command, "--help") == 0
    _, _, listing = capsys.readouterr().out.partition("subcommands")
    entries = [" ".join(entry.replace("│", " ").split()) for entry in listing.split("•")[1:]]
    assert [entry.split()[0] for entry in entries] == actions
    for name, entry in zip(actions, entries, strict=True):
        description = command_line._command(command).ACTIONS[name].__doc__.splitlines()[0]
        assert entry.rstrip("╰─╯ ") == f"{name} {description}"
    assert segic(command, "nonsense") == 2


def test_help_of_an_action_has_its_examples(segic, capsys):
    assert segic("data", "build", "--help") == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: segic data build ")
    assert "\n  segic data build fss1000 --data-root FSS-1000 --out tfds/\n" in out


def test_ctrl_c_during_the_imports_is_reported(monkeypatch, capsys):
    class Stopping:
        def find_spec(self, *_):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.delitem(sys.modules, "tyro")
    monkeypatch.setattr(sys, "meta_path", [Stopping()])
    with pytest.raises(SystemExit) as stopped:
        main(["predict"])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "Stopped.\n"


def test_ctrl_c_is_handled_before_the_slow_imports():
    code = "import sys, segic_jax.__main__; print({'tyro', 'numpy', 'jax', 'cv2'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
    code = "import sys, train, eval, finetune; print({'numpy', 'jax', 'cv2'} & sys.modules.keys())"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert process.stdout == "set()\n", process.stderr


def test_a_closed_pipe_ends_the_command_silently():
    lines = "[print('x' * 999) for _ in range(9999)] and None"
    code = (
        "import sys; from segic_jax.commands.command_line import run_command;"
        f"sys.exit(run_command(lambda: {lines}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0


def test_interruptions_and_disk_errors_give_a_code_and_a_sentence(capsys):
    def interrupted_import():
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise ImportError("while initializing the extension")

    def fail_with_full_disk():
        raise OSError(28, "No space left on device", "out/a.png")

    assert run_command(interrupted_import) == 130
    assert capsys.readouterr().err == "Stopped.\n"
    assert run_command(fail_with_full_disk) == 2
    assert capsys.readouterr().err.startswith("out/a.png cannot be used (No space left on device)")
    with pytest.raises(ImportError):  # a defect, not wrong input
        run_command(lambda: (_ for _ in ()).throw(ImportError("no module")))
