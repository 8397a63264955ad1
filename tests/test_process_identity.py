"""The identity of a process: alive, ended, its id used again, or of another system."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import process_identity
from bench.process_identity import ProcessIdentity, current_process, has_ended, identify


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until it is killed."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def identity_of(process: subprocess.Popen[bytes]) -> ProcessIdentity:
    identity = identify(process.pid)
    assert identity is not None
    return identity


def test_a_running_process_has_not_ended_and_a_killed_one_has(child: subprocess.Popen[bytes]) -> None:
    identity = identity_of(child)
    assert has_ended(identity) is False
    child.kill()
    child.wait()
    assert has_ended(identity) is True
    assert identify(child.pid) is None


@pytest.mark.skipif(os.name != "posix", reason="zombies")
def test_a_killed_process_has_ended_before_its_parent_asks_for_its_status(child: subprocess.Popen[bytes]) -> None:
    identity = identity_of(child)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert has_ended(identity) is True


def test_a_process_whose_id_is_used_again_has_ended() -> None:
    identity = current_process()
    assert identity is not None
    assert has_ended(identity) is False
    assert has_ended(dataclasses.replace(identity, started="1")) is True


@pytest.mark.parametrize("change", [{"boot": "another"}, {"namespace": "pid:[1]"}])
def test_a_process_of_another_boot_or_container_cannot_be_checked(change: dict[str, Any]) -> None:
    identity = current_process()
    assert identity is not None
    assert has_ended(dataclasses.replace(identity, **change)) is None


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_without_proc_a_process_has_no_identity_and_cannot_be_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = current_process()
    assert identity is not None
    monkeypatch.setattr(process_identity, "PROC", tmp_path)
    assert current_process() is None
    assert has_ended(identity) is None


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_hidden_process_of_another_user_cannot_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = current_process()
    assert identity is not None

    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(process_identity, "start_time", lambda pid: None)  # as /proc mounted with hidepid=2
    monkeypatch.setattr(os, "kill", refuse)
    assert has_ended(identity) is None
