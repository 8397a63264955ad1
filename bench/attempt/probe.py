"""Probes, which test a trainer for `bench audit` in a separate process: `python speedrun.py --probe seeds`.

A probe builds trainers, warms some of them up, trains each for a few steps or until its first check, and compares the
weights. The distance between two sets of weights is the norm of the difference, relative to the movement in training.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.attempt.interface import Build, Start, Trainer
from bench.attempt.plan import AttemptPlan, compiler_seconds
from bench.storage.schema import MachineUse, SchemaModel
from data import TRACKS, Track, get_track
from model import Transformer


class Seeds(SchemaModel):
    """Whether two seeds give different batches."""

    batches: float  # distance after training from the same weights on each seed's batches
    rounding: float  # distance after training on the same batches with one rounding error in each initial weight


class Warmup(SchemaModel):
    """Whether training is the same with and without the warm-up."""

    skipped: float  # distance between training with and without the warm-up
    rounding: float  # distance after training without it with one rounding error in each initial weight
    touched: list[str]  # attributes of the track that were used before `train`


NUM_STEPS = 8  # after 20 steps at a high learning rate, one rounding error can matter half as much as another batch


class Enough(Exception):
    """Ends the training of a probe."""


class StepLimit:
    """A TrainingMonitor that ends training after NUM_STEPS steps, or at the first check, and keeps initial weights."""

    patience = 1  # a tick for every step

    def __init__(self) -> None:
        self.ticks = 0
        self.initial: dict[str, Tensor] = {}

    def initialized(self, model: Transformer) -> None:
        self.initial = {name: weight.detach().cpu().clone() for name, weight in model.state_dict().items()}

    def tick(self) -> None:
        self.ticks += 1
        if self.ticks > NUM_STEPS:
            raise Enough

    def check(self, *report: Any, **splits: Any) -> None:
        raise Enough


class ShortRun(NamedTuple):
    """Training for a few steps."""

    initial: dict[str, Tensor]  # weights
    end: Tensor  # all weights, (parameters,) float64

    @property
    def movement(self) -> Tensor:
        return self.end - flat(self.initial.values())


def flat(weights: Iterable[Tensor]) -> Tensor:
    """All weights, concatenated, (parameters,) float64 on the CPU."""
    return torch.cat([weight.detach().cpu().double().flatten() for weight in weights])


def train(trainer: Trainer, start: Start) -> ShortRun:
    """Train for a few steps."""
    limit = StepLimit()
    with contextlib.suppress(Enough):
        trainer.train(limit, start)
    return ShortRun(limit.initial, flat(trainer.model.parameters()))


def with_rounding_errors(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Change each weight by up to half a unit in the last place of the precision `dtype`."""
    generator = torch.Generator().manual_seed(0)
    errors = {name: torch.rand(weight.shape, generator=generator) - 0.5 for name, weight in weights.items()}
    return {name: weight * (1 + errors[name] * torch.finfo(dtype).eps) for name, weight in weights.items()}


def relative(difference: Tensor, reference: Tensor) -> float:
    """The ratio of two norms; at most 1e9, because JSON has no infinity."""
    return min(float(difference.norm() / reference.norm()), 1e9) if difference.any() else 0.0


def probe_seeds(plan: AttemptPlan, build: Build) -> Seeds:
    """Train on the batches of two seeds, from the same weights.

    Training amplifies differences: in bfloat16 rounding errors grow to a fifth of the movement in these few steps.
    Therefore the effect of rounding alone is measured as well.
    """
    start = plan.start()
    one = train(plan.trainer(build), start)
    other = train(plan.trainer(build), start._replace(seed=(plan.seed + 1) % 2**31, weights=one.initial))
    rounded = train(plan.trainer(build), start._replace(weights=with_rounding_errors(one.initial, plan.dtype)))
    return Seeds(
        batches=relative(other.end - one.end, one.movement), rounding=relative(rounded.end - one.end, one.movement)
    )


def probe_warmup(plan: AttemptPlan, build: Build) -> Warmup:
    """Train with and without the warm-up, and record which attributes of the track are used before `train`."""
    start = plan.start()
    with track_access_recorded(plan.track) as touched:
        warm = plan.trainer(build)
        warm.warm_up()
    cold = train(plan.trainer(build), start)
    rounded = train(plan.trainer(build), start._replace(weights=with_rounding_errors(cold.initial, plan.dtype)))
    return Warmup(
        skipped=relative(train(warm, start).end - cold.end, cold.movement),
        rounding=relative(rounded.end - cold.end, cold.movement),
        touched=sorted(touched),
    )


@contextlib.contextmanager
def track_access_recorded(*tracks: Track) -> Iterator[set[str]]:
    """Record the names of all methods and properties used in this context, of these tracks and of all others."""
    touched: set[str] = set()

    def recording(name: str, original: Any) -> property:
        def get(track: Any) -> Any:
            touched.add(name)
            return original.__get__(track, type(track))

        return property(get)  # overrides a value that a cached property has stored in the instance

    replaced = []
    every_track = *tracks, *map(get_track, TRACKS)
    for kind in {kind for track in every_track for kind in type(track).__mro__[:-1]}:  # the last is `object`
        for name, original in list(vars(kind).items()):
            if hasattr(original, "__get__") and not name.startswith("__"):
                replaced.append((kind, name, original))
                setattr(kind, name, recording(name, original))
    try:
        yield touched
    finally:
        for kind, name, original in replaced:
            setattr(kind, name, original)


def probe_machine(plan: AttemptPlan, _: Build) -> MachineUse:
    """How the plan uses this machine."""
    seconds = compiler_seconds(plan.settings) if plan.settings.kernel == "c" else None
    return MachineUse(**dataclasses.asdict(plan.choice), threads=plan.settings.threads, compiler_seconds=seconds)


PROBES: dict[str, Callable[[AttemptPlan, Build], SchemaModel]] = {
    "machine": probe_machine,
    "seeds": probe_seeds,
    "warmup": probe_warmup,
}
