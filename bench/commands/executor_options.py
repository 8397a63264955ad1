"""The options of the commands that can run attempts on a Ray cluster."""

from typing import Annotated

import tyro

from bench.experiments.executors import EngineName

EngineOption = Annotated[
    EngineName, tyro.conf.arg(help="Where attempts run: on this machine (local), or on the nodes of a Ray cluster.")
]
AddressOption = Annotated[
    str | None,
    tyro.conf.arg(help="Address of a running Ray cluster; by default a cluster of this machine alone is started."),
]
