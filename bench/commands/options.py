"""Options that several commands share, as annotated types."""

from pathlib import Path
from typing import Annotated

import tyro

from bench.cli import EngineName
from bench.provenance import ROOT

DEFAULT_RESULTS = ROOT / "results"

ResultsOption = Annotated[Path, tyro.conf.arg(help="Folder of the journal, the weights, the records and the board.")]
UnusedResultsOption = Annotated[Path, tyro.conf.arg(help="Every command accepts this option; this one ignores it.")]
EngineOption = Annotated[
    EngineName, tyro.conf.arg(help="Where attempts run: on this machine (local), or on the nodes of a Ray cluster.")
]
AddressOption = Annotated[
    str | None,
    tyro.conf.arg(help="Address of a running Ray cluster; by default a cluster of this machine alone is started."),
]
DeviceOption = Annotated[str, tyro.conf.arg(help="auto, cpu, cuda or mps.")]
WhyOption = Annotated[
    str | None, tyro.conf.arg(help="What is changed and why, in one line; for NEGATIVE.md and a record's README.")
]
