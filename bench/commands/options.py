"""Options that several commands share, as annotated types, and the executors that `--engine` selects."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from bench.arguments import PathArgument, TextArgument
from bench.errors import UsageError
from bench.provenance import ROOT
from bench.streams import printable

if TYPE_CHECKING:
    from bench.experiments.executors import Executor

DEFAULT_RESULTS = ROOT / "results"
EngineName = Literal["local", "ray"]  # this machine, or the nodes of a Ray cluster

ResultsOption = Annotated[
    PathArgument, tyro.conf.arg(help="Folder of the journal, the weights, the records and the board.")
]
EngineOption = Annotated[
    EngineName, tyro.conf.arg(help="Where attempts run: on this machine (local), or on the nodes of a Ray cluster.")
]
AddressOption = Annotated[
    TextArgument,
    tyro.conf.arg(help="Address of a running Ray cluster; by default a cluster of this machine alone is started."),
]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DeviceOption = Annotated[
    DeviceName, tyro.conf.arg(help="The device; auto selects CUDA if there is a GPU, else the CPU.")
]
WhyOption = Annotated[
    TextArgument,
    tyro.conf.arg(
        help="What is changed and why, in one line, for NEGATIVE.md and for What changed in a record's README. "
        "The project's own results folder requires it."
    ),
]


def read_why(text: str | None, results: Path) -> str | None:
    """The value of `--why` as one line; UsageError if it is unusable, or missing for the project's own results."""
    from bench.experiments.paired_plan import normalize_why

    why = normalize_why(text)
    if why is None and results.resolve() == DEFAULT_RESULTS:
        raise UsageError(
            'the project\'s own results say why something was tried: add --why "what is changed and why", '
            "or --results DIR to try something out"
        )
    return why


def read_line(text: str, name: str) -> str:
    """A text of one line, without the spaces around it; UsageError, which begins with `name`, if it is unusable."""
    line = text.strip()
    if not line:
        raise UsageError(f"{name} is empty; write it in quotes")
    if len(line.splitlines()) > 1 or printable(line) != line:
        raise UsageError(f"{name} has line ends or control characters; write it in one line without them")
    return line


@contextlib.contextmanager
def open_executors(engine: EngineName, address: str | None, script: Path) -> "Iterator[Sequence[Executor]]":
    """The executors of an engine for a trainer's script; UsageError if Ray is not installed or no cluster answers.

    `address` is that of a running Ray cluster; by default a cluster of this machine is started.
    """
    from bench.experiments.executors import Executor  # imports torch, which commands that only read do without

    if engine == "local":
        if address is not None:
            raise UsageError(f"--address {address}: needs --engine ray")
        yield [Executor()]
        return
    try:
        import ray  # noqa: F401, an extra
    except ImportError:
        raise UsageError("--engine ray needs Ray: pip install '.[ray]'") from None
    from bench.experiments.ray_executor import open_cluster

    with open_cluster(address, script.parent) as executors:
        yield executors
