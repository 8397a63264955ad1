"""Teach a transformer three-digit addition as fast as the hardware allows, and prove it on all 1,000,000 problems.

`python speedrun.py` is one timed attempt: it trains from random weights, certifies what it saved, and files the run.
The board of what has been reached stands in results/LEADERBOARD.md.
"""

if __name__ == "__main__":  # before the slow imports: a Ctrl-C during them leaves without a traceback
    import os
    import signal

    for _number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_number, lambda *_: os._exit(130))

import sys
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import attempt
from bench.clock import Clock
from data import Track
from model import ModelConfig, Transformer
from optim import AdamW, Muon

# -----------------------------------------------------------------------------
# settings


@dataclass(frozen=True)
class Settings:
    """Everything that decides what is trained and how; configs in bench/configs set these, the command line too."""

    track: str = "add3"
    """What is learned; see data.py."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where it is trained; auto takes CUDA, then MPS, then the CPU."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of the matrix products; auto takes bfloat16 where the hardware multiplies it faster than float32."""
    compile: bool = False
    """Compile the step with torch.compile, during the warm-up."""
    cuda_graph: bool = False
    """On CUDA, capture the step as a graph and replay it."""
    threads: int = 0
    """CPU threads; 0 takes as many as there are cores."""
    max_seconds: float = 600.0
    """Limit on `train`, seconds."""

    n_layer: int = 1
    """Blocks."""
    n_head: int = 16
    """Attention heads."""
    n_embd: int = 128
    """Width of the residual stream."""
    n_hidden: int = 256
    """Width of the MLP."""
    activation: Literal["gelu", "silu", "relu2"] = "gelu"
    """Of the MLP."""

    num_steps: int = 500
    """Optimizer steps."""
    batch_size: int = 512
    """Problems a step."""
    level_share: float = 1.0
    """Share of the drawn problems that is spread evenly over the track's levels of difficulty, the rest being drawn
    uniformly, 0..1; in addition a level is a length of carry chains."""
    keep_share: float = 0.25
    """Share of each batch that is not drawn: the problems of the batch before with the highest loss, 0..1."""
    keep_from: float = 0.3
    """Share of the steps after which that begins, 0..1."""

    matrix_optimizer: Literal["muon", "adamw"] = "muon"
    """For the blocks' matrices; embeddings and the head always have AdamW."""
    muon_learning_rate: float = 0.06
    """Peak step size of Muon, in units of an orthogonal matrix."""
    muon_momentum: float = 0.95
    """Decay of Muon's running mean of the gradient, a step."""
    muon_iterations: int = 5
    """Newton-Schulz iterations a step."""
    adam_learning_rate: float = 0.01
    """Peak step size of AdamW."""
    adam_beta1: float = 0.9
    """Decay of AdamW's running mean of the gradient, a step."""
    adam_beta2: float = 0.95
    """Decay of AdamW's running mean of the squared gradient, a step."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay, a step and unit of learning rate."""
    warmup_steps: int = 20
    """Steps over which the learning rates rise from zero."""
    cooldown_share: float = 1.0
    """Share of the steps, at the end, over which the learning rates fall to zero, 0..1."""
    cooldown_power: float = 2.0
    """How they fall: as this power of the steps that are left; 1 is a line."""

    check_every: int = 100
    """Steps between sparse evaluations."""
    check_problems: int = 4096
    """Training problems in a sparse evaluation."""

    def __post_init__(self) -> None:
        positive = ("max_seconds", "num_steps", "batch_size", "check_every", "check_problems", "muon_iterations")
        for name in positive:
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a number above 0, got {getattr(self, name)}")
        for name in (
            "threads",
            "warmup_steps",
            "muon_learning_rate",
            "adam_learning_rate",
            "weight_decay",
            "cooldown_power",
        ):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a number not below 0, got {getattr(self, name)}")
        for name in ("level_share", "keep_share", "keep_from", "cooldown_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")
        for name in ("muon_momentum", "adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in 0..1, below 1, got {getattr(self, name)}")
        self.model_config(vocab_size=1, block_size=1)

    def model_config(self, vocab_size: int, block_size: int) -> ModelConfig:
        """Raises ValueError when the sizes do not go together."""
        return ModelConfig(
            vocab_size, block_size, self.n_layer, self.n_head, self.n_embd, self.n_hidden, self.activation
        )


