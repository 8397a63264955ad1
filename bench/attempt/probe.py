"""Probes, which test a trainer for `bench audit` in a separate process: `python speedrun.py --probe seeds`.

A probe builds trainers, warms some of them up, trains each for a few steps or until its first check, and compares the
weights. The distance between two sets of weights is the norm of the difference, relative to the movement in training.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from bench.attempt.interface import Build, Trainer
from bench.attempt.plan import AttemptPlan, compiler_seconds
from bench.storage.schema import MachineUse, SchemaModel
from data import TRACKS, Track, get_track
from model import Transformer


class Seeds(SchemaModel):
    """Whether two seeds give different initial weights and different batches."""

    initial: float  # distance of the initial weights, relative to their norm
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
    """A TrainingMonitor that ends training after NUM_STEPS steps, or at the first check."""

    patience = 1  # a tick for every step

    def __init__(self) -> None:
        self.ticks = 0

    def tick(self) -> None:
        self.ticks += 1
        if self.ticks > NUM_STEPS:
            raise Enough

    def check(self, *report: Any, **splits: Any) -> None:
        raise Enough


def weights_of(model: Transformer) -> Tensor:
    """All weights, concatenated, (parameters,) float64."""
    return torch.cat([weight.detach().double().flatten() for weight in model.parameters()])


def train(trainer: Trainer) -> Tensor:
    """Train for a few steps and return the weights."""
    with contextlib.suppress(Enough):
        trainer.train(StepLimit())
    return weights_of(trainer.model)


@torch.no_grad()
def add_rounding_errors(model: Transformer) -> None:
    """Change each weight by up to half a unit in the last place of the model's precision."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        error = (torch.rand(weight.shape, generator=generator) - 0.5) * torch.finfo(model.dtype).eps
        weight.mul_(1 + error.to(weight.device))


def relative(difference: Tensor, reference: Tensor) -> float:
    """The ratio of two norms; at most 1e9, because JSON has no infinity."""
    return min(float(difference.norm() / reference.norm()), 1e9) if difference.any() else 0.0


def probe_seeds(plan: AttemptPlan, build: Build) -> Seeds:
    """Train on the batches of two seeds, from the same weights.

    Training amplifies differences: in bfloat16 rounding errors grow to a fifth of the movement in these few steps.
    Therefore the effect of rounding alone is measured as well.
    """
    one, other, rounded = plan.trainer(build), plan.trainer(build, (plan.seed + 1) % 2**31), plan.trainer(build)
    start = weights_of(one.model)
    initial = relative(weights_of(other.model) - start, start)
    with torch.no_grad():
        for original, copy in zip(one.model.parameters(), other.model.parameters(), strict=True):
            copy.copy_(original)
    add_rounding_errors(rounded.model)
    end = train(one)
    return Seeds(
        initial=initial,
        batches=relative(train(other) - end, end - start),
        rounding=relative(train(rounded) - end, end - start),
    )


def probe_warmup(plan: AttemptPlan, build: Build) -> Warmup:
    """Train with and without the warm-up, and record which attributes of the track are used before `train`."""
    with track_access_recorded(plan.track) as touched:
        warm = plan.trainer(build)
        warm.warm_up()
    cold, rounded = plan.trainer(build), plan.trainer(build)
    start = weights_of(cold.model)
    add_rounding_errors(rounded.model)
    end = train(cold)
    return Warmup(
        skipped=relative(train(warm) - end, end - start),
        rounding=relative(train(rounded) - end, end - start),
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
