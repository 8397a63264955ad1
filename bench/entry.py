"""What every program of the project does before anything else, also before its other imports.

Runs on every Python 3, to say which version is needed; imports nothing that takes time.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import NoReturn

from bench.errors import describe_os_error, is_out_of_memory
from bench.interrupts import exit_on_interrupts
from bench.streams import prepare_streams, print_error

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = 3, 11


def prepare_process() -> None:
    """Prepare the standard streams, exit with status 130 on Ctrl-C, and report internal errors in one line."""
    prepare_streams()
    exit_on_interrupts()
    sys.excepthook = lambda kind, problem, trace: report_uncaught(problem)
    threading.excepthook = lambda arguments: report_uncaught(arguments.exc_value)
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        print_error(f"{program_name()}: needs Python {oldest} or newer; this is {sys.version.split()[0]}")
        sys.exit(1)


def leave(status: int) -> NoReturn:
    """End the process at once; an orderly end takes time to free memory that the system frees anyway."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # nobody reads it
            stream.flush()
    os._exit(status)


def program_name() -> str:
    name = Path(sys.argv[0]).name
    return "bench" if name == "__main__.py" else name


def report_uncaught(problem: BaseException | None) -> None:
    """Say in one line what went wrong and what to do about it; the traceback goes to a file."""
    if problem is None or isinstance(problem, KeyboardInterrupt):
        return
    trace = partial(traceback_text, problem, results_folder(sys.argv[1:]))
    if isinstance(problem, ImportError) and not is_ours(problem.name or ""):
        advice = "install the requirements (pip install -r requirements.txt)"
        line = f"{first_line(problem)}; {advice}, or use .venv/bin/python, which `make` creates"
    elif is_out_of_memory(problem):
        line = f"out of memory: {first_line(problem)}; {trace()}"
    elif isinstance(problem, OSError):
        line = f"{describe_os_error(problem)}; {trace()}"
    else:
        line = f"internal error: {described(problem)}; this is a fault of the program: please report it; {trace()}"
    print_error(f"{program_name()}: {line}")


def first_line(problem: BaseException) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]


def described(problem: BaseException) -> str:
    """The type and the message of an exception, in one line."""
    return f"{type(problem).__name__}: {' '.join(str(problem).split())}"


OUR_MODULES = {
    *("bench", "tracks", "curriculum", "data", "kernel", "kernel_compiler", "model", "model_config", "optim"),
    *("pair_table", "settings", "speedrun", "startup"),
}


def is_ours(module: str) -> bool:
    """Whether a module belongs to this project; if it is missing, the checkout is damaged."""
    return module.partition(".")[0] in OUR_MODULES


def results_folder(arguments: list[str]) -> Path:
    """The value of `--results` on a command line that may not have been parsed yet."""
    folder = ROOT / "results"
    for position, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--results" or argument.startswith(("results=", "run.results=")):
            folder = Path(value or "".join(arguments[position + 1 : position + 2]) or folder)
    return folder


def traceback_text(problem: BaseException, results: Path) -> str:
    """Save a traceback, and say where it is: `the traceback is in FILE`."""
    return save_traceback(format_traceback(problem), results)


def format_traceback(problem: BaseException) -> str:
    """A traceback, with the command line and the version of Python above it."""
    import traceback  # here, because few processes need it

    lines = traceback.format_exception(type(problem), problem, problem.__traceback__)
    return f"{' '.join(sys.argv)}\nPython {sys.version}\n\n{''.join(lines)}"


def save_traceback(text: str, results: Path) -> str:
    """Write a traceback to `errors/` in a results folder, else to the temporary folder; says where it is."""
    import tempfile  # here, because few processes need it

    name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.getpid()}.txt"
    for folder in (results / "errors", Path(tempfile.gettempdir())):
        try:
            if folder.parent.is_dir():
                folder.mkdir(exist_ok=True)
                path = folder / (name if folder.name == "errors" else f"addition-speedrun-{name}")
                path.write_text(text, encoding="utf-8", errors="backslashreplace")
                return f"the traceback is in {path}"
        except OSError:
            continue
    return "the traceback could not be saved"
