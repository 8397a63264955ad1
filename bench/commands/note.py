"""`python -m bench note`: add a remark to a run."""

import dataclasses
from datetime import UTC, datetime
from typing import Annotated

import tyro

from bench.arguments import one_word, read_text
from bench.cli import reject_unwritable
from bench.commands.options import DEFAULT_RESULTS, ResultsOption, read_line
from bench.storage.results import find_run, notes_file
from bench.storage.schema import Note
from bench.streams import print_error


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Add a remark to a run: a dated line in notes.jsonl, which is only appended to.

    `bench show` prints the remarks of a run, and `bench export` has them in the column notes. They change neither the
    run's line in the journal nor any page.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run id, a path to weights, or `latest`."""
    text: Annotated[str, tyro.conf.Positional, one_word("TEXT", read_text)]
    """The remark, one line. Quote it: several words without quotes are several arguments."""
    results: ResultsOption = DEFAULT_RESULTS


def main(arguments: Arguments) -> int:
    text = read_line(arguments.text, "the remark")
    run = find_run(arguments.run, arguments.results)
    with reject_unwritable(arguments.results):
        notes_file(arguments.results).append(Note(run_id=run.run_id, text=text, written_at=datetime.now(UTC)))
    print_error(f"noted on {run.run_id} in {arguments.results / 'notes.jsonl'}")
    return 0
