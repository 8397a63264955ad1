"""The lock of a device: between processes, between users, and where it cannot be used."""

import errno
import os
import stat
import time
from pathlib import Path

import filelock
import pytest
import torch
from filelock import FileLock, Timeout

from bench.attempt.plan import make_plan
from bench.errors import UsageError
from bench.machine import device_lock as module
from bench.machine.device_lock import check_device_lock, device_lock, find_holder
from bench.process_identity import current_process
from settings import Settings

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
LOCK = "addition-speedrun-cpu.lock"


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for lock files; the real lock may be held by an attempt."""
    monkeypatch.setattr(module, "LOCKS", tmp_path)
    return tmp_path


class WouldWait(Exception):
    pass


def refuse_to_wait() -> None:
    raise WouldWait


def test_two_attempts_never_hold_the_lock_of_one_device(locks: Path) -> None:
    with device_lock(CPU):
        with pytest.raises(WouldWait), device_lock(CPU, refuse_to_wait):
            pytest.fail("the lock was held twice")
        with device_lock(CUDA, refuse_to_wait):
            assert len(list(locks.iterdir())) == 2
    with device_lock(CPU, refuse_to_wait):
        pass


def test_who_waits_is_told_which_process_holds_the_lock_and_for_how_long(locks: Path) -> None:
    with device_lock(CPU):
        os.utime(locks / LOCK, (0, time.time() - 100))
        holder = find_holder(CPU)
        if current_process() is not None:
            assert holder == (os.getpid(), pytest.approx(100, abs=20))
        (locks / LOCK).write_text('{"pid": "of another user"}')
        assert find_holder(CPU) is None


def test_the_lock_excludes_attempts_of_older_harnesses(locks: Path) -> None:
    older = FileLock(locks / LOCK, mode=0o666)
    with older, pytest.raises(WouldWait), device_lock(CPU, refuse_to_wait):
        pytest.fail("the lock was held twice")
    with device_lock(CPU), pytest.raises(Timeout):
        older.acquire(timeout=0)


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_another_user_can_wait_for_the_device_lock(locks: Path) -> None:
    before = os.umask(0o022)
    try:
        with device_lock(CPU):
            assert stat.S_IMODE((locks / LOCK).stat().st_mode) == 0o666
    finally:
        os.umask(before)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
def test_the_lock_file_of_another_user_in_a_folder_like_tmp_is_used(locks: Path) -> None:
    locks.chmod(0o1777)
    os.chown(locks, 65534, 65534)
    (locks / LOCK).touch()
    os.chown(locks / LOCK, 1, 1)
    with device_lock(CPU), pytest.raises(WouldWait), device_lock(CPU, refuse_to_wait):
        pytest.fail("the lock was held twice")


def test_a_lock_file_that_can_only_be_read_is_used(locks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (locks / LOCK).touch()
    real_open = os.open

    def open_read_only(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real_open(path, flags, mode)

    monkeypatch.setattr(os, "open", open_read_only)
    with device_lock(CPU), pytest.raises(WouldWait), device_lock(CPU, refuse_to_wait):
        pytest.fail("the lock was held twice")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.ENOENT])
def test_a_lock_that_cannot_be_opened_is_a_wrong_request_with_a_way_out(
    code: int, locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    for use in (check_device_lock, lambda device: device_lock(device).__enter__()):
        with pytest.raises(UsageError, match=f"{locks / LOCK}: {os.strerror(code)}.*--shared"):
            use(CPU)


def test_a_folder_without_locks_is_a_wrong_request_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **options: object) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock, "lock_descriptor", refuse)
    with pytest.raises(UsageError, match=r"No locks available.*--shared"), device_lock(CPU):
        pytest.fail("the lock was held")


def test_a_lock_that_cannot_be_opened_refuses_a_plan_unless_it_is_shared(locks: Path) -> None:
    (locks / LOCK).mkdir()
    with pytest.raises(UsageError, match="Is a directory"):
        make_plan(Settings, ["--device", "cpu"], "")
    assert make_plan(Settings, ["--device", "cpu", "--shared"], "").request.shared
