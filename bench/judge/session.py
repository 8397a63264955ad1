"""One attempt of a contestant in another process, from its first message to the verdict."""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from bench.clock import Clock
from bench.config import track_of
from bench.judge.certificate import Report
from bench.judge.protocol import INTERFACE, Channel, Message, ProtocolError
from bench.judge.verdict import Refused, Verdict, judge_weights, start_values
from bench.machine.noise import CounterReading, Noise, NoiseMonitor
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
        on_check: Callable[[dict[str, Any]], None] = lambda check: None,
        report: Report = lambda done: None,
    ) -> None:
        """`on_check` is called with each check that the contestant reports, `max_seconds` limits `train`.

        Weights that are not `is_fresh` start from those of another run. For `relabelling` see `start_values`.
        """
        self.channel, self.track, self.device, self.clock = channel, track, device, clock
        self.start = start_values(track, seed, relabelling)
        self.max_seconds, self.is_fresh, self.on_check, self.report = max_seconds, is_fresh, on_check, report
        self.noise_monitor = NoiseMonitor(device)
        self.reading: CounterReading = self.noise_monitor.reading()
        self.judged = Judged()

    def run(self) -> Judged:
        """Answer the contestant's messages until it closes the channel; returns what was found."""
        try:
            while (message := self.channel.receive()) is not None:
                self.answer(message)
        except (ProtocolError, Refused) as problem:
            self.judged.problem = str(problem)
        finally:
            self.clock.stop()
            self.channel.close()
        return self.judged

    def answer(self, message: Message) -> None:
        match message.kind:
            case "hello":
                self.check_hello(message)
            case "phase":
                self.enter(message.values.get("name"))
            case "ready":
                self.begin_training()
            case "check":
                self.on_check(message.values)
            case "trained":
                self.end_training(message)
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
        self.channel.socket.settimeout(self.max_seconds + PATIENCE_SECONDS)
        self.clock.enter("train")
        self.channel.send("start", **self.start)

    def end_training(self, message: Message) -> None:
        if self.clock.phase != "train":
            raise ProtocolError("the contestant has trained before it began")
        self.clock.enter("certify")
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
