"""Disputed runs. A batch with a disputed run keeps its lines and loses its rank.

A run is disputed because its line fails a check (`bench.storage.line_checks`), unless the line is old, or by hand: a
line of `disputes.jsonl`.
"""

import functools
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from bench.storage.jsonl import JsonLines
from bench.storage.line_checks import line_faults
from bench.storage.old_lines import line_sha256, read_old_lines
from bench.storage.schema import SCHEMA, Run, SchemaModel


class Dispute(SchemaModel):
    """A dispute of a run by hand, or its end, a line of `disputes.jsonl`; the latest line of a run counts."""

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    run_id: str
    why: str = Field(min_length=1)  # one line
    settled: bool = False  # the run is no longer disputed by hand
    written_at: datetime  # UTC


def disputes_file(results: Path) -> JsonLines[Dispute]:
    return JsonLines(results / "disputes.jsonl", Dispute)


def disputes_by_hand(results: Path) -> dict[str, str]:
    """Run id -> why the run is disputed by hand, by the latest line about it; settled ones are left out."""
    latest = {dispute.run_id: dispute for dispute in disputes_file(results).read()[0]}
    return {run_id: dispute.why for run_id, dispute in latest.items() if not dispute.settled}


class RunStatus:
    """What a results folder says about its runs beside their lines, as of the first use."""

    def __init__(self, results: Path) -> None:
        self.results = results

    @functools.cached_property
    def by_hand(self) -> dict[str, str]:
        return disputes_by_hand(self.results)

    @functools.cached_property
    def old_lines(self) -> frozenset[str]:
        return read_old_lines(self.results)

    def apply(self, run: Run, line: bytes) -> Run:
        """The run of a line, with the reasons why it is disputed, and whether its line is old."""
        why = self.by_hand.get(run.run_id)
        reasons = [] if why is None else [f"by hand: {why}"]
        # A line that names its judge is not old. Only lines that may rank are hashed, because that takes time.
        is_old = run.may_rank and run.judge is None and line_sha256(line) in self.old_lines
        if run.may_rank and not is_old:
            reasons += line_faults(run)
        return run.with_status(reasons, is_old) if reasons or is_old else run
