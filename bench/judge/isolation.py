"""A judged contestant in Linux namespaces of its own, where the system allows them.

It has its own /tmp, /dev/shm, network, System V IPC and process numbers, and does not see the results folder. It writes
into its home and its temporary folders alone, so that it leaves nothing behind for a later contestant.
`namespace_init.py` prepares this before the clock starts.
"""

import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from bench.judge.environment import end_remaining_processes, system_path
from bench.processes import RunningProcess, last_error_line, restore_cores, start_python

NAMESPACES = "--user --map-root-user --mount --mount-proc --pid --fork --kill-child --ipc --net".split()
INIT = Path(__file__).with_name("namespace_init.py")
PRIVATE = tuple(map(os.path.realpath, ("/tmp", "/dev/shm")))  # folders
PREPARATION_SECONDS = 10.0  # at most; usual are 0.05
MESSAGE_BYTES = 1 << 20
START = 0  # in place of the number of a signal


class IsolationError(Exception):
    """The namespaces cannot be had."""


class ContestantProcess(RunningProcess, Protocol):
    """The process of a contestant, which is prepared first and started later."""

    @property
    def is_isolated(self) -> bool:
        """Whether it has namespaces of its own."""

    @property
    def is_started(self) -> bool:
        """Whether `start` has been called."""

    def start(self) -> None:
        """Start it."""

    def end_remaining(self) -> Sequence[str]:
        """End the processes that it has left running when it ended; returns their names."""

    def close(self) -> None:
        """End everything that it still needs."""


def prepare_contestant(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    descriptors: Sequence[int],
    results: Path,
    quietly: bool = False,
) -> ContestantProcess:
    """A process that will run this Python interpreter, in namespaces of its own where that is possible.

    Args:
        arguments: the script and its options.
        environment: all variables that it gets.
        descriptors: file descriptors that it inherits.
        results: the folder that it shall not see.
        quietly: hide its output.
    """
    source, hidden = os.path.realpath(Path(arguments[0]).parent), os.path.realpath(results)
    if isolation_problem() is None and source not in (*PRIVATE, hidden):  # else its source would be hidden, too
        with suppress(IsolationError):
            return IsolatedProcess(
                [sys.executable, *arguments],
                environment,
                descriptors,
                [hidden],
                needed_paths(arguments, environment),
                [environment[name] for name in ("HOME", "TMPDIR") if name in environment],
                subprocess.DEVNULL if quietly else None,
            )
    return PlainProcess(arguments, environment, descriptors, quietly)


@functools.cache
def isolation_problem() -> str | None:
    """Why a contestant cannot be isolated here, one line; None if it can. Tried once, with a command without effect."""
    try:
        process = IsolatedProcess(["true"], {"PATH": system_path()}, output=subprocess.PIPE)
    except IsolationError as problem:
        return str(problem)
    try:
        process.start()
        status = process.wait(PREPARATION_SECONDS)
    except subprocess.TimeoutExpired:
        return "a process in namespaces of its own does not end"
    finally:
        process.close()
    return f"a process in namespaces of its own ended with status {status}" if status else None


