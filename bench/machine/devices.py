"""Device policy: which device, precision and kernel an attempt uses, and the device lock."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from filelock import FileLock

from bench.machine.hardware import cpuinfo

# -----------------------------------------------------------------------------
# using it


class Missing(ValueError):
    """This machine has not got it; another may have."""


def pick_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `mps` to a device that is there; auto takes CUDA, else the CPU.

    MPS has to be asked for: no attempt has shown yet that it pays for models as small as these.

    Raises:
        Missing: the device asked for is not on this machine.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = "cuda" if there["cuda"] else "cpu"
    if not there.get(name):
        raise Missing(f"there is no {name} device on this machine; use --device auto or --device cpu")
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> tuple[torch.dtype, str]:
    """`auto`, `bfloat16` or `float32` to a dtype, and the reason for the choice.

    Raises:
        Missing: bfloat16 was asked for on a GPU that has none.
    """
    native = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else True
    if name == "bfloat16" and not native:
        raise Missing("this GPU has no bfloat16; use --precision float32")
    if name != "auto":
        return getattr(torch, name), "asked for"
    if device.type == "cuda":
        return (torch.bfloat16, "tensor cores") if native else (torch.float32, "this GPU has no bfloat16")
    if device.type == "cpu":
        if torch.cpu._is_amx_tile_supported():
            return torch.bfloat16, "AMX"
        if has_fast_avx512_bf16():
            return torch.bfloat16, "AVX512-BF16"
        return torch.float32, "bfloat16 is no faster on this CPU"
    return torch.float32, f"the safe choice on {device.type}"


# The same for all users and their environments, who may each have a folder of temporary files of their own.
LOCKS = Path(tempfile.gettempdir() if sys.platform == "win32" else "/tmp")


def device_lock(device: torch.device) -> FileLock:
    """The machine-wide advisory lock that a timed attempt holds, so that two never share a device; each GPU has one."""
    name = device.type
    if device.type == "cuda" and torch.cuda.is_available():
        name += f"-{torch.cuda.get_device_properties(device).uuid}"
    return FileLock(LOCKS / f"addition-speedrun-{name}.lock", mode=0o666)


def pick_kernel(name: str, device: torch.device, dtype: torch.dtype, problem: str | None) -> tuple[str, str]:
    """`auto`, `c` or `torch` to what computes the step, and the reason for the choice.

    Args:
        problem: why the C kernel cannot compute such a model, if so.

    Raises:
        ValueError: the C kernel was asked for and cannot be had; Missing where the machine is the reason.
    """
    if name == "torch":
        return name, "asked for"
    fault: type[ValueError] = ValueError
    if device.type != "cpu":
        problem = "it computes on a CPU"
    elif sys.platform == "win32":
        problem, fault = "it is not written for Windows", Missing
    elif dtype == torch.bfloat16 and not has_avx512_bf16():
        problem, fault = "its bfloat16 products take a CPU with AVX512-BF16", Missing
    elif problem is None:
        probe = BFLOAT16_PROBE if dtype == torch.bfloat16 else PROBE
        problem, fault = compiler_fault("CC", "cc", ".c", *probe), Missing
    if name == "c" and problem:
        raise fault(f"--kernel c: {problem}; use --kernel auto")
    if problem:
        return "torch", f"no C kernel: {problem}"
    return "c", "asked for" if name == "c" else "a CPU with a C compiler"


def has_avx512_bf16() -> bool:
    return "avx512_bf16" in cpuinfo().get("flags", "").split()


def has_fast_avx512_bf16() -> bool:
    """Whether this CPU's vectors make products faster in bfloat16 than in float32.

    AMD's processors add up twice as many products of bfloat16 at a time as of float32, Intel's as many.
    """
    return cpuinfo().get("vendor_id") == "AuthenticAMD" and has_avx512_bf16()


def kernel_precisions() -> list[tuple[torch.dtype, str]]:
    """What the C kernel's products may be computed in on this CPU, the fastest first, and the reason for it."""
    plain = torch.float32, "the C kernel's"
    if has_fast_avx512_bf16():
        return [(torch.bfloat16, "AVX512-BF16, the C kernel's"), plain]
    return [plain]


def pick_precision_and_kernel(
    precision: str, kernel: str, device: torch.device, problem: str | None
) -> tuple[torch.dtype, str, str]:
    """What the products are computed in, what computes the step, and a remark with the reasons; see those above.

    On a CPU the kernel goes before AMX, which torch would use: it takes a step in a fraction of the time that torch
    needs between its operations alone.
    """

    def means(dtype: torch.dtype, reason: str, name: str, why: str) -> tuple[torch.dtype, str, str]:
        return dtype, name, f"{str(dtype).removeprefix('torch.')} ({reason}), kernel {name} ({why})"

    if precision == "auto" and kernel != "torch" and device.type == "cpu":
        for own in kernel_precisions():
            name, why = pick_kernel("auto", device, own[0], problem)
            if name == "c":
                return means(*own, name, "asked for" if kernel == "c" else why)
    picked = pick_precision(precision, device)
    return means(*picked, *pick_kernel(kernel, device, picked[0], problem))


def compiler_problem(device: torch.device) -> str | None:
    """Why torch.compile cannot work here, or None: tries the C++ compiler that inductor would call."""
    if device.type == "cuda":
        try:
            import triton  # noqa: F401
        except ImportError:
            return "triton is not installed"
        return compiler_fault("CC", "cc", ".c", *PROBE)  # which triton calls for what launches its kernels
    return compiler_fault("CXX", "cl" if sys.platform == "win32" else "g++", ".cpp", *PROBE)


# A source for a compiler to prove itself with, and options for it.
PROBE = "#include <math.h>\nint main(void) { return 0; }\n", ""
BFLOAT16_PROBE = "#include <math.h>\n#ifndef __AVX512BF16__\n#error no AVX512-BF16\n#endif\n", "-march=native"


def compiler_fault(variable: str, usual: str, suffix: str, probe: str, options: str) -> str | None:
    """What is wrong with the compiler that an environment variable names, or with the usual one; None: it works."""
    language = {".c": "C", ".cpp": "C++"}[suffix]
    compiler = os.environ.get(variable, "").strip() or usual
    if shutil.which(compiler.split()[0]) is None:
        return f"the {language} compiler {compiler!r} was not found (install one, or set {variable})"
    if sys.platform == "win32":
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "probe" + suffix), Path(folder, "probe.o")
        source.write_text(probe)
        command = [*compiler.split(), *options.split(), "-c", source, "-o", target]
        answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        message = (answer.stderr.splitlines() or ["no message"])[0]
        return f"the {language} compiler {compiler!r} does not work: {message}"
    return None
