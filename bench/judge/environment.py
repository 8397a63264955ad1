"""What a judged contestant finds around it: a clean environment, and no process of an earlier one."""

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.processes import TEXT_VARIABLE

# Variables that a contestant inherits: how to write text, which devices and cores it may use, and the file of a text.
KEPT = (
    *("LANG", "LC_ALL", "LC_CTYPE", "TERM", "COLUMNS", "LINES", "NO_COLOR", "TZ", "SYSTEMROOT"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "OMP_NUM_THREADS"),
    TEXT_VARIABLE,
)
PR_SET_CHILD_SUBREAPER = 36  # of linux/prctl.h


class Compiler(NamedTuple):
    """The C compiler that a contestant gets."""

    path: str
    version: str | None  # the first line that it prints about itself
    sha256: str  # of the file


@functools.cache
def find_compiler() -> Compiler | None:
    """The C compiler in the system's own PATH, so that no program of the user's takes its place; None without one.

    It is the one that the environment's CC names, by its file name alone, else `cc`. Only on a machine that has no
    compiler there, it is that of CC or of the user's PATH. A command of several words is ignored.
    """
    words = shlex.split(os.environ.get("CC", ""))
    named = words[0] if len(words) == 1 else "cc"
    candidates = (os.path.basename(named), system_path()), ("cc", system_path()), (named, None)
    path = next((path for name, where in candidates if (path := shutil.which(name, path=where))), None)
    if path is None:
        return None
    path = os.path.realpath(path)
    version = None
    with suppress(OSError):
        shown = subprocess.run([path, "--version"], capture_output=True, text=True, errors="replace").stdout
        version = next(iter(shown.splitlines()), None)
    return Compiler(path, version, hashlib.sha256(Path(path).read_bytes()).hexdigest())


def system_path() -> str:
    """The system's own PATH."""
    with suppress(AttributeError, ValueError, OSError):
        return os.confstr("CS_PATH") or os.defpath
    return os.defpath


@contextmanager
def clean_environment() -> Iterator[dict[str, str]]:
    """The environment of a contestant, with a home and a temporary folder that are its own, and empty.

    The user's own site-packages stay reachable; no other variable of Python, of the dynamic linker or of a compiler is
    passed on.
    """
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    if kept.get(TEXT_VARIABLE):
        kept[TEXT_VARIABLE] = os.path.abspath(kept[TEXT_VARIABLE])
    kept |= {"PYTHONUSERBASE": site.getuserbase()} if site.ENABLE_USER_SITE else {"PYTHONNOUSERSITE": "1"}
    if (compiler := find_compiler()) is not None:
        kept["CC"] = compiler.path
    with tempfile.TemporaryDirectory(prefix="addition-speedrun-", ignore_cleanup_errors=True) as folder:
        home, temporary = Path(folder, "home"), Path(folder, "tmp")
        home.mkdir()
        temporary.mkdir()
        yield {**kept, "PATH": system_path(), "HOME": str(home), "TMPDIR": str(temporary)}


def adopt_orphans() -> None:
    """Become the parent of processes whose own parent has ended, so that `remaining_processes` finds them (Linux)."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_remaining_processes(home: str) -> list[str]:
    """Kill the processes that an attempt with this home folder has left behind; returns their names."""
    names = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.environ().get("HOME") == home:
                names.append(process.name())
                process.kill()
                process.wait(timeout=5)
    return names
