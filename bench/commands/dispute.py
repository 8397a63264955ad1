"""`python -m bench dispute`: take the rank of a run's batch, or end that."""

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import tyro

from bench.arguments import one_word, read_text
from bench.cli import reject_unwritable
from bench.commands import board
from bench.commands.options import DEFAULT_RESULTS, ResultsOption, read_line
from bench.errors import UsageError
from bench.storage.disputes import Dispute, disputes_by_hand, disputes_file
from bench.storage.journal import Journal
from bench.storage.results import find_run
from bench.storage.schema import YARDSTICK, Run
from bench.streams import print_error


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Dispute a run, or settle the dispute: a dated line in disputes.jsonl, which is only appended to.

    The batch of a disputed run keeps its lines and has no rank; the board says why. What a check of the journal found
    is not settled by hand.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run id, a path to weights, `latest`, or a batch id for all runs of the batch."""
    why: Annotated[str, one_word("TEXT", read_text)]
    """The reason, one line, in quotes."""
    settle: tyro.conf.FlagCreatePairsOff[bool] = False
    """End the dispute by hand."""
    results: ResultsOption = DEFAULT_RESULTS


def main(arguments: Arguments) -> int:
    results, why = arguments.results, read_line(arguments.why, "--why")
    runs = find_runs(arguments.run, results)
    if arguments.settle:
        by_hand = disputes_by_hand(results)
        disputed = [run for run in runs if run.run_id in by_hand]
        if not disputed:
            found = list(dict.fromkeys(reason for run in runs for reason in run.disputed))
            hint = f"; what a check found is not settled by hand: {'; '.join(found)}" if found else ""
            raise UsageError(f"{arguments.run} is not disputed by hand{hint}")
        runs = disputed
    with reject_unwritable(results):
        for run in runs:
            line = Dispute(run_id=run.run_id, why=why, settled=arguments.settle, written_at=datetime.now(UTC))
            disputes_file(results).append(line)
    board.write_texts(results)
    named = runs[0].run_id if len(runs) == 1 else f"{len(runs)} runs of {arguments.run}"
    print_error(f"the dispute of {named} is {'settled' if arguments.settle else 'filed'}")
    print_error("the pages are rendered; `python -m bench board` draws the plots, too")
    return 0


def find_runs(reference: str, results: Path) -> Sequence[Run]:
    """All runs of a batch, without the yardstick, or the one run that a reference names; see `find_run`."""
    runs, _ = Journal(results).read()
    of_batch = [run for run in runs if run.batch and run.batch.id == reference and run.command != YARDSTICK]
    return of_batch or [find_run(reference, results)]
