"""Compile kernel.c in a child process, which also loads the result and runs it on one text. Imports no torch.

The child process can work while this process imports torch. A compiled kernel that cannot be loaded, or that crashes
on this processor, fails there. `python kernel_compiler.py FOLDER CONSTANTS PARENT` is the child's command.
"""

import ctypes
import functools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

SOURCE = Path(__file__).with_name("kernel.c")
# The compiler gets the first of these that it accepts. With gcc, -O3 takes three times as long to compile and is not
# faster. clang has no option for the cost model and, on some machines, another option for the native processor.
OPTIONS = (
    "-O2 -ftree-vectorize -fvect-cost-model=dynamic -fno-inline -march=native",
    "-O3 -march=native",
    "-O3 -mcpu=native",
    "-O3",
)
# -ffast-math allows sums in any order, as torch does.
LIBRARY = "-std=c11 -ffast-math -shared -fPIC -nostartfiles".split()

ANNOUNCED_SECONDS, MAX_SECONDS = 10, 90  # of waiting for the child

Constants = dict[str, int | float]  # see `ModelConfig.kernel_constants`


class Compilation:
    """A kernel that a child process is compiling. The child starts with the object; `library` waits for its end."""

    running: ClassVar["set[Compilation]"] = set()

    def __init__(self, compiler: str, constants: Constants) -> None:
        self.seconds: float | None = None  # from the child's start to its end, in which other work may go on
        self.loaded: ctypes.CDLL | None = None
        self.problem: str | None = None
        try:
            self.folder = tempfile.mkdtemp(prefix="addition-speedrun-")
            self.child = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, self.folder, json.dumps(constants), str(os.getpid())],
                env=os.environ | {"CC": compiler, "TMPDIR": self.folder},  # the compiler's own files go there, too
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # so that `stop` reaches the compiler as well
            )
        except OSError as problem:
            self.problem = f"the C compiler did not start: {problem}"
            return
        self.running.add(self)

    def library(self) -> ctypes.CDLL:
        """Wait for the child, and load the kernel; raises RuntimeError, with one line, if that is impossible."""
        if self in self.running:
            self.read_answer(self.wait())
            self.remove_folder()
        if self.loaded is None:
            raise RuntimeError(self.problem)
        return self.loaded

    def wait(self) -> bytes:
        """The child's output; empty if it took too long and was stopped."""
        try:
            return self.child.communicate(timeout=ANNOUNCED_SECONDS)[0]
        except subprocess.TimeoutExpired:
            print(f"waiting for the C compiler, for {MAX_SECONDS} s at most", file=sys.stderr, flush=True)
        try:
            return self.child.communicate(timeout=MAX_SECONDS - ANNOUNCED_SECONDS)[0]
        except subprocess.TimeoutExpired:
            self.stop()
            self.problem = f"the C compiler did not end within {MAX_SECONDS} s"
            return b""

    def read_answer(self, output: bytes) -> None:
        try:
            answer = json.loads(output)
            self.problem, self.seconds = answer["problem"], answer["seconds"]
        except ValueError:  # the child ended without an answer
            if self.problem is not None:
                return
            status = self.child.returncode
            reason = signal.Signals(-status).name if status < 0 else f"status {status}"
            self.problem = f"the compiled kernel crashed ({reason}); does the compiler make code for this processor?"
        if self.problem is None:
            try:
                self.loaded = load(self.folder)
            except OSError as problem:
                self.problem = load_problem(problem)

    def stop(self) -> None:
        """Kill the child and its compiler, if they are still running, and remove their files."""
        if self in self.running:
            try:
                os.killpg(self.child.pid, signal.SIGKILL)
            except (OSError, AttributeError):  # it has ended; Windows has no process groups
                self.child.kill()
            self.child.wait()
            self.remove_folder()

    def remove_folder(self) -> None:  # a loaded library stays in memory
        self.running.discard(self)
        shutil.rmtree(self.folder, ignore_errors=True)


