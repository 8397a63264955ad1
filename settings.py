"""The settings of the trainer, each with its meaning and unit. Imports no torch."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Literal

from kernel_compiler import Compilation, compilation
from model_config import ModelConfig
from tracks.descriptions import (
    TRACKS,
    BatchOptions,
    TrackDescription,
    TrackSettings,
    describe_track,
    resolve_track_settings,
)


@dataclass(frozen=True)
class Settings:
    """Set by a config in bench/configs, then by the command line."""

    # Each group of settings with its first one; on a command line, `model.n_layer=2` means `--n-layer 2`.
    GROUPS = (("run", "track"), ("model", "n_layer"), ("train", "num_steps"), ("optimizer", "matrix_optimizer"))

    track: str = "add3"  # The task to learn; `python -m bench tracks` lists them.
    # Settings of the track itself, such as the modulus p, in addition to its defaults; most tracks have none.
    track_settings: TrackSettings = field(default_factory=dict)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # Auto selects CUDA if there is a GPU, else the CPU.
    # Precision of matrix products; auto selects bfloat16 if it is faster on this hardware with this kernel.
    precision: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    compile: bool = False  # Whether to compile the step with torch.compile during the warm-up.
    # Implementation of the step; auto selects kernel.c on a CPU if it supports the model and a C compiler is found.
    kernel: Literal["auto", "c", "torch"] = "torch"
    cuda_graph: bool = False  # Whether to capture the step as a CUDA graph and replay it; ignored on other devices.
    threads: int = 0  # Number of CPU threads; 0 selects the number of cores.
    max_seconds: float = 600.0  # Limit of the phase `train`, seconds.
    # Alteration of the track by which `bench audit` tests the trainer; such a run is never ranked.
    control: Literal["none", "shuffle", "poison"] = "none"

    # Number of transformer blocks; torch computes more than one, several times slower than kernel.c computes one.
    n_layer: int = 1
    n_head: int = 16  # Number of attention heads.
    n_embd: int = 64  # Width of the residual stream.
    n_hidden: int = 128  # Width of the MLP.
    # Activation function of the MLP; swiglu has a third matrix, a gate.
    activation: Literal["gelu", "silu", "relu2", "gelu_tanh", "swiglu"] = "gelu"
    # RMSNorm, LayerNorm without parameters, or LayerNorm with a gain.
    norm: Literal["rms", "layer", "layer_gain"] = "rms"
    # Initial values of the matrices: each block starts as the identity, or as in GPT-2.
    init: Literal["identity", "gpt2"] = "identity"
    tied: bool = False  # Whether the head shares its weights with the token embedding.
    norm_position: Literal["pre", "post"] = "pre"  # Norm of a sublayer's input, or of its sum with the residual stream.
    # Biases of the MLP, the head and norms with a gain (mlp), also of attention (all), or none.
    bias: Literal["none", "mlp", "all"] = "none"
    # Embeddings, rotations of queries and keys, or a learned bias of the scores for each head and distance.
    position_encoding: Literal["learned", "rotary", "relative"] = "learned"
    # Tokens that a token attends to in the last block, itself included, with relative positions; the windows of the
    # blocks before are shorter in equal steps; 0: all.
    attention_window: int = 0
    bigrams: bool = False  # Whether pairs of neighbouring characters have embeddings and are predicted jointly.
    dropout: float = 0.0  # Dropout probability in training, 0..1, below 1.
    # Largest rate of the dropout that draws a rate for each text and drops the same units in all layers; 0: none.
    shared_dropout: float = 0.0
    # Standard deviation of the initial embeddings; a smaller value lets each step change them more.
    embedding_std: float = 0.12

    # Order in which the tokens of a training text are generated; alternating draws one of the first two for each text,
    # pseudo-random prefers neighbours of the latest token, number-last moves one number to the end of the text.
    order: Literal["left-to-right", "right-to-left", "alternating", "pseudo-random", "uniform", "number-last"] = (
        "left-to-right"
    )

    # Sets of initial weights to draw; training starts from the one with the lowest loss on a training batch.
    initial_states: int = 1
    # Run whose weights training starts from, with new optimizer state: a run id, RUN@STEP, a path to weights or latest;
    # without one, training starts from random weights. Such a run is never ranked. The journal holds the sha256.
    init_from: str = ""
    num_steps: int = 260  # Optimizer steps in a round.
    # Passes over all training problems in a round; above 0 it sets num_steps, which is then left out.
    num_epochs: float = 0.0
    max_rounds: int = 12  # Largest number of rounds; training ends after the first round that passes its evaluation.
    # Step of the schedule at which later rounds start; they start at 0 if it is not below num_steps.
    resume_at: int = 150
    # Restart from new random weights after more errors than this in an end-of-round evaluation, problems.
    start_over_above: int = 5000
    batch_size: int = 512  # Training texts per step, over all processes.
    # Sequential parts into which each process splits its share of a batch; more parts need less memory.
    micro_batches: int = 1
    # Draw each problem independently, or all training problems in random order, epoch by epoch.
    sampling: Literal["independent", "epochs"] = "independent"
    # Length of training texts that are windows of one long text and can start anywhere in it, tokens; 0: each training
    # text is a problem. Tracks of lines and of texts.
    window: int = 0
    # Share of the drawn problems that is spread evenly over the track's levels of difficulty, 0..1.
    level_share: float = 0.65
    # Share of the steps of a round in which level_share applies, 0..1; later steps draw uniformly.
    level_until: float = 1.0
    evaluation_problems: int = 100_000  # Training problems drawn for an end-of-round evaluation.
    # Whether to draw them uniformly, as for a test set, instead of by levels as for a batch.
    evaluation_uniform: bool = False
    hard_search_steps: int = 0  # Iterations of the hard-example search at the end of a round; 0 disables it.
    # An evaluation is passed with no error, and no right answer whose logit exceeds the largest other one by less.
    evaluation_min_margin: float = 2.0
    # Largest share of errors with which an evaluation passes, 0..1; above 0, margins do not count.
    evaluation_max_error_rate: float = 0.0
    # Number of hard examples kept for replay: those with the largest losses in the end-of-round evaluation.
    replay_problems: int = 2048
    replay_share: float = 0.25  # Share of each batch that replays hard examples, 0..1, below 1.
    # Characters that contribute to the loss: those of the answer, or all but the first of a text.
    loss_on: Literal["answer", "all"] = "answer"
    # With loss_on = answer in another order than left-to-right, where the answer is the number that is completed last:
    # the probability that the number before it has a loss, 0..1; for the others its square.
    earlier_loss: float = 0.0
    # Stop after a round that passes its evaluation, at the first check that passes it (check), or at the first check
    # with at most 1% errors (99%).
    stop_at: Literal["evaluation", "check", "99%"] = "evaluation"
    check_every: int = 50  # Steps between checks, the sparse evaluations during a round.
    check_problems: int = 4096  # Training problems drawn for a check.
    # Training ends with the last weights, or with those of the check with the lowest validation loss (best), unless the
    # last ones meet the criterion of stop_at.
    checkpoint: Literal["last", "best"] = "last"
    # Steps between weights saved during training, a multiple of check_every; in later rounds at the first check after
    # each multiple; 0 saves none.
    checkpoint_every: int = 0
    # Whether checks evaluate held-out problems, too, and all training problems if there are at most 100,000, for
    # learning curves; such a run is never ranked.
    curves: bool = False

    # Optimizer of the blocks' matrices; embeddings, gains and the head always use AdamW.
    # With adamw, adam (whose weight decay is in the gradient) or lion, that optimizer updates all weights.
    matrix_optimizer: Literal["muon", "adamw", "adam", "lion"] = "muon"
    muon_learning_rate: float = 0.15  # Peak learning rate of Muon: the scale of the orthogonal update.
    muon_momentum: float = 0.8  # Decay per step of Muon's running mean of the gradient.
    muon_iterations: int = 5  # Newton-Schulz iterations per step.
    muon_weight_decay: float = 0.1  # Decoupled weight decay of Muon, per step and unit of learning rate.
    adam_learning_rate: float = 0.08  # Peak learning rate of AdamW.
    adam_beta1: float = 0.9  # Decay per step of AdamW's running mean of the gradient.
    adam_beta2: float = 0.95  # Decay per step of AdamW's running mean of the squared gradient.
    adam_epsilon: float = 1e-8  # Added by AdamW to the root of the mean squared gradient.
    adam_weight_decay: float = 0.1  # Decoupled weight decay of AdamW, per step and unit of learning rate.
    decay_on: Literal["matrices", "all"] = "matrices"  # Weights that have it: all but gains and biases, or all.
    # Largest norm of the gradient over all weights; larger gradients are scaled down to it; 0 disables clipping.
    clip_norm: float = 0.0
    warmup_steps: int = 10  # Steps of linear learning-rate warm-up.
    grad_scaler: bool = False  # Whether to scale the loss by torch.amp.GradScaler, as float16 requires.
    # Grokfast: adds this many times a running mean of the gradients, with this decay per step, to them; 0 disables it.
    grokfast_lambda: float = 0.0
    grokfast_alpha: float = 0.98
    max_row_norm: float = 0.0  # Largest norm of a row of a matrix after a step; 0 disables the bound.
    # Decay of the learning rates in a round: a power of the remaining steps, a half cosine, the inverse square root of
    # the step from the end of the warm-up on (noam), or none.
    decay: Literal["power", "cosine", "noam", "constant"] = "power"
    decay_steps: int = 0  # Steps after which the decay ends; 0: with the round.
    schedule_unit: Literal["step", "epoch"] = "step"  # In which warmup_steps and decay_steps count; rates change by it.
    decay_power: float = 2.0  # Exponent of the power decay; 1 is linear.
    decay_to: float = 0.0  # Final learning rate as a share of the peak, 0..1.

    def __post_init__(self) -> None:
        """Raise ValueError for a value that no training run can have."""
        counts = "num_steps max_rounds batch_size micro_batches evaluation_problems replay_problems check_every"
        others = "initial_states check_problems muon_iterations max_seconds"
        self.check(f"{counts} {others}", lambda value: 0 < value < 2**31, "above 0 and below 2**31")
        counts = "threads window resume_at start_over_above warmup_steps hard_search_steps checkpoint_every decay_steps"
        self.check(counts, lambda value: 0 <= value < 2**31, "in 0..2**31")
        rates = "muon_learning_rate muon_weight_decay adam_learning_rate adam_weight_decay"
        others = "decay_power evaluation_min_margin clip_norm num_epochs adam_epsilon grokfast_lambda max_row_norm"
        self.check(f"{rates} {others}", lambda value: 0 <= value < float("inf"), "finite and at least 0")
        self.shared_among(processes=1)
        if self.track in TRACKS:
            self.resolve_track_settings()
            track, is_stream = self.track, self.track_description.is_stream
            if is_stream and self.loss_on != "all":
                raise ValueError(f"loss_on: a window of {track} can start anywhere and has no answer; set it to all")
            if self.loss_on == "all" and not self.track_description.learns_prompts:
                raise ValueError(f"loss_on: {self.track_description.name} has no loss on its prompt; set it to answer")
            if self.any_order and not self.track_description.has_orders:
                raise ValueError(f"order: {track} is generated from left to right; set it to left-to-right")
            if self.window:
                self.check_window()
            if self.sampling == "epochs" and (is_stream or self.window or self.track_description.num_training is None):
                raise ValueError(f"sampling: {track} has no list of training problems; set it to independent")
            if self.checkpoint == "best" and not self.track_description.has_validation:
                raise ValueError(f"checkpoint: {track} has no validation set to choose the best by; set it to last")
            if self.num_epochs:
                self.resolve_epochs()
            if self.schedule_unit == "epoch" and self.track_description.num_training is None:
                raise ValueError(f"schedule_unit: {track} has no list of training problems; set it to step")
        if self.checkpoint_every % self.check_every:
            raise ValueError(f"checkpoint_every must be a multiple of check_every ({self.check_every})")
        self.check(
            "level_share level_until earlier_loss decay_to evaluation_max_error_rate",
            lambda value: 0 <= value <= 1,
            "in 0..1",
        )
        shares = "replay_share muon_momentum adam_beta1 adam_beta2 grokfast_alpha"
        self.check(shares, lambda value: 0 <= value < 1, "in 0..1, below 1")
        self.check_initial_states()
        vocab_size = len(self.track_description.vocabulary) if self.track in TRACKS else 1
        self.model_config(vocab_size, block_size=1)

    def check(self, names: str, is_valid: Callable[[float], bool], requirement: str) -> None:
        """Raise ValueError when one of the named fields is not valid."""
        for name in names.split():
            if not is_valid(getattr(self, name)):
                raise ValueError(f"{name} must be {requirement}, got {getattr(self, name)}")

    def check_initial_states(self) -> None:
        """Raise ValueError if the loss cannot tell initial states apart, or nothing is drawn."""
        if self.initial_states == 1:
            return
        if self.init_from:
            raise ValueError("initial_states: init_from draws no initial weights; set initial_states to 1")
        if self.init == "identity" and not (self.tied or self.bigrams):
            raise ValueError(
                "initial_states: with init = identity the head is zero, and all initial states have the same loss; "
                "set init to gpt2, or tied to true"
            )

    def resolve_track_settings(self) -> None:
        """Add the defaults of the track to `track_settings`; raise ValueError for a setting that it cannot have."""
        object.__setattr__(self, "track_settings", resolve_track_settings(self.track, self.track_settings))

    def check_window(self) -> None:
        """Raise ValueError if the training texts of the track cannot be windows of this length."""
        description = self.track_description
        longest = description.block_size
        if not description.has_windows:
            raise ValueError(f"window: {description.name} has no long text; set it to 0")
        if not 2 <= self.window <= longest:
            raise ValueError(
                f"window must be from 2 to {longest}, the context of {description.name}; got {self.window}"
            )
        if self.loss_on != "all":
            raise ValueError("window: a window can start anywhere and has no answer; set loss_on to all")

    def resolve_epochs(self) -> None:
        """Set `num_steps` by `num_epochs`; raise ValueError where the training problems are not listed."""
        num_training = self.track_description.num_training
        if num_training is None:
            raise ValueError(f"num_epochs: {self.track} has no list of training problems; set num_steps instead")
        object.__setattr__(self, "num_steps", math.ceil(self.num_epochs * num_training / self.batch_size))

    @cached_property
    def track_description(self) -> TrackDescription:
        """The track with these settings; raises KeyError for an unknown track."""
        return describe_track(self.track, self.track_settings)

    def shared_among(self, processes: int) -> "Settings":
        """Return these settings for `processes` processes; several use neither kernel.c nor a CUDA graph.

        Raises ValueError if the batch cannot be split evenly, or `kernel` is c.
        """
        if self.batch_size % (processes * self.micro_batches):
            several = f"{processes} processes times " if processes > 1 else ""
            parts = f"{several}micro_batches ({self.micro_batches})"
            raise ValueError(f"batch_size must be a multiple of {parts}, got {self.batch_size}")
        if processes == 1:
            return self
        if self.kernel == "c":
            raise ValueError("kernel c supports a single process; use --kernel auto")
        return replace(self, kernel="torch", cuda_graph=False)

    @property
    def any_order(self) -> bool:
        """Whether texts are generated in another order than from left to right."""
        return self.order != "left-to-right"

    @property
    def has_recipe_update(self) -> bool:
        """Whether `recipes.updates` takes part in the update of the weights."""
        return bool(self.grad_scaler or self.grokfast_lambda or self.max_row_norm)

    @property
    def schedule_interval(self) -> float:
        """The number of steps in a unit of the schedule."""
        if self.schedule_unit == "step":
            return 1
        return (self.track_description.num_training or 0) / self.batch_size

    @property
    def kernel_problem(self) -> str | None:
        """The reason why kernel.c cannot compute the step, or None."""
        if self.micro_batches > 1:
            return f"kernel.c does not split batches; this config has micro_batches = {self.micro_batches}"
        if self.compile:
            return "torch.compile compiles the step"
        if self.has_recipe_update:
            return "kernel.c does without grad_scaler, grokfast_lambda and max_row_norm; this config sets one"
        if self.matrix_optimizer not in ("muon", "adamw"):
            return f"kernel.c has Muon and AdamW; this config has matrix_optimizer = {self.matrix_optimizer}"
        if self.clip_norm:
            return f"kernel.c does not clip gradients; this config has clip_norm = {self.clip_norm:g}"
        if self.track not in TRACKS:
            return None
        description = self.track_description
        if not (description.is_one_length or description.has_uniform_texts or self.window):
            return f"kernel.c computes only texts of one length; those of {self.track_description.name} are padded"
        return self.model_config(len(self.track_description.vocabulary), block_size=1).kernel_problem

    def kernel_compilation(self, precision: str) -> Compilation:
        """Start to compile kernel.c for this model, unless that has been done; `precision` is float32 or bfloat16."""
        vocab_size = len(self.track_description.vocabulary)
        return compilation(self.model_config(vocab_size, block_size=1).kernel_constants(precision))

    @property
    def batch_options(self) -> BatchOptions:
        """The settings that the training batches depend on."""
        return BatchOptions(self.level_share, self.loss_on, self.sampling, self.order, self.window, self.earlier_loss)

    @property
    def draw_steps(self) -> int:
        """The number of steps for which training texts are drawn at once."""
        return min(self.check_every, self.num_steps)

    def memory_bytes(self, decoded_texts: int, processes: int = 1) -> int:
        """Estimate the largest memory of a process's tensors; see `memory_estimate.peak_bytes`."""
        from memory_estimate import peak_bytes

        return peak_bytes(self, decoded_texts, processes)

    def model_config(self, vocab_size: int, block_size: int) -> ModelConfig:
        """Return the model's shape; raise ValueError when the sizes do not fit together."""
        names = {field.name for field in fields(ModelConfig)} - {"vocab_size", "block_size"}
        return ModelConfig(vocab_size, block_size, **{name: getattr(self, name) for name in names})
