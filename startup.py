"""The start and the end of the process: signals, the compiler, garbage collection, memory. Imports no torch."""

import ctypes
import gc
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import kernel_compiler
from bench import entry
from bench.interrupts import NOTHING_FILED, exit_on_interrupts
from bench.judge.protocol import DESCRIPTOR_VARIABLE
from bench.processes import BATCH_VARIABLE, restore_cores
from bench.streams import print_error

# Matrix products on a CPU for which torch and oneDNN keep code and buffers: more than a step has. Their default, 1,024,
# takes several hundred megabytes where texts of many lengths are evaluated and decoded.
CACHED_PRIMITIVES = 64


def before_imports(arguments: Sequence[str], description: str) -> None:
    """Prepare for the slow import of torch, beside which the C compiler works.

    An interrupt exits with status 130 and one line. A wrong request exits with status 2, `--help` with 0. The
    garbage collector is off, because it would traverse the imported modules again and again without finding garbage.
    """
    is_of_command = not os.environ.keys().isdisjoint((BATCH_VARIABLE, DESCRIPTOR_VARIABLE))  # which prints its own line
    message = "" if is_of_command else f"{entry.program_name()}: {NOTHING_FILED}"
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # read when torch is imported
        os.environ.setdefault(name, str(CACHED_PRIMITIVES))
    exit_on_interrupts(kernel_compiler.stop_all, message)
    gc.disable()

    from bench.attempt.before_torch import prepare
    from bench.errors import UsageError
    from settings import Settings

    try:
        prepare(Settings, arguments, description)
    except UsageError as problem:
        print_error(f"{entry.program_name()}: {problem}")
        leave(2)


def after_imports() -> None:
    """Turn the garbage collector on, exempt the imported modules from it, and undo OpenMP's binding of this thread."""
    restore_cores()
    gc.freeze()
    gc.enable()


def leave(status: int) -> NoReturn:
    """End the process at once, and the compiler with it if it is still working."""
    kernel_compiler.stop_all()
    entry.leave(status)


def keep_freed_memory() -> None:
    """Make glibc's malloc keep freed memory instead of returning it to the operating system.

    A step allocates and frees the same large buffers again and again. By default each allocation is a new mapping,
    whose pages the operating system clears. Has no effect with other C libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # constants of malloc.h
        mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25)  # older versions reject larger values
        mallopt(trim_threshold, 2**31 - 1)
