"""Device policy: the device, precision and kernel of an attempt, and checks of compilers."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from bench.errors import UnavailableHere, UsageError
from bench.machine.hardware import cpuinfo


def pick_device(name: str) -> torch.device:
    """Resolve `auto`, `cpu`, `cuda` or `mps`; `auto` is CUDA if available, else the CPU.

    MPS has to be requested: it has not been shown to be faster for models this small. Raises UnavailableHere.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = "cuda" if available["cuda"] else "cpu"
    if not available.get(name):
        raise UnavailableHere(f"there is no {name} device on this machine; use --device auto or --device cpu")
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> tuple[torch.dtype, str]:
    """Resolve `auto`, `bfloat16` or `float32` to the dtype of the matrix products; returns it and the reason."""
    native = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else True
    if name == "bfloat16" and not native:
        raise UnavailableHere("this GPU has no bfloat16; use --precision float32")
    if name != "auto":
        return getattr(torch, name), "requested"
    if device.type == "cuda":
        return (torch.bfloat16, "tensor cores") if native else (torch.float32, "this GPU has no bfloat16")
    if device.type != "cpu":
        return torch.float32, f"the safe choice on {device.type}"
    if torch.cpu._is_amx_tile_supported():
        return torch.bfloat16, "AMX"
    if has_fast_avx512_bf16():
        return torch.bfloat16, "AVX512-BF16"
    return torch.float32, "bfloat16 is no faster on this CPU"


def pick_kernel(name: str, device: torch.device, dtype: torch.dtype, model_problem: str | None) -> tuple[str, str]:
    """Resolve `auto`, `c` or `torch` to the kernel that computes the step; returns its name and the reason.

    `model_problem` says why the C kernel cannot compute this model; None if it can. Raises UsageError if the C kernel
    is requested and unavailable, UnavailableHere if the machine is the reason.
    """
    if name == "torch":
        return name, "requested"
    problem, error = model_problem, UsageError
    if device.type != "cpu":
        problem = "it computes on a CPU"
    elif sys.platform == "win32":
        problem, error = "it is not written for Windows", UnavailableHere
    elif dtype == torch.bfloat16 and not has_avx512_bf16():
        problem, error = "its bfloat16 products take a CPU with AVX512-BF16", UnavailableHere
    elif problem is None:
        source = BFLOAT16_SOURCE if dtype == torch.bfloat16 else PLAIN_SOURCE
        problem, error = compiler_problem("CC", *source), UnavailableHere
    if name == "c" and problem:
        raise error(f"--kernel c: {problem}; use --kernel auto")
    if problem:
        return "torch", f"no C kernel: {problem}"
    return "c", "requested" if name == "c" else "a CPU with a C compiler"


def pick_precision_and_kernel(
    precision: str, kernel: str, device: torch.device, model_problem: str | None
) -> tuple[torch.dtype, str, str]:
    """The dtype of the matrix products, the kernel, and a remark with the reasons; see the two functions above.

    On a CPU the C kernel is preferred to AMX with torch: its whole step takes a fraction of the time that torch spends
    between operations.
    """
    choices: list[tuple[torch.dtype, str]] = []
    if precision == "auto" and kernel != "torch" and device.type == "cpu":
        bfloat16 = [(torch.bfloat16, "AVX512-BF16, the C kernel's")] if has_fast_avx512_bf16() else []
        choices = [*bfloat16, (torch.float32, "the C kernel's")]  # the fastest first
    for dtype, dtype_reason in choices:  # noqa: B007, used after the loop
        name, reason = pick_kernel("auto", device, dtype, model_problem)
        if name == "c":
            reason = "requested" if kernel == "c" else reason
            break
    else:
        dtype, dtype_reason = pick_precision(precision, device)
        name, reason = pick_kernel(kernel, device, dtype, model_problem)
    return dtype, name, f"{str(dtype).removeprefix('torch.')} ({dtype_reason}), kernel {name} ({reason})"


def has_avx512_bf16() -> bool:
    return "avx512_bf16" in cpuinfo().get("flags", "").split()


def has_fast_avx512_bf16() -> bool:
    # AMD's processors execute twice as many multiply-adds a cycle in bfloat16 as in float32, Intel's the same number.
    return cpuinfo().get("vendor_id") == "AuthenticAMD" and has_avx512_bf16()


# Environment variable that may name a compiler -> its language, the suffix of a source file, the default compiler.
COMPILERS = {"CC": ("C", ".c", "cc"), "CXX": ("C++", ".cpp", "cl" if sys.platform == "win32" else "g++")}
# A source that a usable compiler can compile, and the options for it.
PLAIN_SOURCE = "#include <math.h>\nint main(void) { return 0; }\n", ""
BFLOAT16_SOURCE = "#include <math.h>\n#ifndef __AVX512BF16__\n#error no AVX512-BF16\n#endif\n", "-march=native"


def torch_compile_problem(device: torch.device) -> str | None:
    """Why torch.compile cannot work on this machine; None if it can. Runs the compiler that it would call."""
    if device.type == "cuda":
        try:
            import triton  # noqa: F401
        except ImportError:
            return "triton is not installed"
        return compiler_problem("CC", *PLAIN_SOURCE)  # triton compiles its launchers with it
    return compiler_problem("CXX", *PLAIN_SOURCE)


def compiler_problem(variable: str, source: str, options: str) -> str | None:
    """Why the compiler of a variable in COMPILERS cannot compile `source` with some options; None if it can."""
    language, suffix, default = COMPILERS[variable]
    compiler = os.environ.get(variable, "").strip() or default
    if shutil.which(compiler.split()[0]) is None:
        return f"the {language} compiler {compiler!r} was not found (install one, or set {variable})"
    if sys.platform == "win32":
        return None
    with tempfile.TemporaryDirectory() as folder:
        source_file, object_file = Path(folder, "probe" + suffix), Path(folder, "probe.o")
        source_file.write_text(source)
        command = [*compiler.split(), *options.split(), "-c", str(source_file), "-o", str(object_file)]
        result = subprocess.run(command, capture_output=True, text=True)
    message = (result.stderr.splitlines() or ["no message"])[0]
    return f"the {language} compiler {compiler!r} does not work: {message}" if result.returncode else None
