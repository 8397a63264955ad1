"""Checks of the compilers that torch.compile calls."""

import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bench.machine import compilers


def test_a_missing_compiler_is_a_problem_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    problem = compilers.torch_compile_problem("cpu")
    assert problem == "the C++ compiler '/nowhere/g++' was not found (install one, or set CXX)"


@pytest.mark.skipif(os.name != "posix", reason="a shell script as the compiler")
def test_the_problem_of_a_failing_compiler_is_its_first_error_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho 'fatal: no cmath' >&2\necho 'more' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", f"{compiler} -O2")
    assert compilers.torch_compile_problem("cpu") == f"the C++ compiler '{compiler} -O2' does not work: fatal: no cmath"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    assert compilers.torch_compile_problem("cpu").endswith("does not work: no message")


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_a_compiler_that_works_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    assert compilers.torch_compile_problem("cpu") is None


@pytest.mark.skipif(os.name != "posix", reason="a shell script as the compiler")
@pytest.mark.parametrize("made", ["", "printf nonsense > probe.so"])
def test_a_compiler_whose_library_cannot_be_loaded_is_a_problem(
    made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "compiler"  # without -o, and of the other operating system
    compiler.write_text(f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\ncd "$(dirname "$2")"\n{made}\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert "cannot be loaded" in compilers.torch_compile_problem("cpu")


def test_cuda_compiles_with_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    assert compilers.torch_compile_problem("cuda") == "triton is not installed"
    monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    assert compilers.torch_compile_problem("cuda") is None