def needed_paths(arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The paths that a contestant needs: its source tree, Python, and all paths in its options and its environment."""
    options = [text for argument in arguments for text in (argument, argument.partition("=")[2])]
    paths = [os.path.dirname(arguments[0]), os.getcwd(), sys.prefix, sys.base_prefix]
    paths += filter(os.path.exists, [*options, *environment.values()])
    return [*{resolved(path): None for path in paths for resolved in (os.path.abspath, os.path.realpath)}]


class IsolatedProcess:
    """A contestant in namespaces of its own, by the program `unshare` of util-linux."""

    is_isolated = True

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        descriptors: Sequence[int] = (),
        hidden: Sequence[str] = (),
        shown: Sequence[str] = (),
        writable: Sequence[str] = (),
        output: int | None = None,
    ) -> None:
        """Prepare the namespaces; raises IsolationError if that is impossible.

        Args:
            command: what `start` will run in them.
            descriptors: file descriptors that it inherits.
            hidden: folders that are empty in the namespaces, as absolute paths without links.
            shown: what is nevertheless shown of them and of the private folders, as absolute paths.
            writable: folders in which it can write, as in the private ones; nothing else can be written to.
            output: where its output goes, as for `subprocess.Popen`.
        """
        unshare = shutil.which("unshare", path=system_path())
        if sys.platform != "linux" or unshare is None:
            raise IsolationError("there is no program `unshare`; it needs Linux and util-linux")
        self.is_started = False
        self.status: int | None = None
        self.left_behind: Sequence[str] = ()
        self.waiting = threading.Lock()  # one thread reads the status, when several wait for it
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        restore_cores()
        with theirs:
            self.unshare = subprocess.Popen(
                [unshare, *NAMESPACES, sys.executable, "-I", "-S", str(INIT), str(theirs.fileno())],
                env=environment,
                pass_fds=[theirs.fileno(), *descriptors],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # else Ctrl-C would reach it at once; the judge passes it on
            )
        request = {
            "private": PRIVATE,
            "hidden": hidden,
            "shown": shown,
            "writable": writable,
            "command": command,
            "descriptors": descriptors,
        }
        answer: dict[str, Any] | None = None
        with suppress(OSError):  # it has ended, or does not answer in time
            self.control.send(json.dumps(request).encode())
            answer = self.receive(PREPARATION_SECONDS)
        if answer is None or "problem" in answer:
            self.control.close()
            message = (self.unshare.communicate()[1] or b"").decode(errors="replace")
            raise IsolationError(answer["problem"] if answer else last_error_line(message))

    def receive(self, seconds: float | None) -> dict[str, Any] | None:
        """The next answer; None if the other end is closed. Raises TimeoutError."""
        self.control.settimeout(seconds)
        with suppress(ConnectionError):
            if message := self.control.recv(MESSAGE_BYTES):
                answer: dict[str, Any] = json.loads(message)
                return answer
        return None

    def start(self) -> None:
        self.is_started = True
        self.send_signal(START)

    def send_signal(self, number: int, /) -> None:
        with suppress(OSError):  # it has ended
            self.control.send(bytes([number]))

    def wait(self, timeout: float | None = None) -> int:
        if not self.waiting.acquire(timeout=-1 if timeout is None else timeout):
            raise subprocess.TimeoutExpired("the contestant", timeout or 0.0)
        try:
            if self.status is None:
                answer = self.receive(timeout)
                if answer is None:  # something has killed the whole namespace
                    self.status = self.unshare.wait() or 1
                else:
                    self.status, self.left_behind = answer["status"], answer["left_behind"]
        except TimeoutError:
            raise subprocess.TimeoutExpired("the contestant", timeout or 0.0) from None
        finally:
            self.waiting.release()
        return self.status

    def kill(self) -> None:
        self.send_signal(9)

    def end_remaining(self) -> Sequence[str]:
        """End the processes that it has left running when it ended; returns their names.

        They have ended with the first process of their namespace.
        """
        self.close()
        return self.left_behind

    def close(self) -> None:
        self.control.close()
        self.unshare.communicate()  # waits, and closes its pipes


class PlainProcess:
    """A contestant without namespaces."""

    is_isolated = False

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int], quietly: bool
    ) -> None:
        """See `prepare_contestant`."""
        self.arguments, self.environment, self.descriptors = arguments, dict(environment), descriptors
        self.quietly = quietly
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def is_started(self) -> bool:
        return self.process is not None

    def start(self) -> None:
        self.process = start_python(self.arguments, self.environment, self.descriptors, self.quietly, is_clean=True)

    def send_signal(self, number: int, /) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def wait(self, timeout: float | None = None) -> int:
        assert self.process is not None
        return self.process.wait(timeout)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    def end_remaining(self) -> Sequence[str]:
        return end_remaining_processes(self.environment["HOME"])

    def close(self) -> None:
        """Nothing is left to end."""
