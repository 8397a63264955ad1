"""Options that several commands share, as annotated types, and conversions of their values."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from bench.errors import UsageError
from bench.provenance import ROOT

if TYPE_CHECKING:
    import torch

DEFAULT_RESULTS = ROOT / "results"

ResultsOption = Annotated[Path, tyro.conf.arg(help="Folder of the journal, the weights, the records and the board.")]
UnusedResultsOption = Annotated[Path, tyro.conf.arg(help="Every command accepts this option; this one ignores it.")]
DeviceOption = Annotated[str, tyro.conf.arg(help="auto, cpu, cuda or mps.")]
WhyOption = Annotated[
    str | None, tyro.conf.arg(help="What the first contestant changes, and why, in a line; filed in NEGATIVE.md.")
]


def require_device(name: str) -> "torch.device":
    """The device that `--device` names.

    Raises:
        UsageError: this machine does not have it.
    """
    from bench.machine.devices import pick_device  # imports torch, which takes seconds

    try:
        return pick_device(name)
    except ValueError as problem:
        raise UsageError(str(problem)) from None
