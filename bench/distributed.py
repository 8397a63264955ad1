"""Data-parallel training of one attempt in several processes, started by torchrun.

Each process holds the whole model and draws the same random numbers. The rows of a batch, of the evaluated problems and
of the certificate are split between the processes. Without torchrun, one process has all rows.
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

from bench.errors import UnavailableHere

# A process may wait this long for its device; if it dies, torchrun ends all the others.
CONTROL_TIMEOUT = datetime.timedelta(days=7)
# The process group for barriers and Python objects: on the CPU, whatever device holds the rows.
control_group: dist.ProcessGroup | None = None

WORLD_VARIABLES = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"  # in the order of World's fields

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class World:
    """The rank of this process, and the number of processes, as set by torchrun."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among the processes on this machine
    local_size: int = 1

    def device(self, kind: torch.device) -> torch.device:
        """The device of this process, of the given kind; raises UnavailableHere if there are too few GPUs."""
        if self.size == 1 or kind.type != "cuda":
            return kind
        if self.local_size > (num_gpus := torch.cuda.device_count()):
            raise UnavailableHere(f"{self.local_size} processes want a GPU each, and there are {num_gpus}")
        return torch.device("cuda", self.local_rank)


def read_world(environment: Mapping[str, str] = os.environ) -> World:
    """Read the variables that torchrun sets; a world of one process where they are not set, or not all of them."""
    if "TORCHELASTIC_RUN_ID" not in environment or missing_variables(environment):
        return World()
    return World(*(int(environment[name]) for name in WORLD_VARIABLES))


def missing_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The variables that torchrun sets and that are missing, or are no numbers, although others of them are set.

    They are left over from another job, or a script has passed some of them on.
    """
    if "TORCHELASTIC_RUN_ID" not in environment:
        return []
    numbers = (*WORLD_VARIABLES, "MASTER_PORT")
    missing = [name for name in numbers if not environment.get(name, "").isdecimal()]
    return missing if environment.get("MASTER_ADDR") else [*missing, "MASTER_ADDR"]


def join(world: World, device: torch.device) -> list[int]:
    """Initialise the process groups; returns the ids of the processes on this machine, [] in a world of one."""
    global control_group
    if world.size == 1:
        return []
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    control_group = dist.new_group(backend="gloo", timeout=CONTROL_TIMEOUT)
    machine = world.rank - world.local_rank  # identified by the rank of its first process
    return [process_id for other, process_id in gather_objects((machine, os.getpid())) if other == machine]


def leave(status: int) -> int:
    """Return the exit status in a world of one; otherwise end this process at once with it.

    An orderly shutdown of the groups would wait for the threads of the other processes, some of which may have failed.
    """
    if dist.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The index of this process, 0..size - 1."""
    return dist.get_rank() if dist.is_initialized() else 0


def barrier() -> None:
    if size() > 1:
        dist.barrier(control_group)


def share(rows: Tensor) -> Tensor:
    """This process's part of rows (N, ...): about N / size consecutive rows; all of them if N < size."""
    return rows if size() == 1 or len(rows) < size() else rows.tensor_split(size())[rank()]


def gather(part: Tensor, count: int) -> Tensor:
    """The results (count, ...) for all rows, on every process, from the results for each process's `share`."""
    if size() == 1 or count < size():
        return part
    lengths = [count // size() + (rank < count % size()) for rank in range(size())]
    sent = part.new_zeros(lengths[0], *part.shape[1:], dtype=torch.uint8 if part.dtype == torch.bool else part.dtype)
    sent[: len(part)] = part
    received = [torch.empty_like(sent) for _ in lengths]
    dist.all_gather(received, sent)
    return torch.cat([rows[:length] for rows, length in zip(received, lengths, strict=True)]).to(part.dtype)


def mean(value: Tensor) -> Tensor:
    """The mean over all processes."""
    if size() > 1:
        value = value.clone()
        dist.all_reduce(value)
        value /= size()
    return value


def broadcast(content: bytes | None) -> bytes:
    """The bytes that rank 0 passes, on every process; the other ranks pass None."""
    objects = [content]
    if size() > 1:
        dist.broadcast_object_list(objects, src=0, group=control_group)
    if objects[0] is None:
        raise ValueError("rank 0 must pass the bytes to broadcast")
    return objects[0]


def gather_objects(value: T) -> list[T]:
    """The values of all processes, by rank."""
    values = [value] * size()
    if size() > 1:
        dist.all_gather_object(values, value, group=control_group)
    return values


def sum_or_none(values: Sequence[float | None]) -> float | None:
    """The sum; None if one of the values is None."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
