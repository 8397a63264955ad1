"""Child processes of this program: their environment, their encoding, and what they answered."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

BATCH_VARIABLE = "ADDITION_SPEEDRUN_BATCH"  # the batch of an attempt, as JSON
TEXT_VARIABLE = "ADDITION_SPEEDRUN_TEXT"  # the file of a text, for settings that have only its hash; set by the user
PIPE_VARIABLE = "ADDITION_SPEEDRUN_PIPE"  # the file descriptor to which an attempt writes the edges of its clock


# Noted before torch is imported: OpenMP binds this thread to fewer cores when it is loaded with OMP_PROC_BIND,
# OMP_PLACES or GOMP_CPU_AFFINITY.
CORES = tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None


class RunningProcess(Protocol):
    """What a command needs of a process that it has started; `subprocess.Popen` has it."""

    def send_signal(self, number: int, /) -> None:
        """Send it a signal, if it is running."""

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, negative for a signal; raises subprocess.TimeoutExpired after `timeout` seconds."""

    def kill(self) -> None:
        """Kill it."""


def restore_cores() -> None:
    """Let this thread, and what it starts, run on all cores of this process again, after OpenMP was loaded."""
    if CORES is not None:
        with contextlib.suppress(OSError):  # the cores have been taken from this process
            os.sched_setaffinity(0, CORES)


def child_environment(**variables: str) -> dict[str, str]:
    """The environment for a child process, without the variables that this process received as an attempt."""
    inherited = {name: value for name, value in os.environ.items() if name not in (BATCH_VARIABLE, PIPE_VARIABLE)}
    if inherited.get(TEXT_VARIABLE):
        inherited[TEXT_VARIABLE] = os.path.abspath(inherited[TEXT_VARIABLE])  # a child may run in another folder
    return inherited | variables


def run_python(
    arguments: Sequence[str], standard_input: str = "", folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run this Python interpreter in a child process to its end, and capture its output as text.

    Its streams are UTF-8, whatever the locale. Other bytes, which a message of the system may hold, are replaced.
    """
    restore_cores()
    return subprocess.run(
        [sys.executable, *arguments],
        input=standard_input,
        cwd=folder,
        env=child_environment(PYTHONIOENCODING="utf-8"),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )


def json_lines(output: str, count: int = 1) -> list[str]:
    """The last `count` lines of an output that are JSON objects; the interpreter may have printed lines of its own.

    Raises ValueError if there are fewer.
    """
    lines = [line for line in output.split("\n") if line.startswith("{")]
    if len(lines) < count:
        raise ValueError(f"expected {count} JSON objects in the output, got {len(lines)}")
    return lines[len(lines) - count :]


def last_error_line(stderr: str) -> str:
    """The last line of a process's standard error, which names the problem."""
    return (stderr.strip().splitlines() or ["the process printed no error message"])[-1]


def end_process(process: RunningProcess, seconds: float) -> int:
    """Wait for a process to end, kill it after some seconds, and return its exit status."""
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def start_python(
    arguments: Sequence[str],
    variables: dict[str, str],
    descriptors: Sequence[int] = (),
    quietly: bool = False,
    is_clean: bool = False,
) -> subprocess.Popen[bytes]:
    """Start this Python interpreter in a child process that shares the display of this one, unless `quietly`.

    Args:
        variables: added to its environment.
        descriptors: file descriptors that it inherits.
        is_clean: its environment is `variables` alone.
    """
    restore_cores()
    output = subprocess.DEVNULL if quietly else None
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=variables if is_clean else child_environment(**variables),
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
    )
