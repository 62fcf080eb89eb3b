"""The `mien` program finds its verbs and reports errors in one sentence."""

import argparse
import signal
import subprocess
import sys
import time
import types
from importlib import metadata
from pathlib import Path

import pytest
from mien_client import UnavailableError, cli

MIEN = Path(sys.executable).with_name("mien")


@pytest.fixture
def verbs(monkeypatch):
    """Return a function that installs verbs, which run the given functions; others cannot be loaded."""

    def install(**functions):
        entries = []
        for name, function in functions.items():
            module = types.ModuleType(f"verb_{name}")
            command = cli.Command(f"{name} something", add_count, function)
            monkeypatch.setattr(module, "COMMAND", command, raising=False)
            monkeypatch.setitem(sys.modules, module.__name__, module)
            entries.append(metadata.EntryPoint(name, f"verb_{name}:COMMAND", "mien.commands"))
        entries.append(metadata.EntryPoint("broken", "no_such_module:COMMAND", "mien.commands"))
        monkeypatch.setattr(metadata, "entry_points", lambda group: entries)

    return install


def add_count(parser):
    parser.add_argument("--count", type=int)


def raiser(error):
    def run(arguments):
        raise error

    return run


def test_a_verb_runs_with_its_arguments_and_gives_the_status(verbs):
    seen = []

    def serve(arguments):
        seen.append(arguments.count)
        return 3

    verbs(serve=serve)
    assert cli.main(["serve", "--count", "5"]) == 3
    assert seen == [5]


@pytest.mark.parametrize("error", [cli.CommandError("no such file"), UnavailableError("no such file")])
def test_an_error_is_printed_as_one_sentence(verbs, capsys, error):
    verbs(serve=raiser(error))
    assert cli.main(["serve"]) == 1
    assert capsys.readouterr() == ("", "mien serve: no such file\n")


def test_an_unexpected_error_is_not_hidden(verbs):
    verbs(serve=raiser(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["serve"])


def test_interrupted(verbs):
    verbs(serve=raiser(KeyboardInterrupt()))
    assert cli.main(["serve"]) == 130


def test_wrong_arguments(verbs, capsys):
    verbs(serve=lambda arguments: 0)
    with pytest.raises(SystemExit) as caught:
        cli.main(["serve", "--count", "many"])
    assert caught.value.code == 2
    assert "mien serve: error" in capsys.readouterr().err


def test_an_unknown_verb(verbs, capsys):
    verbs(serve=lambda arguments: 0)
    with pytest.raises(SystemExit) as caught:
        cli.main(["sevre"])
    assert caught.value.code == 2
    assert "invalid choice: 'sevre'" in capsys.readouterr().err


def test_help_lists_every_verb_even_one_that_cannot_be_loaded(verbs, capsys):
    verbs(serve=lambda arguments: 0, train=lambda arguments: 0)
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    output = capsys.readouterr().out
    assert "serve something" in output
    assert "train something" in output
    assert "no_such_module" in output


def test_without_arguments_the_help_is_shown(verbs, capsys):
    verbs(serve=lambda arguments: 0)
    assert cli.main([]) == 2
    assert "serve something" in capsys.readouterr().out


def test_help_of_a_verb(verbs, capsys):
    verbs(serve=lambda arguments: 0)
    with pytest.raises(SystemExit):
        cli.main(["serve", "--help"])
    assert "Serve something." in capsys.readouterr().out


def test_version():
    output = subprocess.run([MIEN, "--version"], capture_output=True, encoding="utf-8", check=True, timeout=60)
    assert output.stdout == f"mien {metadata.version('mien-client')}\n"


def test_a_closed_pipe_causes_no_traceback():
    code = (
        "from mien_client import cli\n"
        "cli.metadata.entry_points = lambda group: [cli.metadata.EntryPoint('count', '__main__:COUNT', group)]\n"
        "def run(arguments):\n"
        "    for number in range(100_000): print(number)\n"
        "    return 0\n"
        "COUNT = cli.Command('count', lambda parser: None, run)\n"
        "raise SystemExit(cli.main(['count']))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"0\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


def test_ctrl_c_ends_a_waiting_command_without_a_traceback(tmp_path, address, backend):
    import numpy as np
    from PIL import Image

    Image.fromarray(np.zeros((48, 48), np.uint8)).save(tmp_path / "face.png")
    backend.adopt()
    backend.delays = {"emotion": 5, "keypoints": 5}
    command = [MIEN, "analyze", tmp_path / "face.png", "--server", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while len(backend.asked) < 2:
            assert process.poll() is None
            time.sleep(0.01)  # The stand-in, in this process, needs the processor too.
        time.sleep(0.2)  # The command has begun to wait.
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == (b"", b"")
        assert process.returncode == 130


def test_data_options_are_the_same_for_every_verb_that_reads_kaggle_files():
    parser = argparse.ArgumentParser()
    cli.add_data_options(parser)
    assert vars(parser.parse_args([])) == {"skip_bad_rows": False, "seven_labels": None, "groups": None}
    given = parser.parse_args(["--skip-bad-rows", "--seven-labels", "--groups", "people.csv"])
    assert vars(given) == {"skip_bad_rows": True, "seven_labels": True, "groups": Path("people.csv")}
