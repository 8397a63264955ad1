"""The processor: its name and features, and the cores that this process may use. Imports no torch."""

import functools
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

from bench.machine.control_group import group_folders, read_words
from bench.processes import CORES

T = TypeVar("T")


def value_or_none(read: Callable[[], T]) -> T | None:
    """The value that `read` returns; None if it raises any exception, as systems differ in which one."""
    try:
        return read()
    except Exception:
        return None


def cpuinfo() -> dict[str, str]:
    """The entry of the first processor in /proc/cpuinfo; empty where there is no such file."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_name(info: dict[str, str]) -> str | None:
    if "model name" in info:
        return info["model name"]
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        answer = value_or_none(lambda: subprocess.run(command, capture_output=True, text=True).stdout.strip())
        return answer or None
    return platform.processor() or None


def usable_cores() -> tuple[int, ...]:
    """The numbers of the cores that this process may run on; empty if unknown."""
    return CORES if CORES is not None else tuple(range(value_or_none(psutil.cpu_count) or 0))


def has_avx512_bf16() -> bool:
    return "avx512_bf16" in cpuinfo().get("flags", "").split()


def has_fast_avx512_bf16() -> bool:
    # AMD's processors execute twice as many multiply-adds a cycle in bfloat16 as in float32, Intel's the same number.
    return cpuinfo().get("vendor_id") == "AuthenticAMD" and has_avx512_bf16()


@functools.cache
def blas_lacks_avx512() -> bool:
    """Whether torch's matrix products may lack AVX-512: MKL uses it on Intel's processors only."""
    return cpuinfo().get("vendor_id") != "GenuineIntel"


@functools.cache
def level2_cache_bytes() -> int | None:
    """The size of a core's second-level cache; None if unknown."""
    path = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")  # such as `2048K`
    return value_or_none(lambda: int(path.read_text().strip().removesuffix("K")) * 1024)


def quota() -> float | None:
    """The number of cores whose time the control group of this process may use; None without a limit, or if unknown.

    Reads `cpu.max` of control groups version 2, of this group and those that contain it.
    """
    limits = []
    for folder in group_folders():
        words = read_words(folder / "cpu.max") or ["max"]
        if words[0] != "max":
            limits.append(int(words[0]) / int(words[1]))
    return min(limits, default=None)


def default_threads() -> int:
    """The number of threads to compute with: of usable cores, or fewer where a control group limits their time."""
    cores, limit = len(usable_cores()) or 1, quota()
    return cores if limit is None else max(1, min(cores, int(limit)))
