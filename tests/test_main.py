"""`python -m bench`."""

import subprocess
import sys

import pytest

from bench import __main__ as commands
from tests.support.examples import ROOT


def test_every_command_has_a_file_and_explains_itself(capsys):
    assert commands.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in commands.COMMANDS:
        assert (ROOT / "bench" / "commands" / f"{name}.py").is_file()
        assert name in shown
        with pytest.raises(SystemExit) as end:
            commands.main([name, "--help"])
        assert not end.value.code
        assert "--results" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["boart"], "board"),
        (["board", "--chekc"], "--check"),
        (["ask"], "RUN"),
        (["hardware", "--device", "tpu"], "tpu"),
        (["board", "--results"], "--results"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(arguments, named, capsys):
    assert commands.main(arguments) == 2
    shown = capsys.readouterr().err
    assert len(shown.splitlines()) == 1
    assert named in shown


def test_commands_are_not_imported_before_they_are_called():
    code = (
        "import sys, bench.__main__; print([m for m in ('torch', 'jinja2', 'bench.commands.ask') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_the_hardware_record_is_json(capsys):
    import json

    assert commands.main(["hardware", "--device", "cpu"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown) == {"class", "precision", "hardware", "software"}
    assert shown["hardware"]["cores"] >= 1
