"""What the trainer and the harness require of each other."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from bench.attempt.progress import Display
from bench.clock import Clock
from bench.judge.initial_weights import state_sha256
from bench.storage.schema import Check, Evaluated
from data import Track
from model import Transformer

TICK_SECONDS = 0.05  # the longest time between two ticks that the monitor aims at
MAX_PATIENCE = 64  # steps; a GPU runs behind the host, whose clock then says little about the pace of the steps


class Start(NamedTuple):
    """What training needs and the warm-up does not have; it is handed over when `train` begins."""

    track: Track  # the task, with permuted ids
    seed: int  # of all random numbers
    weights: dict[str, Tensor] | None = None  # to start from, with the setting `init_from`


class Trainer(Protocol):
    """The contestant: built in the phase `setup`, warmed up in `warmup`, trained in `train`."""

    model: Transformer
    track: Track  # from `train` on, the one it learns
    steps: int  # taken so far
    examples: int  # trained on so far

    @property
    def step_flops(self) -> int:
        """FLOPs of the matrix products of one step."""

    def warm_up(self) -> None:
        """Compile and capture on random tokens."""

    def step(self) -> None:
        """Take one optimizer step. Called again after the certificate, to count the operations of a step."""

    @property
    def take_steps(self) -> Callable[[int], None]:
        """Takes a number of optimizer steps; used in place of `step` if the model has a C kernel."""

    def train(self, watch: Any, start: Start) -> None:
        """Train from initial weights, up to the decision to stop; nothing of the warm-up may have an effect.

        `watch` is a TrainingMonitor, which the trainer informs of its initial weights, each step and each check.
        """


Build = Callable[[Any, Track, torch.device, torch.dtype], Trainer]  # settings, track, device, dtype


class Timeout(Exception):
    """`train` exceeded its time limit."""


class Diverged(Exception):
    """The loss is not finite."""


class Pruned(Exception):
    """The search that started this attempt has pruned it."""


class SplitResult(Protocol):
    """An evaluation of all problems of a split."""

    @property
    def problems(self) -> int:
        """Number of problems."""

    @property
    def errors(self) -> int:
        """Number of problems answered wrongly."""

    @property
    def loss(self) -> float:
        """Mean over the tokens with a target, nats."""


def finite(value: float | None) -> float | None:
    """The value, or None if it is not a finite number."""
    return value if value is not None and math.isfinite(value) else None


def evaluated(result: SplitResult | None) -> Evaluated | None:
    """The journalled form of a trainer's evaluation of a split."""
    if result is None:
        return None
    return Evaluated(problems=result.problems, errors=result.errors, loss=finite(result.loss))


class TrainingMonitor:
    """Receives the trainer's reports during training. `tick` and `check` raise an exception to end the attempt."""

    def __init__(
        self, clock: Clock, display: Display, max_seconds: float, send_check: Callable[[Check], None] | None = None
    ) -> None:
        """`send_check` is called with each check, if a search started the attempt."""
        self.clock, self.display, self.max_seconds, self.send_check = clock, display, max_seconds, send_check
        self.is_pruned = False  # set by a signal handler
        self.count_steps: Callable[[], int] = lambda: 0  # steps taken so far; set when there is a trainer
        self.checks: list[Check] = []
        self.reached: dict[str, float | None] = {}
        self.save_weights: Callable[[int], None] = lambda step: None  # called at each check
        self.patience = 1  # steps that the trainer may take before the next tick
        self.last_tick = 0.0  # seconds of `train`
        self.initial_weights_sha256: str | None = None

    def initialized(self, model: Transformer) -> None:
        """Called when the model has its initial weights, before the first step."""
        self.initial_weights_sha256 = state_sha256(model.state_dict())

    def tick(self) -> None:
        """Called before each step, or before up to `patience` steps, which take about TICK_SECONDS.

        Reads the host's clock and does not synchronise with the device. Raises Timeout or Pruned.
        """
        if self.is_pruned:
            raise Pruned("a check found more mistakes than any solved attempt of the search had in half the time")
        seconds = self.clock.elapsed()
        if seconds > self.max_seconds:
            limit = f"train reached its limit of {self.max_seconds:g} s"
            raise Timeout(f"{limit}; it ended after the step in progress, at {seconds:.2f} s")
        since_last_tick, self.last_tick = seconds - self.last_tick, seconds
        if since_last_tick < TICK_SECONDS / 2:
            self.patience = min(2 * self.patience, MAX_PATIENCE)
        elif since_last_tick > TICK_SECONDS:
            self.patience = max(1, self.patience // 2)
        if seconds >= self.display.next_tick:
            self.display.tick(seconds, self.count_steps())

    def check(
        self,
        step: int,
        loss: float,
        errors: int,
        reached: dict[str, bool],
        steps_left: int,
        asked: int | None = None,
        squared_norm: float | None = None,
        validation: SplitResult | None = None,
        test: SplitResult | None = None,
        training: SplitResult | None = None,
    ) -> None:
        """Report an evaluation on training problems. Raises Diverged if the loss is not finite.

        Args:
            step: steps taken so far.
            loss: of the latest batch, nats per token.
            errors: number of problems answered wrongly.
            reached: whether each named target is met now.
            steps_left: until the end of the round; training stops only at the end of a round.
            asked: number of problems evaluated.
            squared_norm: sum of the squares of all weights.
            validation: of the track's validation set, if it has one.
            test: of held-out problems, with the setting `curves`; of all problems if the track holds nothing out.
            training: of all training problems, with the setting `curves`, if fewer were evaluated otherwise.
        """
        seconds = self.clock.elapsed()
        check = Check(
            step=step,
            train_seconds=seconds,
            loss=finite(loss),
            errors=errors,
            asked=asked,
            squared_norm=finite(squared_norm),
            validation=evaluated(validation),
            test=evaluated(test),
            training=evaluated(training),
        )
        self.checks.append(check)
        for target, is_met in reached.items():
            if self.reached.get(target) is None:
                self.reached[target] = seconds if is_met else None
        self.display.check(check, steps_left)
        if self.send_check is not None:
            self.send_check(check)
        self.save_weights(step)
        if check.loss is None:
            raise Diverged(f"the loss was not finite at step {step}")
