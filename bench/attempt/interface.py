"""What a trainer and the harness require of each other."""

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch

from bench.attempt.progress import Display
from bench.clock import Clock
from bench.storage.schema import Check
from data import Track
from model import Transformer


class Settings(Protocol):
    """What the harness reads of the trainer's settings (a frozen dataclass); the rest is the trainer's business."""

    track: str
    device: str
    precision: str
    compile: bool
    kernel: str
    kernel_problem: str | None  # why the C kernel cannot compute such a step
    threads: int
    max_seconds: float
    control: str

    def shared_among(self, processes: int) -> "Settings":
        """The same for so many processes that train together; raises ValueError where they cannot."""


class Trainer(Protocol):
    """The contestant: built in `setup`, warmed up in `warmup`, trained in `train`."""

    model: Transformer
    steps: int  # taken so far
    examples: int  # trained on so far
    step_flops: int  # of the matrix products of one step

    def warm_up(self) -> None:
        """Compile and capture on random tokens; leave weights, optimizer and random state as they were."""

    def step(self) -> None:
        """One optimizer step; called once more after the certificate, to count what it gives to torch."""

    def train(self, watch: Any) -> None:
        """From the first touch of training data to the decision to stop.

        `watch` is the harness's, `bench.attempt.Watch`: to be told of each step and each check.
        """


Build = Callable[[Settings, Track, torch.device, torch.dtype, int], Trainer]


class Timeout(Exception):
    """`train` took longer than its limit."""


class Diverged(Exception):
    """The loss is no longer a finite number."""


class Pruned(Exception):
    """The search that started the attempt has seen enough of it."""


TICK_SECONDS = 0.05  # so often a trainer is to report
MOST_PATIENCE = 64  # steps; where a GPU takes them later, the host's clock tells nothing about their pace


class TrainingMonitor:
    """What the trainer reports to while it trains; either call may end the attempt."""

    def __init__(
        self, clock: Clock, display: Display, max_seconds: float, follower: Callable[[str], None] | None = None
    ) -> None:
        """`follower` is told of each check, as a line of JSON."""
        self.clock = clock
        self.follower = follower
        self.is_given_up = False  # by the follower
        self.display = display
        self.max_seconds = max_seconds
        self.checks: list[Check] = []
        self.reached: dict[str, float | None] = {}
        self.patience = 1  # steps that may be taken before the next tick
        self.ticked = 0.0  # when, on the clock

    def tick(self) -> None:
        """Call before each step, or before as many as `patience` allows: those of about a twentieth of a second.

        Reads the host's clock and never waits for the device.

        Raises:
            Timeout: `train` has reached its limit.
            Pruned: the follower has given it up.
        """
        if self.is_given_up:
            raise Pruned("a check found more mistakes than any solved attempt of the search had in half the time")
        seconds = self.clock.elapsed()
        if seconds > self.max_seconds:
            raise Timeout(f"train reached its limit of {self.max_seconds:g} s")
        gone, self.ticked = seconds - self.ticked, seconds
        if gone < TICK_SECONDS / 2:
            self.patience = min(2 * self.patience, MOST_PATIENCE)
        elif gone > TICK_SECONDS:
            self.patience = max(1, self.patience // 2)

    def check(
        self,
        step: int,
        loss: float,
        errors: int,
        reached: dict[str, bool],
        steps_left: int,
        asked: int | None = None,
    ) -> None:
        """Report a sparse evaluation.

        Args:
            step: taken so far.
            loss: of the latest batch, nats a character.
            errors: in the training problems that were asked.
            reached: which of the named targets are met now.
            steps_left: of the round, before training may stop.
            asked: how many they were; trainers of older records do not say.

        Raises:
            Diverged: the loss is not finite.
        """
        seconds = self.clock.elapsed()
        finite = loss if math.isfinite(loss) else None
        check = Check(step=step, train_seconds=seconds, loss=finite, errors=errors, asked=asked)
        self.checks.append(check)
        for target, met in reached.items():
            if self.reached.get(target) is None:
                self.reached[target] = seconds if met else None
        self.display.check(check, steps_left)
        if self.follower is not None:
            self.follower(check.model_dump_json())
        if check.loss is None:
            raise Diverged(f"the loss was not finite at step {step}")
