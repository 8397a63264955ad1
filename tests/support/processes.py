"""Python code in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.examples import ROOT


def start_process(code: str, name: str, results: Path) -> subprocess.Popen[str]:
    """Run code that can import the project, with the arguments `name` and `results` and with pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", code, name, str(results)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
