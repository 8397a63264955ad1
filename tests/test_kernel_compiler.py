"""The kernel's compiler: what can go wrong between a source file and a kernel that runs."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.testing import assert_close

import kernel_compiler
from kernel_compiler import Compilation, compilation
from tests.support.examples import ROOT
from tests.test_kernel import fitting_model, needs_compiler, random_texts

CONSTANTS = {"V": 12, "NH": 4, "HS": 8, "H": 48, "CENTERED": 0, "EPSILON": 1e-6, "BFLOAT16": 0}
pytestmark = pytest.mark.skipif(os.name != "posix", reason="the kernel is not written for Windows")


@pytest.fixture
def use_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Make a shell script the C compiler; returns its path."""

    def use(script: str) -> str:
        compiler = tmp_path / "compiler"
        compiler.write_text(f"#!/bin/sh\n{script}\n")
        compiler.chmod(0o755)
        monkeypatch.setenv("CC", str(compiler))
        kernel_compiler.cached_compilation.cache_clear()
        return str(compiler)

    return use


def problem_of(constants: kernel_compiler.Constants = CONSTANTS) -> str:
    with pytest.raises(RuntimeError) as caught:
        compilation(constants).library()
    return str(caught.value)


def test_it_imports_no_torch() -> None:
    code = "import sys, settings; settings.Settings().kernel_compilation('float32'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "False\n"


def test_a_compiler_that_fails_says_why_in_one_line(use_compiler: Callable[[str], str]) -> None:
    compiler = use_compiler("echo 'fatal: no math.h' >&2; echo more >&2; exit 1")
    assert problem_of() == f"the C compiler {compiler!r} failed: fatal: no math.h"
    use_compiler('echo "fatal: not with $1" >&2; exit 1')
    assert problem_of() == f"the C compiler {compiler!r} failed: fatal: not with -O2; fatal: not with -O3"
    use_compiler("printf '\\377 bytes that are not text' >&2; exit 1")
    assert problem_of().endswith("bytes that are not text")
    use_compiler("exit 1")
    assert problem_of().endswith("failed: no message")


def test_a_missing_compiler_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -O1")
    assert problem_of() == "the C compiler 'no-such-compiler -O1' was not found (install one, or set CC)"


def test_a_missing_temporary_folder_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    kernel_compiler.cached_compilation.cache_clear()
    assert problem_of().startswith("the C compiler did not start: ")


@needs_compiler
def test_a_compiler_that_cannot_link_is_a_problem(use_compiler: Callable[[str], str]) -> None:
    use_compiler('case "$*" in *" -c "*) exec cc "$@";; esac; echo "cannot find -lm" >&2; exit 1')
    assert problem_of().endswith("failed: cannot find -lm")


def test_the_library_of_another_machine_is_a_problem(use_compiler: Callable[[str], str]) -> None:
    use_compiler('while [ "$1" != -o ]; do shift; done; printf nonsense > "$2"')
    assert problem_of() == (
        "the compiled kernel cannot be loaded: file too short (set TMPDIR to a folder that allows executable files)"
    )


@needs_compiler
def test_a_kernel_that_crashes_does_so_in_another_process(use_compiler: Callable[[str], str], tmp_path: Path) -> None:
    source = tmp_path / "crash.c"
    functions = "table_size", "sums_size", "train", "prepare", "evaluate"
    source.write_text("".join(f"long {name}(void) {{ __builtin_trap(); }}\n" for name in functions))
    use_compiler(f'while [ "$1" != -o ]; do shift; done; exec cc -shared -fPIC {source} -o "$2"')
    assert problem_of().startswith("the compiled kernel crashed (SIG")


@needs_compiler
def test_a_kernel_that_computes_nonsense_is_a_problem(use_compiler: Callable[[str], str], tmp_path: Path) -> None:
    source = tmp_path / "nonsense.c"
    functions = "table_size", "sums_size", "train", "prepare", "evaluate"
    source.write_text("".join(f"long {name}(void) {{ return 16; }}\n" for name in functions))
    use_compiler(f'while [ "$1" != -o ]; do shift; done; exec cc -shared -fPIC {source} -o "$2"')
    assert problem_of().startswith("the compiled kernel computes wrong results: a loss of 0.0000 in place of 2.4849")


@needs_compiler
def test_a_compiler_that_refuses_the_options_of_another_gets_fewer(use_compiler: Callable[[str], str]) -> None:
    use_compiler('case "$*" in *vect-cost-model*|*=native*) echo "unknown argument" >&2; exit 1;; esac; exec cc "$@"')
    model, texts = fitting_model(), random_texts(37, 12)
    losses = model.evaluate(texts, 7)[0]
    model.use_kernel(2)
    assert_close(model.evaluate(texts, 7)[0], losses, rtol=1e-4, atol=1e-5)


@needs_compiler
def test_one_kernel_is_compiled_once_and_leaves_no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kernel_compiler.cached_compilation.cache_clear()
    first = compilation(CONSTANTS)
    assert first.library() is compilation(dict(CONSTANTS)).library()
    assert 0 < first.seconds < 60
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_ends_early_leaves_neither_files_nor_a_compiler(signal_number: int, tmp_path: Path) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\nsleep 1\necho slow >&2\nexit 1\n")
    compiler.chmod(0o755)
    folder = tmp_path / "temporary"
    folder.mkdir()
    code = (
        "import startup; startup.before_imports(['--device', 'cpu', '--kernel', 'c', '--config', 'add3-cpu'], '')\n"
        "import time; print('started', flush=True); time.sleep(60)"
    )
    environment = os.environ | {"CC": str(compiler), "TMPDIR": str(folder)}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    assert len(list(folder.iterdir())) == 1
    process.send_signal(signal_number)
    assert process.wait() == (130 if signal_number == signal.SIGTERM else -signal.SIGKILL)
    deadline = time.monotonic() + (0 if signal_number == signal.SIGTERM else 20)
    while list(folder.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(folder.iterdir()) == []


def test_a_stopped_compilation_is_a_problem_and_not_a_wait(use_compiler: Callable[[str], str]) -> None:
    compiler = use_compiler("sleep 60")
    begun = time.monotonic()
    stopped = Compilation(compiler, CONSTANTS)
    stopped.stop()
    assert time.monotonic() - begun < 10
    assert not os.path.exists(stopped.folder)


def test_a_compiler_that_hangs_is_announced_and_stopped(
    use_compiler: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    use_compiler("sleep 60")
    monkeypatch.setattr(kernel_compiler, "ANNOUNCED_SECONDS", 0.1)
    monkeypatch.setattr(kernel_compiler, "MAX_SECONDS", 0.2)
    assert problem_of() == "the C compiler did not end within 0.2 s"
    assert "waiting for the C compiler" in capsys.readouterr().err
