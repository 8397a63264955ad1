"""The trainer's settings: everything that decides what is trained and how, each with its meaning and unit."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from data import TRACKS
from model import ModelConfig


@dataclass(frozen=True)
class Settings:
    """Configs in bench/configs set these, the command line too."""

    track: str = "add3"
    """What is learned; see data.py."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where it is trained; auto takes CUDA where there is a GPU, else the CPU."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of the matrix products; auto takes bfloat16 where the hardware and what takes the steps are faster by it."""
    compile: bool = False
    """Compile the step with torch.compile, during the warm-up."""
    kernel: Literal["auto", "c", "torch"] = "torch"
    """What takes the steps; auto takes kernel.c on a CPU, where it fits and a C compiler is found, not on Windows."""
    cuda_graph: bool = False
    """On CUDA, capture the step as a graph and replay it."""
    threads: int = 0
    """CPU threads; 0 takes as many as there are cores."""
    max_seconds: float = 600.0
    """Limit on `train`, seconds."""
    control: Literal["none", "permute", "shuffle", "poison"] = "none"
    """Change the track as `bench audit` does to test the trainer; such a run never stands on the board."""

    n_layer: int = 1
    """Blocks."""
    n_head: int = 16
    """Attention heads."""
    n_embd: int = 64
    """Width of the residual stream."""
    n_hidden: int = 128
    """Width of the MLP."""
    activation: Literal["gelu", "silu", "relu2", "gelu_tanh"] = "gelu"
    """Of the MLP."""
    norm: Literal["rms", "layer", "layer_gain"] = "rms"
    """RMSNorm, LayerNorm, or LayerNorm with a gain; none has a bias."""
    init: Literal["identity", "gpt2"] = "identity"
    """Of the matrices: so that each block begins as the identity, or as GPT-2's."""
    tied: bool = False
    """Whether the head's weights are the embeddings of the characters."""
    dropout: float = 0.0
    """In training, 0..1, below 1."""
    embedding_std: float = 0.12
    """Standard deviation of the embeddings' initial values; the smaller, the faster the optimizer turns them."""

    num_steps: int = 260
    """Optimizer steps of a round."""
    max_rounds: int = 12
    """Rounds at the most; training ends with the first one whose survey finds nothing wrong."""
    resume_at: int = 150
    """The step of the schedule at which the rounds after the first begin; 0 where it lies beyond their end."""
    start_over_above: int = 5000
    """More mistakes than this in a survey, those it climbed to included, and fresh weights begin anew; problems."""
    batch_size: int = 512
    """Problems a step, of all processes together."""
    micro_batches: int = 1
    """Parts in which each process computes its share of a batch, one after the other; more take less memory."""
    level_share: float = 0.65
    """Share of what is drawn evenly from the levels of difficulty, in addition lengths of carry chains, 0..1."""
    survey_problems: int = 100_000
    """Training problems that are drawn and asked at the end of a round."""
    survey_as_exam: bool = False
    """Draw them all uniformly, as an exam's are drawn, and not as a batch's."""
    survey_climbs: int = 0
    """Times that a survey asks what lies next to the hardest found so far: mistakes too rare to be drawn."""
    survey_loss: float = 0.1
    """A survey is passed without a mistake and with no character's loss above this, nats."""
    drill_problems: int = 2048
    """The hardest problems of the latest survey, which the next round drills."""
    drill_share: float = 0.25
    """Share of each batch that is drawn from them, 0..1, below 1."""
    loss_on: Literal["answer", "all"] = "answer"
    """Which characters are learned: the answer's, or each that follows another."""
    stop_at: Literal["survey", "99%"] = "survey"
    """What ends training before its last round: a survey that is passed, or a check with 1% of mistakes at the most."""

    matrix_optimizer: Literal["muon", "adamw"] = "muon"
    """For the blocks' matrices; embeddings, gains and the head always have AdamW."""
    muon_learning_rate: float = 0.15
    """Peak step size of Muon, in units of an orthogonal matrix."""
    muon_momentum: float = 0.8
    """Decay of Muon's running mean of the gradient, a step."""
    muon_iterations: int = 5
    """Newton-Schulz iterations a step."""
    muon_weight_decay: float = 0.1
    """Muon's decoupled weight decay, a step and unit of learning rate."""
    adam_learning_rate: float = 0.08
    """Peak step size of AdamW."""
    adam_beta1: float = 0.9
    """Decay of AdamW's running mean of the gradient, a step."""
    adam_beta2: float = 0.95
    """Decay of AdamW's running mean of the squared gradient, a step."""
    adam_weight_decay: float = 0.1
    """AdamW's decoupled weight decay, a step and unit of learning rate; gains have none."""
    clip_norm: float = 0.0
    """The gradient's largest norm, over all weights together; longer ones are cut to it; 0 cuts none."""
    warmup_steps: int = 10
    """Steps over which the learning rates rise from zero."""
    decay: Literal["power", "cosine", "constant"] = "power"
    """How they fall in a round: as a power of the steps left, as half a cosine from the peak on, or not at all."""
    decay_power: float = 2.0
    """That power; 1 is a line."""
    decay_to: float = 0.0
    """The share of the peak that they fall to, 0..1."""

    check_every: int = 50
    """Steps between sparse evaluations."""
    check_problems: int = 4096
    """Training problems in a sparse evaluation."""

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no training can have."""
        counts = (
            "num_steps max_rounds batch_size micro_batches survey_problems drill_problems check_every check_problems"
        )
        self.check(f"{counts} muon_iterations max_seconds", lambda value: 0 < value < 2**31, "above 0 and below 2**31")
        self.check(
            "threads resume_at start_over_above warmup_steps survey_climbs",
            lambda value: 0 <= value < 2**31,
            "in 0..2**31",
        )
        amounts = "muon_learning_rate muon_weight_decay adam_learning_rate adam_weight_decay decay_power survey_loss"
        self.check(f"{amounts} clip_norm", lambda value: 0 <= value < float("inf"), "a number not below 0")
        self.shared_among(processes=1)
        track = TRACKS.get(self.track)
        if track is not None and track.is_stream and self.loss_on != "all":
            raise ValueError(f"loss_on: a window of {self.track} begins anywhere and has no answer; set it to all")
        self.check("level_share decay_to", lambda value: 0 <= value <= 1, "in 0..1")
        self.check("drill_share muon_momentum adam_beta1 adam_beta2", lambda value: 0 <= value < 1, "in 0..1, below 1")
        self.model_config(vocab_size=1, block_size=1)

    def check(self, names: str, is_right: Callable[[float], bool], wanted: str) -> None:
        for name in names.split():
            if not is_right(getattr(self, name)):
                raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)}")

    def shared_among(self, processes: int) -> "Settings":
        """These for so many processes that train together, which neither kernel.c nor a CUDA graph can do.

        Raises:
            ValueError: a batch cannot be shared out evenly, or kernel.c was asked for.
        """
        if self.batch_size % (processes * self.micro_batches):
            among = f"{processes} processes of {self.micro_batches} micro_batches each"
            raise ValueError(f"batch_size must be a multiple of {among}, got {self.batch_size}")
        if processes == 1:
            return self
        if self.kernel == "c":
            raise ValueError("kernel c takes the steps of one process; several use --kernel auto")
        return replace(self, kernel="torch", cuda_graph=False)

    @property
    def kernel_problem(self) -> str | None:
        """Why kernel.c cannot compute the step, or None."""
        if self.micro_batches > 1:
            return "it takes batches whole"
        if self.compile:
            return "torch.compile is to compile the step"
        if self.clip_norm:
            return "it clips no gradients"
        return self.model_config(vocab_size=1, block_size=1).kernel_problem

    def model_config(self, vocab_size: int, block_size: int) -> ModelConfig:
        """Raises ValueError when the sizes do not go together."""
        sizes = self.n_layer, self.n_head, self.n_embd, self.n_hidden
        kinds = self.norm, self.init, self.tied, self.dropout
        return ModelConfig(vocab_size, block_size, *sizes, self.activation, self.embedding_std, *kinds)


def learning_rate_shape(settings: Settings) -> Tensor:
    """(num_steps,) float32 factors of the peak: up in a line while they fall in the course of a round."""
    step, peak = torch.arange(settings.num_steps), max(0, settings.warmup_steps - 1)
    rise = ((step + 1) / (peak + 1)).clamp(max=1.0)
    match settings.decay:
        case "power":
            left = (1 - step / settings.num_steps) ** settings.decay_power
        case "cosine":  # SGDR (Loshchilov and Hutter, 2017)
            gone = ((step - peak) / max(1, settings.num_steps - peak)).clamp(min=0.0)
            left = (1 + (torch.pi * gone).cos()) / 2
        case "constant":
            left = torch.ones(settings.num_steps)
    return rise * (settings.decay_to + (1 - settings.decay_to) * left)
