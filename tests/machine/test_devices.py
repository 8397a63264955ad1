"""The choice of device, precision and compilers."""

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from bench.errors import UnavailableHere
from bench.machine import devices

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


# -----------------------------------------------------------------------------
# device and precision


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "cpu"), (False, False, "cpu")]
)
def test_auto_takes_cuda_if_available_and_the_cpu_otherwise(
    cuda: bool, mps: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert devices.pick_device("auto").type == expected
    assert devices.pick_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["cuda", "mps", "tpu"])
def test_a_missing_device_is_an_error_that_names_alternatives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UnavailableHere, match=f"there is no {name} device .* use --device auto or --device cpu"):
        devices.pick_device(name)


@pytest.mark.parametrize(
    ("amx", "vendor", "flags", "expected"),
    [
        (True, "GenuineIntel", "", (torch.bfloat16, "AMX")),
        (True, "AuthenticAMD", "avx512_bf16", (torch.bfloat16, "AMX")),
        (False, "AuthenticAMD", "avx512f avx512_bf16", (torch.bfloat16, "AVX512-BF16")),
        (False, "AuthenticAMD", "avx512f", (torch.float32, "bfloat16 is no faster on this CPU")),
        (False, "GenuineIntel", "avx512f avx512_bf16", (torch.float32, "bfloat16 is no faster on this CPU")),
    ],
)
def test_auto_takes_bfloat16_on_a_cpu_where_it_is_faster(
    amx: bool, vendor: str, flags: str, expected: tuple[torch.dtype, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(devices, "cpuinfo", lambda: {"vendor_id": vendor, "flags": flags})
    assert devices.pick_precision("auto", CPU) == expected


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_takes_bfloat16_on_a_gpu_that_has_it(
    native: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native)
    assert devices.pick_precision("auto", CUDA)[0] == expected


def test_auto_stays_with_float32_on_mps() -> None:
    assert devices.pick_precision("auto", torch.device("mps"))[0] == torch.float32


def test_bfloat16_on_a_gpu_without_it_is_an_error_that_names_an_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    with pytest.raises(UnavailableHere, match="no bfloat16; use --precision float32"):
        devices.pick_precision("bfloat16", CUDA)
    assert devices.pick_precision("float32", CUDA) == (torch.float32, "requested")


def test_a_requested_precision_is_used() -> None:
    assert devices.pick_precision("bfloat16", CPU) == (torch.bfloat16, "requested")
    assert devices.pick_precision("float32", CPU) == (torch.float32, "requested")


# -----------------------------------------------------------------------------
# the compiler


def test_a_missing_compiler_is_a_problem_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    problem = devices.torch_compile_problem(CPU)
    assert problem == "the C++ compiler '/nowhere/g++' was not found (install one, or set CXX)"


@pytest.mark.skipif(os.name != "posix", reason="a shell script as the compiler")
def test_the_problem_of_a_failing_compiler_is_its_first_error_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho 'fatal: no cmath' >&2\necho 'more' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", f"{compiler} -O2")
    assert devices.torch_compile_problem(CPU) == f"the C++ compiler '{compiler} -O2' does not work: fatal: no cmath"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    assert devices.torch_compile_problem(CPU).endswith("does not work: no message")


@pytest.mark.skipif(os.name != "posix", reason="a shell script as the compiler")
def test_a_compiler_that_works_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert devices.torch_compile_problem(CPU) is None
    assert "-c" in (tmp_path / "called").read_text()


def test_cuda_compiles_with_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    assert devices.torch_compile_problem(CUDA) == "triton is not installed"
    monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    assert devices.torch_compile_problem(CUDA) is None