def learning_rate_shape(settings: Settings) -> Tensor:
    """(num_steps,) float32 factors of the peak: up in a line, level, down to zero."""
    step = torch.arange(settings.num_steps, dtype=torch.float32)
    rise = (step + 1) / max(1, settings.warmup_steps)
    fall = (settings.num_steps - step) / max(1.0, settings.cooldown_share * settings.num_steps)
    return rise.clamp(max=1.0) * fall.clamp(max=1.0) ** settings.cooldown_power


# -----------------------------------------------------------------------------
# the trainer


class Trainer:
    """Model, optimizers and batches on the device; a step never waits for it, so it can be captured whole."""

    def __init__(self, settings: Settings, track: Track, device: torch.device, dtype: torch.dtype, seed: int) -> None:
        self.settings, self.track, self.device = settings, track, device
        self.steps = self.examples = 0

        # model: the text less its last character goes in, the answer's characters are asked for
        self.first = track.prompt_length - 1
        length = track.prompt_length + track.answer_length
        self.model = Transformer(settings.model_config(len(track.vocabulary), length - 1), dtype)
        self.model.initialize(torch.Generator().manual_seed(seed))
        self.model.to(device)

        # what a step reads and writes; all of it stays in place
        self.generator = torch.Generator(device).manual_seed(seed)
        self.draw_steps = min(settings.check_every, settings.num_steps)  # batches are drawn for so many steps at once
        num_kept = round(settings.batch_size * settings.keep_share)
        shape = (self.draw_steps, settings.batch_size, length)
        self.texts = torch.zeros(shape, dtype=torch.uint8, device=device)
        self.kept = torch.zeros(num_kept, length, dtype=torch.uint8, device=device)
        self.step_index = torch.zeros(1, dtype=torch.int64, device=device)
        self.loss = torch.zeros((), device=device)
        self.shape = learning_rate_shape(settings).to(device)
        self.adam_learning_rate = torch.zeros((), device=device)
        self.muon_learning_rate = torch.zeros((), device=device)

        # optimizers
        matrices = list(self.model.blocks.parameters()) if settings.matrix_optimizer == "muon" else []
        others = [weight for weight in self.model.parameters() if not any(weight is matrix for matrix in matrices)]
        self.muon = Muon(matrices, self.muon_learning_rate, settings.muon_momentum, settings.muon_iterations, dtype)
        betas = settings.adam_beta1, settings.adam_beta2
        self.adam = AdamW(others, self.adam_learning_rate, betas, settings.weight_decay)
        assert len(matrices) + len(others) == len(list(self.model.parameters()))
        self.take_step = self.step

    def state(self) -> list[Tensor]:
        """Every tensor that a step changes and the next one depends on."""
        optimizers = *self.muon.state(), *self.adam.state()
        return [*self.model.parameters(), *optimizers, self.step_index, self.loss, self.texts, self.kept]

    # -------------------------------------------------------------------------
    # one step

    def answer_losses(self, texts: Tensor) -> Tensor:
        """Texts (B, T + 1) int64 to the mean cross-entropy (B,) of each answer's characters, nats."""
        logits = self.model.forward_fast(texts[:, :-1], self.first)  # (B, answer_length, V)
        return F.cross_entropy(logits.transpose(1, 2), texts[:, self.first + 1 :], reduction="none").mean(1)

    def step(self) -> None:
        """Forward, backward and update on the batch that `step_index` points to."""
        drawn = self.texts.index_select(0, self.step_index % self.draw_steps).squeeze(0)
        keep = self.step_index >= self.settings.keep_from * self.settings.num_steps
        kept = torch.where(keep, self.kept, drawn[: len(self.kept)])
        texts = torch.cat([kept, drawn[len(self.kept) :]])  # (B, T + 1)
        losses = self.answer_losses(texts.long())
        loss = losses.mean()
        loss.backward()

        factor = self.shape.index_select(0, self.step_index).squeeze(0)
        self.adam_learning_rate.copy_(factor * self.settings.adam_learning_rate)
        self.muon_learning_rate.copy_(factor * self.settings.muon_learning_rate)
        self.adam.step()
        self.muon.step()
        self.model.zero_grad()

        # the next batch may begin with the hardest of this one (after Loshchilov and Hutter, 2015)
        hardest = losses.detach().topk(len(self.kept)).indices
        self.kept.copy_(texts.index_select(0, hardest))
        self.loss.copy_(loss.detach())
        self.step_index += 1

    # -------------------------------------------------------------------------
    # warm-up: compile and capture on random tokens, then put everything back

    def warm_up(self) -> None:
        before = [tensor.clone() for tensor in self.state()]
        tokens = torch.randint(len(self.track.vocabulary), self.texts.shape, generator=torch.Generator().manual_seed(0))
        self.texts.copy_(tokens)
        if self.settings.compile:
            self.answer_losses = torch.compile(self.answer_losses, dynamic=False)
        if self.settings.cuda_graph and self.device.type == "cuda":
            self.capture()
        else:
            self.step()
        with torch.no_grad():
            for tensor, value in zip(self.state(), before, strict=True):
                tensor.copy_(value)

    def capture(self) -> None:
        """Record the step as a CUDA graph; replaying it costs one launch."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # libraries choose their kernels and workspaces outside the capture
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        self.take_step = graph.replay

    # -------------------------------------------------------------------------
    # training

    def train(self, watch: attempt.Watch) -> None:
        """All steps, with a sparse evaluation now and then; the last one is after the last step."""
        settings = self.settings
        sampler = self.track.sampler(settings.level_share, self.device)
        check_texts = self.track.tokens(sampler.draw(1, settings.check_problems, self.generator))[0]
        sample_texts = {
            name: self.track.tokens(torch.from_numpy(problems).to(self.device))
            for name, problems in self.track.samples.items()
        }
        for step in range(settings.num_steps):
            watch.tick()
            if step % self.draw_steps == 0:
                draw = sampler.draw(self.draw_steps, settings.batch_size, self.generator)
                self.texts.copy_(self.track.tokens(draw))
            self.take_step()
            self.steps, self.examples = step + 1, (step + 1) * settings.batch_size
            if self.steps % settings.check_every == 0 or self.steps == settings.num_steps:
                errors = self.count_errors(check_texts)
                reached = {name: self.count_errors(texts) == 0 for name, texts in sample_texts.items()}
                reached["99%"] = errors <= settings.check_problems / 100
                watch.check(self.steps, float(self.loss), errors, reached)

    def texts_of(self, problems: Tensor) -> Tensor:
        """Problem numbers (...) to texts (..., T + 1) uint8."""
        return self.track.tokens(problems)

    @torch.no_grad()
    def count_errors(self, texts: Tensor) -> int:
        """How many of the texts (N, T + 1) the model answers wrongly.

        One pass with the right answer as its input finds the same as decoding would: up to its first mistake, the
        model's own output is the right answer.
        """
        texts = texts.long()
        answers = self.model.forward_fast(texts[:, :-1], self.first).argmax(-1)
        return int((answers != texts[:, self.first + 1 :]).any(-1).sum())


if __name__ == "__main__":
    sys.exit(attempt.main(Settings, Trainer, Clock(), sys.argv[1:], __doc__))
