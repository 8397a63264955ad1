"""What `bench audit` asks of a trainer from inside, in a process of its own: `python speedrun.py --probe seeds`.

Trainers are built, warmed up or not, and trained for a few steps, or until their first check; what is compared are
their weights. A distance between weights is a norm, relative to how far training moved them.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from bench.attempt.interface import Build, Trainer
from bench.attempt.plan import AttemptPlan
from bench.storage.schema import SchemaModel
from data import TRACKS, get_track
from model import Transformer


class Seeds(SchemaModel):
    """Two seeds: do they give other weights to begin with, and other batches?"""

    initial: float  # distance of the initial weights, relative to their norm
    batches: float  # after training from the same weights on either seed's batches
    rounding: float  # after training on the same batches, one rounding error in each initial weight


class Warmup(SchemaModel):
    """With the warm-up and without it: is it the same training?"""

    skipped: float  # after training without the warm-up instead of with it
    rounding: float  # after training without it, one rounding error in each initial weight
    touched: list[str]  # what was asked of the track's problems before `train`


PROBED_STEPS = 8  # after 20, at high learning rates, one rounding error may lead half as far as another batch


class Enough(Exception):
    """Training has gone on for long enough."""


class StepLimit:
    """Stands in for the attempt's; lets a trainer train for a few steps, and not beyond its first check."""

    patience = 1  # every step is counted

    def __init__(self) -> None:
        self.ticks = 0

    def tick(self) -> None:
        self.ticks += 1
        if self.ticks > PROBED_STEPS:
            raise Enough

    def check(self, *report: Any) -> None:
        raise Enough


# -----------------------------------------------------------------------------
# weights


def weights_of(model: Transformer) -> Tensor:
    """All weights in one row, float64."""
    return torch.cat([weight.detach().double().flatten() for weight in model.parameters()])


def trained(trainer: Trainer) -> Tensor:
    """The weights after a few steps."""
    with contextlib.suppress(Enough):
        trainer.train(StepLimit())
    return weights_of(trainer.model)


@torch.no_grad()
def copy_weights(source: Transformer, target: Transformer) -> None:
    for theirs, own in zip(source.parameters(), target.parameters(), strict=True):
        own.copy_(theirs)


@torch.no_grad()
def misround(model: Transformer) -> None:
    """Change each weight by up to half a unit in the last place that the products' precision keeps of it."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        error = (torch.rand(weight.shape, generator=generator) - 0.5) * torch.finfo(model.dtype).eps
        weight.mul_(1 + error.to(weight.device))


def relative(difference: Tensor, to: Tensor) -> float:
    """The norm of a difference over another norm; at most 1e9, as JSON has no word for infinity."""
    return min(float(difference.norm() / to.norm()), 1e9) if difference.any() else 0.0


# -----------------------------------------------------------------------------
# the probes


def probe_seeds(plan: AttemptPlan, build: Build) -> Seeds:
    """Train from one seed's weights on the batches of two.

    A training step multiplies differences, in bfloat16 up to a fifth of all movement in so few steps. So how far
    rounding alone can lead is measured, too.
    """
    make = functools.partial(build, plan.settings, plan.track, plan.device, plan.dtype)
    one, other, rounded = make(plan.seed), make((plan.seed + 1) % 2**31), make(plan.seed)
    begun = weights_of(one.model)
    initial = relative(weights_of(other.model) - begun, begun)
    copy_weights(one.model, other.model)
    misround(rounded.model)
    ended = trained(one)
    moved = ended - begun
    return Seeds(
        initial=initial,
        batches=relative(trained(other) - ended, moved),
        rounding=relative(trained(rounded) - ended, moved),
    )


def probe_warmup(plan: AttemptPlan, build: Build) -> Warmup:
    """Train with the warm-up and without it, and note what is asked of the problems before `train` begins."""
    make = functools.partial(build, plan.settings, plan.track, plan.device, plan.dtype)
    with questions_noted() as touched:
        warm = make(plan.seed)
        warm.warm_up()
    cold, rounded = make(plan.seed), make(plan.seed)
    begun = weights_of(cold.model)
    misround(rounded.model)
    ended = trained(cold)
    moved = ended - begun
    return Warmup(
        skipped=relative(trained(warm) - ended, moved),
        rounding=relative(trained(rounded) - ended, moved),
        touched=sorted(touched),
    )


@contextlib.contextmanager
def questions_noted() -> Iterator[set[str]]:
    """The names of all methods and tables of tracks that are used meanwhile, also past the trainer's own track."""
    touched: set[str] = set()

    def noting(name: str, original: Any) -> property:
        def get(track: Any) -> Any:
            touched.add(name)
            return original.__get__(track, type(track))

        return property(get)  # goes before what a cached property has left in the track

    replaced = []
    for kind in {kind for track in map(get_track, TRACKS) for kind in type(track).__mro__[:-1]}:  # the last is `object`
        for name, original in list(vars(kind).items()):
            if hasattr(original, "__get__") and not name.startswith("__"):
                replaced.append((kind, name, original))
                setattr(kind, name, noting(name, original))
    try:
        yield touched
    finally:
        for kind, name, original in replaced:
            setattr(kind, name, original)


PROBES: dict[str, Callable[[AttemptPlan, Build], SchemaModel]] = {"seeds": probe_seeds, "warmup": probe_warmup}
