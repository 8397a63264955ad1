"""The start of the process."""

import subprocess
import sys

from tests.support.examples import ROOT


def printed(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_it_imports_no_torch() -> None:
    assert printed("import sys, startup; print('torch' in sys.modules)") == "False\n"


def test_garbage_is_collected_again_after_the_imports_but_not_among_them() -> None:
    code = (
        "import gc, startup; startup.before_imports(['--device', 'cpu', '--kernel', 'torch'], '')\n"
        "print(gc.isenabled()); startup.after_imports()"
    )
    assert printed(f"{code}; print(gc.isenabled(), gc.get_freeze_count() > 0)") == "False\nTrue True\n"


def test_keeping_freed_memory_breaks_no_allocation() -> None:
    assert printed("import startup; startup.keep_freed_memory(); print(len(bytes(2**26)))") == f"{2**26}\n"


def test_a_wrong_request_is_refused_before_torch_is_imported() -> None:
    code = "import startup; startup.before_imports(['--device', 'cpu', '--batch-sice', '8'], '')"
    command = [sys.executable, "-X", "importtime", "-c", code]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert " tyro" in answer.stderr
    assert " torch" not in answer.stderr
    assert answer.returncode == 2
    assert answer.stderr.splitlines()[-1].endswith("--batch-sice: unknown option; the nearest is '--batch-size'")


def test_leaving_keeps_what_was_printed_and_the_status() -> None:
    code = "import startup; print('last words'); startup.leave(7)"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (answer.returncode, answer.stdout) == (7, "last words\n")


def test_torch_keeps_few_primitives_unless_the_user_says_otherwise() -> None:
    code = (
        "import os, startup; os.environ['LRU_CACHE_CAPACITY'] = '7'\n"
        "startup.before_imports(['--device', 'cpu', '--kernel', 'torch'], '')\n"
        "print(os.environ['LRU_CACHE_CAPACITY'], os.environ['ONEDNN_PRIMITIVE_CACHE_CAPACITY'])"
    )
    assert printed(code) == "7 64\n"
