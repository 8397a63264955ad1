"""What an isolated contestant can see and reach, and how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.judge import isolation
from bench.judge.environment import system_path
from bench.judge.isolation import (
    ContestantProcess,
    IsolatedProcess,
    IsolationError,
    PlainProcess,
    isolation_problem,
    needed_paths,
    prepare_contestant,
)

needs_namespaces = pytest.mark.skipif(isolation_problem() is not None, reason=f"no namespaces: {isolation_problem()}")
ENVIRONMENT = {"PATH": system_path()}


def isolated(code: str, shown: Sequence[str] = (), **options: Any) -> IsolatedProcess:
    """An isolated process that runs Python code; this Python may lie in a folder that is private otherwise."""
    shown = [sys.prefix, sys.base_prefix, *shown]
    return IsolatedProcess([sys.executable, "-c", code], ENVIRONMENT, shown=shown, **options)


# -----------------------------------------------------------------------------
# what it sees

LOOKS = """
import json, os, socket, sys
outside, shared, results, port, helper = sys.argv[1:]
def can(action):
    try:
        action()
    except OSError:
        return False
    return True
own = socket.create_server(("127.0.0.1", 0))
with open("home/seen.json", "w") as file:
    json.dump({
        "file in /tmp": os.path.exists(outside),
        "file in /dev/shm": os.path.exists(shared),
        "results": os.listdir(results),
        "write into results": can(lambda: open(os.path.join(results, "forged"), "w")),
        "write into its source": can(lambda: open("forged", "w")),
        "connect": can(lambda: socket.create_connection(("127.0.0.1", int(port)), 5)),
        "connect to itself": can(lambda: socket.create_connection(own.getsockname(), 5)),
        "signal to a process": can(lambda: os.kill(int(helper), 0)),
        "processes": len([name for name in os.listdir("/proc") if name.isdecimal()]),
        "look at the first process": can(lambda: os.listdir("/proc/1/cwd")),
        "write into /tmp": can(lambda: open("/tmp/addition-speedrun-test", "w").close()),
        "script": os.path.exists(sys.argv[0]),
    }, file)
"""


@pytest.fixture
def outside() -> Iterator[list[str]]:
    """What a contestant shall not reach: files in /tmp and /dev/shm, the port of a server, and a process."""
    with (
        tempfile.NamedTemporaryFile(dir="/tmp") as file,
        tempfile.NamedTemporaryFile(dir="/dev/shm") as shared,
        socket.create_server(("127.0.0.1", 0)) as server,
        subprocess.Popen(["sleep", "60"]) as helper,
    ):
        yield [file.name, shared.name, str(server.getsockname()[1]), str(helper.pid)]
        helper.kill()


def look(prepare: Callable[[list[str], Path], ContestantProcess], outside: list[str], source: Path) -> dict[str, Any]:
    """What a contestant sees whose source tree holds the results folder."""
    results = source / "results"
    results.mkdir()
    (source / "home").mkdir()
    (results / "runs.jsonl").write_text("")
    script = source / "contestant.py"
    script.write_text(f"import os\nos.chdir({str(source)!r})\n{LOOKS}")
    file, shared, port, helper = outside
    with closing(prepare([str(script), file, shared, str(results), port, helper], results)) as process:
        process.start()
        assert process.wait(30) == 0
    return json.loads((source / "home" / "seen.json").read_text())


def prepare_isolated(arguments: list[str], results: Path) -> IsolatedProcess:
    """It is told paths that `needed_paths` would show because they stand in its options."""
    shown = needed_paths(arguments[:1], ENVIRONMENT)
    home = str(results.parent / "home")
    return IsolatedProcess([sys.executable, *arguments], ENVIRONMENT, [], [str(results)], shown, [home])


@needs_namespaces
def test_an_isolated_contestant_sees_only_what_it_needs(outside: list[str], tmp_path: Path) -> None:
    assert look(prepare_isolated, outside, tmp_path) == {
        "file in /tmp": False,
        "file in /dev/shm": False,
        "results": [],
        "write into results": False,
        "write into its source": False,
        "connect": False,
        "connect to itself": True,
        "signal to a process": False,
        "processes": 2,
        "look at the first process": False,
        "write into /tmp": True,
        "script": True,
    }
    assert not os.path.exists("/tmp/addition-speedrun-test")
    assert os.listdir(tmp_path / "results") == ["runs.jsonl"]


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc and /dev/shm")
def test_a_contestant_without_namespaces_sees_all_of_it(outside: list[str], tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    seen = look(lambda arguments, _: PlainProcess(arguments, ENVIRONMENT, [], quietly=True), outside, tmp_path)
    assert seen.pop("processes") > 2
    assert seen.pop("results") == ["runs.jsonl"]
    seen.pop("look at the first process")  # as root
    assert all(seen.values())
    assert sorted(os.listdir(tmp_path / "results")) == ["forged", "runs.jsonl"]
    os.unlink("/tmp/addition-speedrun-test")


@needs_namespaces
def test_a_hidden_folder_shows_what_is_needed_of_it_but_lets_nothing_be_written(tmp_path: Path) -> None:
    for name in ("weights", "other"):
        (tmp_path / name).write_text(name)
    code = f"""import os
