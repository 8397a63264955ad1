"""`python -m bench`."""

import importlib
import inspect
import json
import re
import subprocess
import sys

import pytest

from bench import __main__ as commands
from bench.storage.journal import Journal
from tests.support.examples import ROOT, example_run


def test_the_usage_names_an_attempt_the_matrix_and_the_leaderboard_before_the_other_commands(capsys):
    assert commands.main(["--help"]) == 0
    usage = capsys.readouterr().out.splitlines()
    more = usage.index("more: python -m bench COMMAND [--help]")
    first = [line.split("  ")[0] for line in usage[:more] if line]
    assert first == ["python speedrun.py", "python -m bench matrix", "results/LEADERBOARD.md"]
    assert [line.split()[0] for line in usage[more + 1 :]] == list(commands.MORE_COMMANDS)
    assert max(map(len, usage)) <= 100
    assert commands.main([]) == 2
    assert capsys.readouterr().out.splitlines() == usage


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_has_a_file_and_explains_itself(name, capsys):
    assert (ROOT / "bench" / "commands" / f"{name}.py").is_file()
    with pytest.raises(SystemExit) as end:
        commands.main([name, "--help"])
    assert not end.value.code
    usage = " ".join(capsys.readouterr().out.split())
    assert "--results" in usage
    docstring = inspect.getdoc(importlib.import_module(f"bench.commands.{name}").Arguments)
    assert " ".join(docstring.split()) in usage


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["boart"], "board"),
        (["board", "--chekc"], "--check"),
        (["ask"], "RUN"),
        (["hardware", "--device", "tpu"], "tpu"),
        (["board", "--results"], "--results"),
        (["board", "--results", ""], "--results: the path is empty"),
        (["export", "--output", "-"], "--output: '-' is no file or folder"),
        (["matrix", ""], "the name is empty"),
        (["compare", "", "add3", "--results", "nowhere"], "the name of a contestant is empty"),
        (["compare", "nosuch", "add3", "--results", "nowhere"], "there is no config or record 'nosuch'"),
        (["show", ""], "the name of the run is empty"),
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


def test_help_imports_no_heavy_module():
    """The modules of all commands, which are imported before their command lines are parsed."""
    code = (
        f"import importlib, sys; names = {list(commands.COMMANDS)};"
        "modules = [importlib.import_module('bench.commands.' + name) for name in names];"
        "print({'torch', 'scipy', 'matplotlib', 'optuna', 'ray'} & sys.modules.keys())"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"


@pytest.mark.parametrize(
    "arguments", ["show latest", "tracks", "export --format json", "note latest a", "board --check"]
)
def test_a_command_that_only_reads_imports_neither_torch_nor_scipy(arguments, tmp_path):
    Journal(tmp_path).append(example_run(batch=None))
    commands.main(["board", "--results", str(tmp_path)])
    code = (
        "import sys; from bench.__main__ import main;"
        f"status = main({[*arguments.split(), '--results', str(tmp_path)]});"
        "print(status, {'torch', 'scipy', 'matplotlib'} & sys.modules.keys(), file=sys.stderr)"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stderr.splitlines()[-1] == "0 set()"


def test_the_hardware_record_is_json_and_the_trainer_says_how_it_uses_the_machine(capsys):
    assert commands.main(["hardware", "--device", "cpu"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown) == {"class", "precision", "checks", "peak", "cold_start", "hardware", "software"}
    assert shown["hardware"]["cores"] >= 1
    assert re.fullmatch(r"(bfloat16|float32) \(.+\), kernel (c|torch) \(.+\)", shown["precision"])
