"""The choice of precision and kernel."""

import sys

import pytest
import torch

from bench.errors import UnavailableHere, UsageError
from bench.machine import cpu, policy
from bench.machine.policy import pick_kernel, pick_precision_and_kernel


def compiles(precision: str) -> None:
    """The C kernel compiles and runs in every precision."""


def fails(precision: str) -> str:
    return f"no kernel in {precision} today"


@pytest.mark.parametrize(
    ("amx", "vendor", "flags", "expected"),
    [
        (True, "GenuineIntel", "", ("bfloat16", "AMX")),
        (True, "AuthenticAMD", "avx512_bf16", ("bfloat16", "AMX")),
        (False, "AuthenticAMD", "avx512f avx512_bf16", ("bfloat16", "AVX512-BF16")),
        (False, "AuthenticAMD", "avx512f", ("float32", "bfloat16 is no faster on this CPU")),
        (False, "GenuineIntel", "avx512f avx512_bf16", ("float32", "bfloat16 is no faster on this CPU")),
    ],
)
def test_auto_takes_bfloat16_on_a_cpu_where_it_is_faster(
    amx: bool, vendor: str, flags: str, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(cpu, "cpuinfo", lambda: {"vendor_id": vendor, "flags": flags})
    assert policy.pick_precision("auto", "cpu") == expected


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_takes_bfloat16_on_a_gpu_that_has_it(native: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native)
    assert policy.pick_precision("auto", "cuda")[0] == expected


def test_auto_stays_with_float32_on_mps() -> None:
    assert policy.pick_precision("auto", "mps")[0] == "float32"


def test_bfloat16_on_a_gpu_without_it_is_an_error_that_names_an_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    with pytest.raises(UnavailableHere, match="no bfloat16; use --precision float32"):
        policy.pick_precision("bfloat16", "cuda")
    assert policy.pick_precision("float32", "cuda") == ("float32", "requested")


def test_a_requested_precision_is_used() -> None:
    assert policy.pick_precision("bfloat16", "cpu") == ("bfloat16", "requested")
    assert policy.pick_precision("float32", "cpu") == ("float32", "requested")


def test_bfloat16_is_refused_where_the_processor_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "cpuinfo", lambda: {"flags": "fpu avx512f", "vendor_id": "AuthenticAMD"})
    assert pick_kernel("auto", "cpu", "bfloat16", None, compiles)[0] == "torch"
    with pytest.raises(UnavailableHere, match="bfloat16 products take a CPU with AVX512-BF16"):
        pick_kernel("c", "cpu", "bfloat16", None, compiles)
    choice = pick_precision_and_kernel("auto", "auto", "cpu", None, compiles)
    assert (choice.precision, choice.kernel) == ("float32", "c")


def test_on_windows_auto_takes_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    reason = "no C kernel: it is not written for Windows"
    assert pick_kernel("auto", "cpu", "float32", None, compiles) == ("torch", reason)


def test_auto_takes_torch_where_the_kernel_does_not_compile_or_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "cpuinfo", lambda: {"flags": "avx512_bf16", "vendor_id": "AuthenticAMD"})
    choice = pick_precision_and_kernel("auto", "auto", "cpu", None, fails)
    assert choice.kernel == "torch"
    assert choice.kernel_reason == "no C kernel: no kernel in bfloat16 today"
    with pytest.raises(UnavailableHere, match="--kernel c: no kernel in bfloat16 today; use --kernel auto"):
        pick_precision_and_kernel("auto", "c", "cpu", None, fails)


def test_auto_takes_the_next_precision_where_the_kernel_fails_in_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "cpuinfo", lambda: {"flags": "avx512_bf16", "vendor_id": "AuthenticAMD"})
    choice = pick_precision_and_kernel(
        "auto", "auto", "cpu", None, lambda precision: fails(precision) if precision == "bfloat16" else None
    )
    assert str(choice) == "C kernel (there is a C compiler), float32 (the C kernel's precision here)"


@pytest.mark.parametrize(
    ("device", "precision", "problem"),
    [("cuda", "float32", None), ("cuda", "bfloat16", None), ("cpu", "float32", "it is Tuesday")],
)
def test_auto_takes_torch_where_the_kernel_does_not_fit(device: str, precision: str, problem: str | None) -> None:
    assert pick_kernel("auto", device, precision, problem, compiles)[0] == "torch"
    with pytest.raises(UsageError, match="use --kernel auto"):
        pick_kernel("c", device, precision, problem, compiles)


def test_auto_takes_the_kernel_where_it_can_be_had() -> None:
    assert pick_kernel("auto", "cpu", "float32", None, compiles)[0] == "c"
    assert pick_kernel("torch", "cpu", "float32", None, compiles) == ("torch", "requested")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_float16_is_used_on_request_and_by_torch(device: str) -> None:
    choice = pick_precision_and_kernel("float16", "auto", device, None, compiles)
    assert (choice.precision, choice.precision_reason, choice.kernel) == ("float16", "requested", "torch")
    with pytest.raises(UsageError, match=r"it computes (in float32 or bfloat16|on a CPU); use --kernel auto"):
        pick_precision_and_kernel("float16", "c", device, None, compiles)
