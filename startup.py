"""The start of the process: signals, streams, garbage collection and memory allocation. Imports no torch."""

import ctypes
import gc
import sys

from bench.entry import prepare_process


def before_imports() -> None:
    """Prepare for the slow imports.

    Ctrl-C exits with status 130 and no traceback. The garbage collector is off, because it would traverse the imported
    modules again and again without finding garbage.
    """
    prepare_process()
    gc.disable()


def after_imports() -> None:
    """Turn the garbage collector on, and exempt the imported modules from it."""
    gc.freeze()
    gc.enable()


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
