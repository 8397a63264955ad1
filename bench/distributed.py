"""The processes that torchrun has started for one attempt: who they are, and what they tell one another.

Each holds the whole model and draws the same random numbers. What is shared out are rows: of a batch, of problems that
are examined, of the certificate's. A process that is alone has all of them, and tells nobody.
"""

import dataclasses
import datetime
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = datetime.timedelta(days=7)  # while one waits for its device; should it die, torchrun ends all the others

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Team:
    """This process among the others, as torchrun counts them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those on this machine
    local_size: int = 1

    def device(self, kind: torch.device) -> torch.device:
        """This process's own, of a kind; raises ValueError where there are more processes than GPUs."""
        if self.size == 1 or kind.type != "cuda":
            return kind
        if self.local_size > torch.cuda.device_count():
            raise ValueError(f"{self.local_size} processes want a GPU each, and there are {torch.cuda.device_count()}")
        return torch.device("cuda", self.local_rank)


def read_team(environment: Mapping[str, str] = os.environ) -> Team:
    """By what torchrun has written into the environment; alone where it has not."""
    if "TORCHELASTIC_RUN_ID" not in environment:
        return Team()
    names = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"
    return Team(*(int(environment[name]) for name in names))


class ControlGroup:
    """The group that waits, and tells anything but rows: on the CPU, whatever the rows are on."""

    group: dist.ProcessGroup | None = None


def join(team: Team, device: torch.device) -> list[int]:
    """Meet the others; the process ids of those on this machine.

    Raises:
        RuntimeError: they do not come.
    """
    if team.size == 1:
        return []
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    ControlGroup.group = dist.new_group(backend="gloo", timeout=PATIENCE)
    own = team.rank - team.local_rank  # the first rank on this machine
    return [process_id for machine, process_id in gather_objects((own, os.getpid())) if machine == own]


def leave(status: int) -> int:
    """The exit status, for a process that is alone; one of several ends here with it.

    Taken down in order, the groups would wait for one another's threads, and for processes that have failed.
    """
    if dist.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def barrier() -> None:
    """Wait until all are here."""
    if size() > 1:
        dist.barrier(ControlGroup.group)


# -----------------------------------------------------------------------------
# rows


def share(rows: Tensor) -> Tensor:
    """Those of (N, ...) that are this process's: about N over the number of processes, in order; all of very few."""
    return rows if size() == 1 or len(rows) < size() else rows.tensor_split(size())[rank()]


def gather(own: Tensor, count: int) -> Tensor:
    """What each process found about its share of `count` rows, as one (count, ...) that is the same everywhere."""
    if size() == 1 or count < size():
        return own
    lengths = [count // size() + (rank < count % size()) for rank in range(size())]
    sent = own.new_zeros(lengths[0], *own.shape[1:], dtype=torch.uint8 if own.dtype == torch.bool else own.dtype)
    sent[: len(own)] = own
    received = [torch.empty_like(sent) for _ in lengths]
    dist.all_gather(received, sent)
    return torch.cat([part[:length] for part, length in zip(received, lengths, strict=True)]).to(own.dtype)


def mean(value: Tensor) -> Tensor:
    """Over all processes."""
    if size() > 1:
        value = value.clone()
        dist.all_reduce(value)
        value /= size()
    return value


# -----------------------------------------------------------------------------
# anything else


def broadcast(content: bytes | None) -> bytes:
    """What the first process gives, at all of them."""
    told = [content]
    if size() > 1:
        dist.broadcast_object_list(told, src=0, group=ControlGroup.group)
    return told[0]


def gather_objects(value: T) -> list[T]:
    """What each process gives, in the order of their ranks."""
    if size() == 1:
        return [value]
    told: list[T | None] = [None] * size()
    dist.all_gather_object(told, value, group=ControlGroup.group)
    return told


def total(values: Sequence[float | None]) -> float | None:
    """Their sum; None where one is not known."""
    return None if None in values else sum(values)
