"""All that lies in one results folder, read together: what the board and the pages are rendered from."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from bench.agenda import Agenda, agenda_file
from bench.archive import Filed, read_records
from bench.comparison import Conclusion, conclusions_file
from bench.journal import YARDSTICK, Journal, Run


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Each in file order."""

    runs: Sequence[Run]
    faults: Sequence[str] = ()  # sentences about what could not be read
    records: Sequence[Filed] = ()
    agendas: Sequence[Agenda] = ()
    conclusions: Sequence[Conclusion] = ()

    def yardsticks(self) -> dict[str, Run]:
        """The yardstick's run beside each batch."""
        return {run.batch.id: run for run in self.runs if run.batch is not None and run.batch.command == YARDSTICK}


def read_evidence(results: Path) -> Evidence:
    runs, faults = Journal(results).read()
    records, record_faults = read_records(results)
    agendas, agenda_faults = agenda_file(results).read()
    conclusions, conclusion_faults = conclusions_file(results).read()
    return Evidence(runs, [*faults, *record_faults, *agenda_faults, *conclusion_faults], records, agendas, conclusions)