def stop_all() -> None:
    """Stop all compilations that nobody has waited for; called before a process ends at once."""
    for compilation in list(Compilation.running):
        compilation.stop()


def compilation(constants: Constants) -> Compilation:
    """The compilation of `kernel.c` with these constants, by the environment's CC or cc; it is started only once."""
    return cached_compilation(os.environ.get("CC", "").strip() or "cc", tuple(constants.items()))


@functools.cache
def cached_compilation(compiler: str, constants: tuple[tuple[str, int | float], ...]) -> Compilation:
    return Compilation(compiler, dict(constants))


def load(folder: str) -> ctypes.CDLL:
    """Load the compiled kernel; raises OSError."""
    library = ctypes.CDLL(os.path.join(folder, "kernel.so"))
    library.table_size.restype = library.sums_size.restype = ctypes.c_int64
    library.train.restype = ctypes.c_double
    return library


def load_problem(problem: OSError) -> str:
    reason = str(problem).rpartition(": ")[2]
    return f"the compiled kernel cannot be loaded: {reason} (set TMPDIR to a folder that allows executable files)"


# -----------------------------------------------------------------------------
# in the child process


def main(folder: str, constants: Constants, parent: int) -> None:
    """Compile, load and run the kernel; print a JSON object with the seconds and the problem, null if there is none."""
    begun = time.perf_counter()
    problem = compile_kernel(folder, constants, os.environ["CC"].split())
    if problem is None:
        try:
            problem = run_on_one_text(load(folder), constants)
        except OSError as error:
            problem = load_problem(error)
    if os.getppid() != parent:  # it was killed and leaves the folder to this process
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(json.dumps({"problem": problem, "seconds": time.perf_counter() - begun}))


def compile_kernel(folder: str, constants: Constants, compiler: list[str]) -> str | None:
    """Compile kernel.c to kernel.so in `folder`; returns the problem in one line, None without one."""
    definitions = [f"-D{name}={value}" for name, value in constants.items()]
    arguments = [*LIBRARY, *definitions, str(SOURCE), "-o", os.path.join(folder, "kernel.so"), "-lm"]
    messages: dict[str, None] = {}  # the first line of each failure; a dict drops repetitions and keeps the order
    for options in OPTIONS:
        try:
            result = subprocess.run([*compiler, *options.split(), *arguments], capture_output=True)
        except FileNotFoundError:
            return f"the C compiler {' '.join(compiler)!r} was not found (install one, or set CC)"
        except OSError as error:
            return f"the C compiler did not start: {error}"
        if not result.returncode:
            return None
        messages[(result.stderr.decode(errors="replace").splitlines() or ["no message"])[0]] = None
    return f"the C compiler {' '.join(compiler)!r} failed: {'; '.join(messages)}"


def run_on_one_text(library: Any, constants: Constants) -> str | None:
    """Compute the losses of a text with zero weights, with which all characters are equally likely."""
    V, C, H = int(constants["V"]), int(constants["NH"] * constants["HS"]), int(constants["H"])
    T = 2
    sizes = V * C, T * C, 3 * C * C, C * C, H * C, C * H, V * C  # as in `kernel.Weights`
    weights = [(ctypes.c_float * size)() for size in sizes]
    addresses = (ctypes.c_void_p * len(weights))(*map(ctypes.addressof, weights))
    table, losses = (ctypes.c_float * library.table_size(T))(), (ctypes.c_float * T)()
    text, margins, barrier = (ctypes.c_uint8 * (T + 1))(), (ctypes.c_float * T)(), (ctypes.c_int * 3)()
    table_address = ctypes.c_void_p(ctypes.addressof(table))
    library.prepare(0, 1, barrier, T, addresses, table_address)
    library.evaluate(0, 1, T, 0, ctypes.c_int64(1), text, addresses, table_address, losses, margins)
    if any(not math.isclose(loss, math.log(V), rel_tol=1e-3, abs_tol=1e-3) for loss in losses):
        return f"the compiled kernel computes wrong results: a loss of {losses[0]:.4f} in place of {math.log(V):.4f}"
    return None


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]))
