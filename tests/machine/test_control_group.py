"""The control groups of this process."""

from pathlib import Path

import pytest

from bench.machine import control_group


def folders_of(cgroup: str, controller: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(Path, "read_text", lambda path: cgroup)
    return [folder.as_posix() for folder in control_group.group_folders(controller)]


@pytest.mark.parametrize(
    ("cgroup", "controller", "expected"),
    [
        ("0::/a/b\n", "", ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup"]),
        ("0::/\n", "", ["/sys/fs/cgroup"]),
        ("0::/a\n", "memory", []),
        ("9:name=systemd:/\n5:cpu,memory:/x\n0::/\n", "memory", ["/sys/fs/cgroup/memory/x", "/sys/fs/cgroup/memory"]),
        ("", "", []),
    ],
)
def test_the_folders_are_those_of_the_own_group_and_all_around_it(
    cgroup: str, controller: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert folders_of(cgroup, controller, monkeypatch) == expected
