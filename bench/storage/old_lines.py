"""The lines of the journal that are older than its checks: `python -m bench.storage.old_lines RESULTS` lists them.

The list is a text file of the results folder, the sha256 of each line in a row. It is made once and committed. Lines in
it keep their place on the board, as "not rechecked". A results folder without the list has no old lines.
"""

import hashlib
import sys
from pathlib import Path

from bench.storage.jsonl import replace_file

LIST = "before-judges.sha256"


def line_sha256(line: bytes) -> str:
    """The sha256 of a line of the journal without its line end."""
    return hashlib.sha256(line.strip()).hexdigest()


def read_old_lines(results: Path) -> frozenset[str]:
    """The hashes in the list of a results folder; empty without one."""
    path = results / LIST
    return frozenset(path.read_text(encoding="ascii").split()) if path.exists() else frozenset()


def list_old_lines(results: Path) -> int:
    """Write the list of all lines that the journal has now, sorted; returns their number."""
    lines = (results / "runs.jsonl").read_bytes().split(b"\n")
    hashes = sorted({line_sha256(line) for line in lines if line.strip()})
    replace_file(results / LIST, "".join(f"{digest}\n" for digest in hashes))
    return len(hashes)


if __name__ == "__main__":
    print(f"{list_old_lines(Path(sys.argv[1]))} lines are listed in {LIST}")
