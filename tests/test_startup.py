"""The start of the process."""

import subprocess
import sys

from tests.support.examples import ROOT


def printed(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_it_imports_no_torch() -> None:
    assert printed("import sys, startup; print('torch' in sys.modules)") == "False\n"


def test_garbage_is_collected_again_after_the_imports_but_not_among_them() -> None:
    code = "import gc, startup; startup.before_imports(); print(gc.isenabled()); startup.after_imports()"
    assert printed(f"{code}; print(gc.isenabled(), gc.get_freeze_count() > 0)") == "False\nTrue True\n"


def test_keeping_freed_memory_breaks_no_allocation() -> None:
    assert printed("import startup; startup.keep_freed_memory(); print(len(bytes(2**26)))") == f"{2**26}\n"
