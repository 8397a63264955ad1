"""Whether the compilers work that torch.compile and the C kernels call. Imports no torch."""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# Environment variable that may name a compiler -> its language, the suffix of a source file, the default compiler.
COMPILERS = {"CC": ("C", ".c", "cc"), "CXX": ("C++", ".cpp", "cl" if sys.platform == "win32" else "g++")}
SOURCE = "#include <math.h>\ndouble probe(double x) { return sqrt(x); }\n"


def torch_compile_problem(device_type: str) -> str | None:
    """Why torch.compile cannot work on this machine; None if it can. Runs the compiler that it would call."""
    if device_type == "cuda":
        try:
            import triton  # noqa: F401
        except ImportError:
            return "triton is not installed"
        return compiler_problem("CC")  # triton compiles its launchers with it
    return compiler_problem("CXX")


def compiler_problem(variable: str) -> str | None:
    """Why the compiler of a variable in COMPILERS cannot make a library that this process can load; None if it can."""
    language, suffix, default = COMPILERS[variable]
    compiler = os.environ.get(variable, "").strip() or default
    if shutil.which(compiler.split()[0]) is None:
        return f"the {language} compiler {compiler!r} was not found (install one, or set {variable})"
    if sys.platform == "win32":
        return None
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, library = Path(folder, "probe" + suffix), Path(folder, "probe.so")
            source.write_text(SOURCE)
            command = [*compiler.split(), "-shared", "-fPIC", str(source), "-o", str(library), "-lm"]
            result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
            if result.returncode:
                message = (result.stderr.decode(errors="replace").splitlines() or ["no message"])[0]
                return f"the {language} compiler {compiler!r} does not work: {message}"
            ctypes.CDLL(str(library))
    except OSError as problem:
        reason = problem.strerror or str(problem).rpartition(": ")[2]
        return f"what the {language} compiler {compiler!r} makes cannot be loaded: {reason} (is TMPDIR usable?)"
    return None
