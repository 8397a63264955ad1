"""The shape of a transformer. Imports no torch, so that settings can be checked without it."""

import math
from dataclasses import dataclass, replace

ACTIVATIONS = ("gelu", "silu", "relu2", "gelu_tanh", "swiglu")
NORMS = ("rms", "layer", "layer_gain")
NORM_POSITIONS = ("pre", "post")
BIASES = ("none", "mlp", "all")
POSITION_ENCODINGS = ("learned", "rotary", "relative")
INITS = ("identity", "gpt2")
MOST_BIGRAM_CHARACTERS = 64
LOOKUPS_PER_ROW = 8  # texts per V**2, from which on a pair table costs less than attention
MAX_TABLE_BYTES = 2**28  # 256 MiB; a larger table takes longer to build than it saves, and may not fit into memory


def norm_epsilon(norm: str) -> float:
    """What a norm adds to the mean square: the spacing of float32 numbers at 1 for RMSNorm, else 1e-5."""
    return 2.0**-23 if norm == "rms" else 1e-5


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a transformer.

    Raises:
        ValueError: a size below 1, an unknown choice, n_embd not divisible by n_head, or dropout outside 0..1.
    """

    vocab_size: int
    block_size: int  # longest sequence, characters
    n_layer: int
    n_head: int
    n_embd: int
    n_hidden: int  # width of the MLP
    activation: str
    embedding_std: float = 1.0  # of the initial values
    norm: str = "rms"  # see `model.Norm`
    init: str = "identity"  # see `model.Transformer.initialize`
    tied: bool = False  # whether the head shares its weights with the token embedding
    dropout: float = 0.0  # of the embeddings, of the attention weights, and of what a block adds to the residual stream
    # Layers in recipes/, if any of these has another value or the activation is gated.
    norm_position: str = "pre"  # norm of a sublayer's input, or of its sum with the residual stream
    bias: str = "none"  # of the MLP, the head and norms with a gain (mlp), also of attention (all)
    position_encoding: str = "learned"  # embeddings, or rotary or relative positions in attention
    attention_window: int = 0  # tokens that a token attends to in the last block, see `of_block`; 0: all
    bigrams: bool = False  # whether pairs of neighbouring characters have embeddings and are predicted jointly
    shared_dropout: float = 0.0  # largest rate of units that are dropped in all layers, see `recipes.dropout`
    any_order: bool = False  # whether a character is embedded with the position of the one that comes next

    def __post_init__(self) -> None:
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd", "n_hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.embedding_std < math.inf:
            raise ValueError(f"embedding_std must be finite and at least 0, got {self.embedding_std}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd ({self.n_embd}) must be divisible by n_head ({self.n_head})")
        if self.position_encoding == "rotary" and self.n_embd // self.n_head % 2:
            raise ValueError(f"rotary positions take heads of an even width, got {self.n_embd // self.n_head}")
        choices_of = {
            "activation": ACTIVATIONS,
            "norm": NORMS,
            "init": INITS,
            "norm_position": NORM_POSITIONS,
            "bias": BIASES,
            "position_encoding": POSITION_ENCODINGS,
        }
        for name, choices in choices_of.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if self.bigrams and self.vocab_size > MOST_BIGRAM_CHARACTERS:
            most = f"a vocabulary of at most {MOST_BIGRAM_CHARACTERS} characters, got {self.vocab_size:,}"
            raise ValueError(f"bigrams = true scores every pair of characters; it takes {most}")
        if self.attention_window < 0 or (self.attention_window and self.position_encoding != "relative"):
            raise ValueError("attention_window must be 0 (all tokens), or above 0 with position_encoding = relative")
        if self.position_encoding == "relative" and self.any_order:
            raise ValueError("relative positions are distances in a text; they take order = left-to-right")
        if self.bigrams and self.any_order:
            raise ValueError("bigrams = true pairs a character with the one before it; it takes order = left-to-right")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in 0..1, below 1, got {self.dropout}")
        if not 0 <= self.shared_dropout <= 1:
            raise ValueError(f"shared_dropout must be in 0..1, got {self.shared_dropout}")

    def of_block(self, index: int) -> "ModelConfig":
        """The shape of the block `index`, from 0: attention windows grow with depth, in equal steps.

        Lower layers that may choose attend to fewer tokens (Sukhbaatar et al., Adaptive Attention Span in Transformers,
        2019). Of what a token sees through all layers, a shorter text then shows the whole.
        """
        if not self.attention_window:
            return self
        return replace(self, attention_window=math.ceil(self.attention_window * (index + 1) / self.n_layer))

    @property
    def is_gated(self) -> bool:
        """Whether the MLP has a third matrix, a gate."""
        return self.activation == "swiglu"

    @property
    def is_plain(self) -> bool:
        """Whether the model consists of the layers in layers.py, rather than of those in recipes/."""
        kinds = self.norm_position, self.bias, self.position_encoding, self.bigrams, self.any_order, self.shared_dropout
        return kinds == ("pre", "none", "learned", False, False, 0.0) and not self.is_gated

    @property
    def kernel_problem(self) -> str | None:
        """The reason why kernel.c cannot compute this model, or None."""
        limits = (
            (self.n_layer == 1, "one layer", f"n_layer = {self.n_layer}"),
            (self.n_embd % 16 == 0, "widths that are multiples of 16", f"n_embd = {self.n_embd}"),
            (self.n_hidden % 16 == 0, "widths that are multiples of 16", f"n_hidden = {self.n_hidden}"),
            (self.activation == "gelu", "the activation gelu", f"activation = {self.activation}"),
            (self.norm != "layer_gain", "norms without a gain", f"norm = {self.norm}"),
            (self.norm_position == "pre", "norms of inputs", f"norm_position = {self.norm_position}"),
            (self.bias == "none", "layers without biases", f"bias = {self.bias}"),
            (self.position_encoding == "learned", "learned positions", f"position_encoding = {self.position_encoding}"),
            (not self.bigrams, "single characters", "bigrams = true"),
            (not self.any_order, "texts from left to right", "another order"),
            (not self.dropout, "training without dropout", f"dropout = {self.dropout:g}"),
            (not self.shared_dropout, "training without dropout", f"shared_dropout = {self.shared_dropout:g}"),
            (self.vocab_size <= 256, "up to 256 characters", f"{self.vocab_size} characters"),
        )
        unmet = [(limit, value) for is_met, limit, value in limits if not is_met]
        if not unmet:
            return None
        supported = ", ".join(dict.fromkeys(limit for limit, _ in unmet))
        return f"kernel.c supports only {supported}; this config has {', '.join(value for _, value in unmet)}"

    @property
    def num_matrix_parameters(self) -> int:
        """The number of weights in the matrices of all blocks."""
        mlp = (3 if self.is_gated else 2) * self.n_embd * self.n_hidden
        return self.n_layer * (4 * self.n_embd**2 + mlp)

    @property
    def num_parameters(self) -> int:
        """The number of all weights, except biases and gains, which are few."""
        positions = self.block_size * (int(self.position_encoding == "learned") + int(self.any_order))
        rows = self.vocab_size * (1 if self.tied else 2) + positions
        rows += self.bigrams * (self.vocab_size + 1) * self.vocab_size
        return rows * self.n_embd + self.num_matrix_parameters

    def forward_bytes(self, T: int, item_bytes: int, is_cached: bool = False) -> int:
        """Estimate the memory of the forward pass without gradients for a text of T tokens, without logits, bytes.

        Counts what exists at once in a block: the residual stream before and after attention, and either queries, keys
        and values or the hidden layer before and after the activation. `item_bytes` is the size of a number in matrix
        products. With `is_cached`, keys and values of all blocks are kept.
        """
        C = self.n_embd
        hidden = (3 if self.is_gated else 2) * self.n_hidden + 2 * C
        stream = 4 * C * (2 if self.is_plain else 4)  # layers of recipes keep more of it
        scores = 2 * self.n_head * T * item_bytes if item_bytes < 4 else 5 * T  # or masks of padded texts
        cached = 2 * C * self.n_layer * item_bytes if is_cached else 0
        return T * (max(hidden, 5 * C) * item_bytes + stream + scores + cached)

    def pair_table_bytes(self, T: int, query_start: int, item_bytes: int) -> int:
        """The size of the tensor that `pair_table.pair_table` returns, bytes."""
        rows = T * self.vocab_size
        return (T - query_start) * self.vocab_size * rows * (self.n_embd + self.n_head) * item_bytes

    def uses_pair_table(self, T: int, query_start: int, num_texts: int | None, item_bytes: int) -> bool:
        """Whether attention is read from a pair table: one plain layer, and a table that fits.

        With `num_texts`, the table must also pay for so many texts: a text looks up T of the T * V rows of a query.
        """
        if self.n_layer > 1 or not self.is_plain:
            return False
        if num_texts is not None and self.vocab_size**2 > LOOKUPS_PER_ROW * num_texts:
            return False
        return self.pair_table_bytes(T, query_start, item_bytes) <= MAX_TABLE_BYTES

    def kernel_constants(self, precision: str) -> dict[str, int | float]:
        """The constants for which kernel.c is compiled, for matrix products of factors in `precision`."""
        return {
            "V": self.vocab_size,
            "NH": self.n_head,
            "HS": self.n_embd // self.n_head,
            "H": self.n_hidden,
            "CENTERED": int(self.norm != "rms"),
            "EPSILON": norm_epsilon(self.norm),
            "BFLOAT16": int(precision == "bfloat16"),
        }
