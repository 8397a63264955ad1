"""One attempt of a contestant in another process, from its first message to the verdict."""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from bench.clock import Clock
from bench.config import track_of
from bench.judge.certificate import Report
from bench.judge.protocol import INTERFACE, Channel, Message, ProtocolError
from bench.judge.verdict import Refused, Verdict, judge_weights, start_values
from bench.machine.noise import CounterReading, Noise, NoiseMonitor
from bench.storage.jsonl import describe_invalid
from bench.storage.schema import Check
from tracks.base import Track
from tracks.registry import get_track

PATIENCE_SECONDS = 60.0  # beyond the limit of `train`, before a contestant that says nothing is given up


def prepared_track(settings: Mapping[str, Any]) -> Track:
    """The track of the settings of a run, ready to be asked; ValueError if it cannot be asked here."""
    name, track_settings = track_of(settings)
    track: Track = get_track(name, **track_settings)
    track.prepare()
    return track


@dataclasses.dataclass
class Judged:
    """What the judge has found; what it has not got to is None."""

    verdict: Verdict | None = None
    problem: str | None = None  # why there is no verdict, one line
    weights: bytes | None = None  # the file
    report: dict[str, Any] | None = None  # what the contestant says of its run
    noise_before: Noise | None = None
    noise_during_train: Noise | None = None

    @property
    def noise_reasons(self) -> list[str]:
        windows = self.noise_before, self.noise_during_train
        return [reason for noise in windows if noise is not None for reason in noise.reasons]


class Session:
    """Judges one attempt, whose process has just been started.

    The seconds are those of this process's clock: `train` begins when it sends what training needs, and ends when it
    holds the weights.
    """

    def __init__(
        self,
        channel: Channel,
        track: Track,
        seed: int,
        device: torch.device,
        clock: Clock,
        max_seconds: float,
        is_fresh: bool = True,
        relabelling: int | None = None,
        on_check: Callable[[Check], None] = lambda check: None,
        on_checkpoint: Callable[[int, bytes], None] = lambda step, weights: None,
        report: Report = lambda done: None,
    ) -> None:
        """Prepare the values of the message `start`.

        Args:
            max_seconds: the limit of `train`.
            is_fresh: training starts from weights by the law, not from those of another run.
            relabelling: see `start_values`.
            on_check: called with each evaluation during training.
            on_checkpoint: called with the step and the file of weights that the contestant hands over during training.
            report: called with the share of the problems that are certified, 0..1.
        """
        self.channel, self.track, self.device, self.clock = channel, track, device, clock
        self.start = start_values(track, seed, relabelling)
        self.max_seconds, self.is_fresh, self.report = max_seconds, is_fresh, report
        self.on_check, self.on_checkpoint = on_check, on_checkpoint
        self.deadline: float | None = None  # for the next message, on the monotonic clock
        self.noise_monitor = NoiseMonitor(device)
        self.reading: CounterReading = self.noise_monitor.reading()
        self.judged = Judged()

    def run(self) -> Judged:
        """Answer the contestant's messages up to its report, or until it closes the channel; returns what was found.

        After KeyboardInterrupt the channel is still open; see `receive_report`.
        """
        try:
            while self.judged.report is None and (message := self.receive()) is not None:
                self.answer(message)
        except (ProtocolError, Refused) as problem:
            self.judged.problem = str(problem)
        self.end()
        return self.judged

    def receive(self) -> Message | None:
        if self.deadline is not None:
            self.channel.socket.settimeout(max(1e-3, self.deadline - time.monotonic()))
        return self.channel.receive()

    def receive_report(self, seconds: float) -> None:
        """Receive the report of a contestant that has been interrupted, within some seconds; ignore the rest."""
        self.clock.stop()
        self.deadline = time.monotonic() + seconds
        with suppress(ProtocolError):
            while not self.channel.is_closed and self.judged.report is None and (message := self.receive()) is not None:
                if message.kind == "report":
                    self.judged.report = message.values
        self.end()

    def end(self) -> None:
        self.clock.stop()
        self.channel.close()

    def answer(self, message: Message) -> None:
        match message.kind:
            case "hello":
                self.check_hello(message)
            case "phase":
                self.enter(message.values.get("name"))
            case "ready":
                self.begin_training()
            case "check":
                self.on_check(check_of(message))
            case "checkpoint":
                self.keep_checkpoint(message)
            case "trained":
                self.end_training(message)
            case "report":
                self.judged.report = message.values
            case kind:
                raise ProtocolError(f"the protocol has no message {kind!r}")

    def check_hello(self, message: Message) -> None:
        interface, track = message.values.get("interface"), message.values.get("track")
        if interface != INTERFACE:
            raise ProtocolError(f"the contestant speaks version {interface} of the protocol, the judge {INTERFACE}")
        if track != self.track.name:
            raise ProtocolError(f"the contestant has prepared for {track}, the judge for {self.track.name}")

    def enter(self, phase: Any) -> None:
        try:
            if phase not in ("setup", "warmup"):  # the judge enters the others
                raise ValueError(f"a contestant cannot enter the phase {phase!r}")
            self.clock.enter(phase)
        except ValueError as problem:
            raise ProtocolError(str(problem)) from None

    def begin_training(self) -> None:
        if self.clock.seconds["train"] is not None or self.clock.phase in ("train", "certify", None):
            raise ProtocolError("the contestant was ready a second time")
        self.judged.noise_before = self.noise_monitor.since(self.reading, "before training")
        self.reading = self.noise_monitor.reading()
        self.deadline = time.monotonic() + self.max_seconds + PATIENCE_SECONDS
        self.clock.enter("train")
        self.channel.send("start", **self.start)

    def keep_checkpoint(self, message: Message) -> None:
        step = message.values.get("step")
        if self.clock.phase != "train" or type(step) is not int or step < 0:
            raise ProtocolError(f"a checkpoint is of a step during training, got {step!r}")
        self.on_checkpoint(step, message.payload)

    def end_training(self, message: Message) -> None:
        if self.clock.phase != "train":
            raise ProtocolError("weights came outside of training")
        self.clock.enter("certify")
        self.deadline = None
        self.channel.socket.settimeout(None)
        self.judged.noise_during_train = self.noise_monitor.since(self.reading, "during train")
        self.judged.weights = message.payload
        with tempfile.TemporaryDirectory(prefix="addition-speedrun-") as folder:
            path = Path(folder) / "weights.safetensors"
            path.write_bytes(message.payload)
            initial = str(message.values.get("initial_sha256")) if self.is_fresh else None
            verdict = judge_weights(path, initial, self.track, self.start, self.device, self.report)
        self.clock.stop()
        self.judged.verdict = verdict
        certificate = verdict.certificate.model_dump(mode="json")
        self.channel.send("certified", outcome=verdict.outcome, certificate=certificate, mistakes=verdict.mistakes)


def check_of(message: Message) -> Check:
    """The evaluation that a message `check` holds; raises ProtocolError."""
    try:
        return Check.model_validate(message.values)
    except ValidationError as problem:
        raise ProtocolError(f"check: {describe_invalid(problem)}") from None
