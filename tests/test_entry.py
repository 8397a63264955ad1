"""Internal errors, missing requirements, and Pythons that are too old."""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from bench import entry


@pytest.fixture
def command_line(tmp_path, monkeypatch) -> Path:
    """The results folder on the command line of this process."""
    monkeypatch.setattr(sys, "argv", ["speedrun.py", "--results", str(tmp_path / "results")])
    return tmp_path / "results"


def reported(problem: Exception, capsys: pytest.CaptureFixture[str]) -> str:
    """The line that is printed for an uncaught exception."""
    try:
        raise problem
    except Exception as raised:
        entry.report_uncaught(raised)
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_an_internal_error_is_one_line_that_asks_for_a_report_with_a_file(command_line, capsys):
    command_line.mkdir()
    line = reported(KeyError("a\nkey"), capsys)
    assert line.startswith("speedrun.py: internal error: KeyError: ")
    assert "please report it" in line
    (path,) = (command_line / "errors").iterdir()
    assert line.endswith(str(path))
    assert "Traceback" in path.read_text()


def test_without_a_results_folder_the_traceback_is_in_the_temporary_folder(command_line, capsys):
    path = Path(reported(ValueError("x"), capsys).rpartition(" ")[2])
    assert "ValueError: x" in path.read_text()
    assert path.name.startswith("addition-speedrun-")
    assert not command_line.exists()
    path.unlink()


def test_a_traceback_that_cannot_be_saved_is_said(command_line, capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: os.devnull)
    assert reported(ValueError("x"), capsys).endswith("the traceback could not be saved")


def test_a_missing_requirement_is_one_line_that_names_the_way_out(command_line, capsys):
    line = reported(ModuleNotFoundError("No module named 'tyro'", name="tyro"), capsys)
    assert "pip install -r requirements.txt" in line
    assert "internal error" in reported(ModuleNotFoundError("No module named 'bench.x'", name="bench.x"), capsys)


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (ImportError("libcudnn.so.9: cannot open shared object file", name="torch._C"), "install the requirements"),
        (MemoryError(), "speedrun.py: out of memory: MemoryError; the traceback is in"),
        (OSError(28, "No space left on device", "x"), "speedrun.py: x: No space left on device; the traceback is in"),
    ],
)
def test_what_the_surroundings_cause_is_no_fault_of_the_program(problem, line, command_line, capsys):
    command_line.mkdir()
    shown = reported(problem, capsys)
    assert line in shown
    assert "report" not in shown


def test_a_missing_requirement_is_found_before_anything_else_is_imported(tmp_path):
    """Simulated: modules of these names come first, and are as if they were missing."""
    for name in ("psutil", "tyro", "torch"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module named {name}', name='{name}')")
    for script in ("speedrun.py", "-mbench"):
        command = [sys.executable, script, "show"]
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        done = subprocess.run(command, cwd=entry.ROOT, env=environment, capture_output=True, text=True)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 1
        assert "pip install -r requirements.txt" in line


@pytest.mark.parametrize(
    "arguments", [["--results", "r"], ["a", "--results=r", "--b"], ["--results=q", "--results", "r"]]
)
def test_the_results_folder_is_found_on_the_command_line(arguments):
    assert entry.results_folder(arguments) == Path("r")
    assert entry.results_folder(["--results"]) == entry.results_folder([]) == entry.ROOT / "results"


def test_an_old_python_is_one_line(monkeypatch, capsys):
    for name in ("prepare_streams", "exit_on_interrupts"):
        monkeypatch.setattr(entry, name, lambda: None)
    for module in (sys, threading):
        monkeypatch.setattr(module, "excepthook", module.excepthook)
    monkeypatch.setattr(entry, "OLDEST_PYTHON", (99, 1))
    with pytest.raises(SystemExit):
        entry.prepare_process()
    assert "needs Python 99.1 or newer" in capsys.readouterr().err