os.chdir({str(tmp_path)!r})
assert os.listdir() == ["weights"] and open("weights").read() == "weights"
open("weights", "a")
"""
    with closing(isolated(code, hidden=[str(tmp_path)], shown=[str(tmp_path / "weights")])) as process:
        process.start()
        assert process.wait(30) == 1
    assert (tmp_path / "weights").read_text() == "weights"


def test_what_a_contestant_needs_is_found_in_its_options_and_variables(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("config.toml", "weights", "text"):
        Path(name).write_text("")
    link = tmp_path / "link"
    link.symlink_to("text")
    options = ["source/speedrun.py", "--config", "config.toml", f"--init-from={tmp_path}/weights", "--seed", "7"]
    paths = needed_paths(options, {"TEXT": str(link), "LANG": "C"})
    for name in ("source", "config.toml", "weights", "link", "text"):
        assert str(tmp_path / name) in paths
    assert {sys.prefix, sys.base_prefix} <= {*paths}
    assert str(tmp_path / "7") not in paths


@needs_namespaces
def test_arguments_and_variables_of_prepare_contestant_are_shown(tmp_path: Path) -> None:
    """The script lies in another folder than the file that is named in an option, and both lie in /tmp."""
    (tmp_path / "source").mkdir()
    script, given = tmp_path / "source" / "contestant.py", tmp_path / "given.txt"
    script.write_text("import sys\nsys.exit(open(sys.argv[1]).read() != 'given')\n")
    given.write_text("given")
    arguments = [str(script), str(given)]
    with closing(prepare_contestant(arguments, ENVIRONMENT, [], tmp_path / "results")) as process:
        assert process.is_isolated
        process.start()
        assert process.wait(30) == 0


# -----------------------------------------------------------------------------
# its end


@needs_namespaces
@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("raise SystemExit(3)", 3),
        ("import os; os.kill(os.getpid(), 9)", -9),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -15),
        ("import os, signal; os.kill(1, signal.SIGKILL); os.kill(1, signal.SIGINT)", 0),
    ],
)
def test_its_status_is_passed_on(code: str, status: int) -> None:
    with closing(isolated(code)) as process:
        process.start()
        assert process.wait(30) == status
        assert process.wait() == status
        assert process.end_remaining() == []


@needs_namespaces
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
@pytest.mark.parametrize("is_handled", [True, False])
def test_signals_reach_it_and_have_their_usual_effect(name: str, is_handled: bool, tmp_path: Path) -> None:
    number = getattr(signal, name)
    handler = "lambda number, _: exit(number)" if is_handled else "signal.SIG_DFL"
    code = f"import signal\nsignal.signal({int(number)}, {handler})\nopen('ready', 'w').close()\nsignal.pause()"
    code = f"import os; os.chdir({str(tmp_path)!r})\n{code}"
    with closing(isolated(code, shown=[str(tmp_path)], writable=[str(tmp_path)])) as process:
        process.start()
        wait_for(tmp_path / "ready")
        process.send_signal(number)
        assert process.wait(30) == (number if is_handled else -number)


@needs_namespaces
def test_it_can_be_killed_and_waiting_can_time_out() -> None:
    with closing(isolated("import time; time.sleep(60)")) as process:
        process.start()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.kill()
        assert process.wait(30) == -9


@needs_namespaces
def test_several_threads_can_wait_for_it() -> None:
    statuses: list[int] = []
    with closing(isolated("raise SystemExit(5)")) as process:
        threads = [threading.Thread(target=lambda: statuses.append(process.wait(30))) for _ in range(3)]
        for thread in threads:
            thread.start()
        process.start()
        for thread in threads:
            thread.join()
    assert statuses == [5, 5, 5]


@needs_namespaces
def test_a_process_that_hides_its_environment_is_named_and_ended(tmp_path: Path) -> None:
    """It has its own session and no variable, and its parent has ended."""
    starts = "import subprocess; subprocess.Popen(['sleep', '87654'], env={}, start_new_session=True)"
    with closing(isolated(starts)) as process:
        process.start()
        assert process.wait(30) == 0
        assert process.end_remaining() == ["sleep"]
    assert not commands_with("87654")


@needs_namespaces
def test_a_process_that_ends_by_itself_is_not_named() -> None:
    with closing(isolated("import subprocess; subprocess.Popen(['sleep', '0.05'])")) as process:
        process.start()
        assert process.wait(30) == 0
        assert process.end_remaining() == []


@needs_namespaces
@pytest.mark.parametrize("has_begun", [True, False])
def test_nothing_outlives_the_judge(has_begun: bool) -> None:
    process = IsolatedProcess(["sleep", "76543"], ENVIRONMENT)
    if has_begun:
        process.start()
        wait_for(lambda: commands_with("76543"))
    process.close()  # as when the judge's process ends
    assert not commands_with("76543")
    assert process.unshare.returncode == 0


@needs_namespaces
def test_the_end_of_the_whole_namespace_is_a_killed_contestant() -> None:
    with closing(isolated("import time; time.sleep(60)")) as process:
        process.start()
        process.unshare.kill()
        assert process.wait(30) == -9


def wait_for(condition: Any) -> None:
    """Wait until a file exists or a condition is true, for some seconds."""
    holds = condition.exists if isinstance(condition, Path) else condition
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def commands_with(argument: str) -> list[int]:
    """The ids of processes with an argument that no others have."""
    processes = psutil.process_iter(["cmdline"])
    return [process.pid for process in processes if argument in (process.info["cmdline"] or [])]


# -----------------------------------------------------------------------------
# without namespaces


@pytest.fixture
def no_answer_known() -> Iterator[None]:
    isolation_problem.cache_clear()
    yield
    isolation_problem.cache_clear()


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        (None, "there is no program `unshare`; it needs Linux and util-linux"),
        ("#!/bin/sh\necho no: never >&2\nexit 1\n", "no: never"),
        ("#!/bin/sh\nexec sleep 0.1\n", "the process printed no error message"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the program is not called")
def test_a_contestant_is_not_isolated_where_the_system_does_not_allow_it(
    program: str | None, problem: str, tmp_path: Path, monkeypatch, no_answer_known: None
) -> None:
    if program is not None:
        (tmp_path / "unshare").write_text(program)
        (tmp_path / "unshare").chmod(0o755)
    monkeypatch.setattr(isolation, "system_path", lambda: str(tmp_path) + (":/bin" if program else ""))
    assert isolation_problem() == problem
    script = tmp_path / "contestant.py"
    script.write_text("raise SystemExit(7)")
    process = prepare_contestant([str(script)], ENVIRONMENT | {"HOME": str(tmp_path)}, [], tmp_path, quietly=True)
    assert not process.is_isolated
    assert not process.is_started
    process.start()
    assert process.is_started
    assert process.wait(30) == 7
    assert process.end_remaining() == []
    process.close()


@needs_namespaces
def test_a_mount_that_fails_is_a_reason_and_not_an_error(tmp_path: Path) -> None:
    with pytest.raises(IsolationError, match="No such file or directory"):
        isolated("", shown=[str(tmp_path / "missing")])


@needs_namespaces
@pytest.mark.parametrize("script", ["/tmp/contestant.py", "/results/contestant.py"])
def test_source_in_a_folder_that_would_be_hidden_itself_is_not_isolated(script: str) -> None:
    assert not prepare_contestant([script], ENVIRONMENT, [], Path("/results")).is_isolated
