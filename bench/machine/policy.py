"""The precision and the kernel of an attempt, where the settings leave them to the machine. Imports torch on use."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from bench.errors import UnavailableHere, UsageError
from bench.machine.cpu import has_avx512_bf16, has_fast_avx512_bf16

NO_KERNEL = "no C kernel"  # begins the reason for torch in place of the C kernel
CompileProblem = Callable[[str], str | None]  # precision -> why the C kernel does not compile or run; None if it does


def pick_precision(name: str, device_type: str) -> tuple[str, str]:
    """Resolve `auto`, or a precision, to the precision of the matrix products; returns it and the reason."""
    import torch

    native = torch.cuda.is_bf16_supported(including_emulation=False) if device_type == "cuda" else True
    if name == "bfloat16" and not native:
        raise UnavailableHere("this GPU has no bfloat16; use --precision float32")
    if name != "auto":
        return name, "requested"
    if device_type == "cuda":
        return ("bfloat16", "tensor cores") if native else ("float32", "this GPU has no bfloat16")
    if device_type != "cpu":
        return "float32", f"the safe choice on {device_type}"
    if torch.cpu._is_amx_tile_supported():
        return "bfloat16", "AMX"
    if has_fast_avx512_bf16():
        return "bfloat16", "AVX512-BF16"
    return "float32", "bfloat16 is no faster on this CPU"


def pick_kernel(
    name: str, device_type: str, precision: str, model_problem: str | None, compile_problem: CompileProblem
) -> tuple[str, str]:
    """Resolve `auto`, `c` or `torch` to the kernel that computes the step; returns its name and the reason.

    `model_problem` says why the C kernel cannot compute this model; None if it can. `compile_problem` is called only if
    nothing else prevents the C kernel. Raises UsageError if the C kernel is requested and unavailable, UnavailableHere
    if the machine is the reason.
    """
    if name == "torch":
        return name, "requested"
    problem, error = model_problem, UsageError
    if device_type != "cpu":
        problem = "it computes on a CPU"
    elif sys.platform == "win32":
        problem, error = "it is not written for Windows", UnavailableHere
    elif precision == "float16":
        problem = "it computes in float32 or bfloat16"
    elif precision == "bfloat16" and not has_avx512_bf16():
        problem, error = "its bfloat16 products take a CPU with AVX512-BF16", UnavailableHere
    elif problem is None:
        problem, error = compile_problem(precision), UnavailableHere
    if name == "c" and problem:
        raise error(f"--kernel c: {problem}; use --kernel auto")
    if problem:
        return "torch", f"{NO_KERNEL}: {problem}"
    return "c", "requested" if name == "c" else "there is a C compiler"


def kernel_precisions(precision: str, kernel: str, device_type: str) -> dict[str, str]:
    """The precisions in which the C kernel is tried on this machine, the fastest first, each with the reason.

    On a CPU the C kernel is preferred to AMX with torch: its whole step takes a fraction of the time that torch spends
    between operations.
    """
    if kernel == "torch" or device_type != "cpu" or precision == "float16":
        return {}
    if precision != "auto":
        return {precision: "requested"}
    bfloat16 = {"bfloat16": "this CPU has AVX512-BF16"} if has_fast_avx512_bf16() else {}
    return bfloat16 | {"float32": "the C kernel's precision here"}


@dataclass(frozen=True)
class Choice:
    """The precision and the kernel of an attempt, each with the reason."""

    precision: str
    precision_reason: str
    kernel: str
    kernel_reason: str

    def __str__(self) -> str:
        kernel = "C kernel" if self.kernel == "c" else self.kernel
        return f"{kernel} ({self.kernel_reason}), {self.precision} ({self.precision_reason})"


def pick_precision_and_kernel(
    precision: str, kernel: str, device_type: str, model_problem: str | None, compile_problem: CompileProblem
) -> Choice:
    """Resolve both together; see the functions above."""
    for fastest, precision_reason in kernel_precisions(precision, kernel, device_type).items():
        name, reason = pick_kernel("auto", device_type, fastest, model_problem, compile_problem)
        if name == "c":
            return Choice(fastest, precision_reason, name, "requested" if kernel == "c" else reason)
    picked, precision_reason = pick_precision(precision, device_type)
    picked_kernel = pick_kernel(kernel, device_type, picked, model_problem, compile_problem)
    return Choice(picked, precision_reason, *picked_kernel)
