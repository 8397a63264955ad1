"""The first process of a contestant's namespaces: it hides folders, starts the contestant, and reports its end.

`bench.judge.isolation` runs it as `unshare … python -I -S namespace_init.py DESCRIPTOR`. It uses the standard library
alone. The descriptor is a SOCK_SEQPACKET socket, whose other end the judge holds:

- The judge sends the request, JSON with the keys `private`, `hidden`, `shown`, `writable`, `command` and
  `descriptors`; see `IsolatedProcess`.
- The answer is `{}` once everything is prepared, or `{"problem": REASON}`.
- The judge sends the byte 0, which starts the command; after it, the number of each signal for the command, as a byte.
- When the command has ended, the answer is its `status`, negative for a signal, and the names of the processes that it
  has left running, `left_behind`.

The end of this process ends all others of its namespaces. It ends when the judge closes the socket, too, so nothing
outlives a judge that is killed.
"""

import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MESSAGE_BYTES = 1 << 20
GRACE_SECONDS = 0.2  # for processes that end by themselves once the contestant has ended
# of linux/mount.h
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 8, 32, 4096, 16384
KEPT_FLAGS = MS_NOSUID | MS_NODEV | MS_NOEXEC  # a user namespace may not remove them
# The system call mount_setattr(2) of Linux 5.12 and later, which has no function in older C libraries.
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
PR_CAPBSET_DROP = 24  # of linux/prctl.h
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1  # of linux/sockios.h and linux/if.h
INTERFACE_FLAGS = "16sh22x"  # struct ifreq: the name and the flags of a network interface

libc = ctypes.CDLL(None, use_errno=True)


def main(control: socket.socket) -> None:
    request = json.loads(control.recv(MESSAGE_BYTES))
    try:
        hide(request["private"], request["hidden"], request["shown"])
        make_read_only([*request["private"], *request["writable"]])
        start_loopback()
        drop_capabilities()
    except OSError as problem:
        return send(control, problem=str(problem))
    send(control)
    if control.recv(1) != b"\0":
        return None  # the judge does not want it any more
    process = subprocess.Popen(request["command"], pass_fds=request["descriptors"])
    if wait(process, control):
        send(control, status=process.returncode, left_behind=remaining_processes())
    return None


def send(control: socket.socket, **answer: Any) -> None:
    control.send(json.dumps(answer).encode())


def wait(process: subprocess.Popen[bytes], control: socket.socket) -> bool:
    """Wait for the end of a process and send it the judge's signals; False if the judge has closed the socket."""
    ended = os.pidfd_open(process.pid)
    sources: list[Any] = [control, ended]
    while ended not in select.select(sources, [], [])[0]:
        number = control.recv(1)
        if not number:
            return False
        process.send_signal(number[0])
    process.wait()
    return True


def remaining_processes() -> list[str]:
    """The names of the processes of this namespace that are running, this one excepted; waits for some to end."""
    deadline = time.monotonic() + GRACE_SECONDS
    while (names := running_processes()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return names


def running_processes() -> list[str]:
    names = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, fields = path.read_text(errors="replace").partition(" (")[2].rpartition(") ")
        except OSError:
            continue  # it has ended
        if path.parent.name != str(os.getpid()) and fields[0] not in "ZX":  # zombie or dead
            names.append(name)
    return names


# -----------------------------------------------------------------------------
# preparing the namespaces


def hide(private: list[str], hidden: list[str], shown: list[str]) -> None:
    """Mount an empty file system on each folder, and in it what is to be shown of its old content; raises OSError.

    `private` folders can be written to, `hidden` ones cannot.
    """
    contents = {path: os.open(path, os.O_PATH) for path in sorted(shown)}  # sorted: folders before their content
    current = os.getcwd()
    for folder in filter(os.path.isdir, (*private, *hidden)):  # hidden folders may lie in private ones
        mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
        for path, descriptor in contents.items():
            if path.startswith(f"{folder}/") and not os.path.exists(path):
                make_mount_point(path, is_folder=os.path.isdir(f"/proc/self/fd/{descriptor}"))
                mount(f"/proc/self/fd/{descriptor}", path, "", MS_BIND | MS_REC)
                if folder in hidden:
                    mount("", path, "", MS_REMOUNT | MS_BIND | MS_RDONLY | os.statvfs(path).f_flag & KEPT_FLAGS)
        if folder in hidden:
            mount("tmpfs", folder, "", MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)
    for descriptor in contents.values():
        os.close(descriptor)
    os.makedirs(current, exist_ok=True)
    os.chdir(current)  # else it would still be the folder below the mounted file system


def make_mount_point(path: str, is_folder: bool) -> None:
    os.makedirs(path if is_folder else os.path.dirname(path), exist_ok=True)
    if not is_folder:
        Path(path).touch()


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """The system call mount(2); raises OSError."""
    texts = [os.fsencode(text) for text in (source, target, kind)]
    if libc.mount(*texts, ctypes.c_ulong(flags), os.fsencode(options)):
        raise latest_error(target)


def make_read_only(writable: list[str]) -> None:
    """Let nothing be written to a file system but in these folders; devices stay as they are. Raises OSError.

    So a contestant leaves nothing behind that a later one could read.
    """
    folders = list(filter(os.path.isdir, writable))
    for folder in folders:
        mount(folder, folder, "", MS_BIND | MS_REC)  # the attribute is one of a whole mount
    set_mount_attributes("/", AT_RECURSIVE, MOUNT_ATTR_RDONLY, 0)
    for folder in folders:
        set_mount_attributes(folder, 0, 0, MOUNT_ATTR_RDONLY)


def set_mount_attributes(path: str, flags: int, added: int, removed: int) -> None:
    """The system call mount_setattr(2); raises OSError."""
    attributes = struct.pack("4Q", added, removed, 0, 0)  # struct mount_attr
    if libc.syscall(
        SYS_MOUNT_SETATTR, AT_FDCWD, os.fsencode(path), flags, attributes, ctypes.c_size_t(len(attributes))
    ):
        raise latest_error(path)


def latest_error(path: str) -> OSError:
    """The error of the system call that has just failed for a path."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)


def start_loopback() -> None:
    """Set the network interface of this machine itself up; the network namespace has no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack(INTERFACE_FLAGS, b"lo", 0))
        _, flags = struct.unpack(INTERFACE_FLAGS, answer)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack(INTERFACE_FLAGS, b"lo", flags | IFF_UP))


def drop_capabilities() -> None:
    """Let no child of this process have a capability, by which it could undo the mounts; see capabilities(7)."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "the capabilities cannot be dropped")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the contestant could send it; by default it has no effect here
    judge = socket.socket(fileno=int(sys.argv[1]))
    judge.set_inheritable(False)
    main(judge)
