"""The judge's forward pass: the logits of a decoder-only transformer, from its config and its stored weights.

It shares no code with the trainer and computes every architecture that the trainer has, by tensors alone. The model is
the real-valued function of its stored weights: here it is computed in float32 or float64, without dropout.

Shapes: B texts of T tokens, which continue P tokens (none without caches), S = P + T; V tokens in the vocabulary,
C = n_embd, nh heads of hs = C / nh channels. The Q = T - query_start positions from `query_start` on have logits.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.judge.architecture import NEXT_POSITION, PAIR, check_weights, complete_config
from bench.machine.cpu import blas_lacks_avx512

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "relu2": lambda x: x.relu().square(),
    "swiglu": F.silu,  # of the gate
}
RMS_EPSILON, LAYER_EPSILON = 2.0**-23, 1e-5
ROTARY_BASE = 10_000.0
ONEDNN_ROWS = 1024  # from which on the convolution pays
ONEDNN_BATCH = 16  # torch passes convolutions of width 1 on to oneDNN from this batch size on
CPU_BATCH_BYTES, GPU_BATCH_BYTES = 2**26, 2**33  # of the activations of tokens that are computed at once

Caches = dict[str, Tensor]  # what a text leaves for the tokens that continue it; empty at first


def extend(caches: Caches | None, name: str, new: Tensor, dim: int) -> Tensor:
    """Append a tensor to the one of this name in the caches; return the whole."""
    if caches is None:
        return new
    caches[name] = torch.cat([caches[name], new], dim) if name in caches else new
    return caches[name]


def linear(x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """Map x (..., I) by a matrix (O, I) and a bias (O,) to (..., O).

    Where torch's matrix products lack AVX-512, many rows in float32 on a CPU are mapped as a convolution of width 1.
    Torch computes it by oneDNN, which has AVX-512 and takes half the time.
    """
    is_usual = x.dim() == 2 and x.dtype == torch.float32 and x.device.type == "cpu" and blas_lacks_avx512()
    if not is_usual or len(x) < ONEDNN_ROWS or len(x) % ONEDNN_BATCH or not torch.backends.mkldnn.is_available():
        return F.linear(x, matrix, bias)
    images = x.view(ONEDNN_BATCH, 1, -1, x.size(1)).permute(0, 3, 1, 2)  # contiguous with channels last
    return F.conv2d(images, matrix[:, :, None, None], bias).permute(0, 2, 3, 1).reshape(len(x), -1)


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Encode positions (1 or B, T) in queries or keys x (B, nh, T, hs) (Su et al., RoFormer, 2021).

    Channels i and i + hs / 2 are a pair, which is rotated by the angle position * ROTARY_BASE ** (-2 i / hs).
    """
    half = x.size(-1) // 2
    frequencies = ROTARY_BASE ** (-torch.arange(half, dtype=x.dtype, device=x.device) / half)
    angles = positions[:, None, :, None] * frequencies  # (1 or B, 1, T, hs / 2)
    first, second = x.split(half, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class View(NamedTuple):
    """Where the tokens of a text are, and what each attends to."""

    positions: Tensor  # (1 or B, T) int64
    distances: Tensor  # (T, S) int64: how many tokens before each token another one stands; below 0 if it is later
    is_seen: Tensor  # (T, S) or (B, 1, T, S) bool: itself and what is before it, except padding


class Model:
    """A trained model: a function from token ids to logits.

    Raises ValueError for a config that this file cannot compute, or weights that are not those of the config.
    """

    def __init__(
        self, config: Mapping[str, Any], weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float32
    ) -> None:
        """`config` and `weights` are those of a weights file; the weights are converted to `dtype`."""
        self.config = complete_config(config)
        check_weights(self.config, weights)
        self.weights = {name: weight.detach().to(dtype) for name, weight in weights.items()}
        self.dtype = dtype

    @property
    def vocab_size(self) -> int:
        return int(self.config["vocab_size"])

    @property
    def block_size(self) -> int:
        """The longest text, tokens; with rotary or relative positions a text may be longer."""
        return int(self.config["block_size"])

    @property
    def batch_tokens(self) -> int:
        """The number of tokens to compute at once, so that activations, logits and caches fit into *_BATCH_BYTES."""
        V, C, H, n_layer = (self.config[name] for name in ("vocab_size", "n_embd", "n_hidden", "n_layer"))
        token = self.weights["token"]
        numbers = max(8 * C, 2 * C + 3 * H) + 2 * n_layer * C + 2 * (V * V if PAIR in self.weights else V)
        limit = CPU_BATCH_BYTES if token.device.type == "cpu" else GPU_BATCH_BYTES
        return max(1, limit // (numbers * token.itemsize))

    @property
    def is_post_norm(self) -> bool:
        return bool(self.config["norm_position"] == "post")

    def logits(
        self,
        ids: Tensor,
        query_start: int = 0,
        caches: Caches | None = None,
        positions: Tensor | None = None,
        next_positions: Tensor | None = None,
    ) -> Tensor:
        """Map ids (B, T) int64 to the logits (B, Q, V) of the tokens that come next.

        With `caches`, a dict that is empty at first, ids continue the P tokens that were passed before with it.

        `positions` (B, S) int64 are those of the P tokens and of ids, by default 0, 1, and so on. Padding has position
        -1: no other token attends to it, and its own logits are meaningless. `next_positions` (B, S) are those of the
        tokens that come next, for models that generate in any order; by default 1, 2, and so on.

        Raises ValueError for a text that is too long for learned positions, IndexError for an unknown id.
        """
        P = caches["ids"].size(1) if caches else 0
        T, S = ids.size(1), P + ids.size(1)
        if positions is None:
            self.check_length(S)
        text = extend(caches, "ids", ids, 1)  # (B, S)
        index = torch.arange(S, device=ids.device)
        distances = index[P:, None] - index  # (T, S)
        is_seen = distances >= 0
        if positions is not None:  # padding attends to itself: a softmax over nothing is NaN
            is_seen = is_seen & ((positions >= 0)[:, None, None] | (distances == 0))  # (B, 1, T, S)
        view = View(index[None, P:] if positions is None else positions[:, P:], distances, is_seen)
        x = self.embed(text, view.positions, None if next_positions is None else next_positions[:, P:])  # (B, T, C)
        last = self.config["n_layer"] - 1
        for layer in range(last + 1):
            start = query_start if layer == last else 0
            attended = self.attend(self.attention_input(x, layer), layer, start, view, caches)
            x = self.after_attention(x[:, start:], attended, layer)  # (B, T or Q, C)
        x = self.norm(x, "norm")
        logits = self.head(x)
        return logits if PAIR not in self.weights else logits + self.pair_scores(x, ids[:, T - x.size(1) :])

    def check_length(self, S: int) -> None:
        """Raise ValueError if a text of S tokens has more positions than the model has embeddings of."""
        if "position" in self.weights and self.block_size < S:
            raise ValueError(f"a text of {S} tokens is longer than the model's block_size, {self.block_size}")

    def embed(self, text: Tensor, positions: Tensor, next_positions: Tensor | None) -> Tensor:
        """Return the embeddings (B, T, C) of the last T tokens of a text (B, S); T is that of positions (1 or B, T)."""
        S = text.size(1)
        start = S - positions.size(1)  # P
        ids, V = text[:, start:], self.vocab_size
        x = F.embedding(ids, self.weights["token"])
        if "position" in self.weights:
            x = x + F.embedding(positions.clamp(min=0), self.weights["position"])
        if NEXT_POSITION in self.weights:
            if next_positions is None:  # from left to right; the last position asks for itself
                next_positions = torch.arange(start + 1, S + 1, device=text.device)[None].clamp(max=self.block_size - 1)
            x = x + F.embedding(next_positions, self.weights[NEXT_POSITION])
        if PAIR in self.weights:  # the embedding of a token and the one before it; V stands for none
            before = F.pad(text, (1, 0), value=V)[:, start:-1].masked_fill(positions == 0, V)
            x = x + F.embedding(before * V + ids, self.weights[PAIR].flatten(0, 1))
        return x

    def norm(self, x: Tensor, name: str) -> Tensor:
        """Apply RMSNorm, or LayerNorm with the gain and the bias that the model has, to the last dimension."""
        if self.config["norm"] == "rms":  # on a CPU twice as fast as torch's function
            squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square()
            return x * torch.rsqrt(squares / x.size(-1) + RMS_EPSILON)
        return F.layer_norm(
            x, x.shape[-1:], self.weights.get(f"{name}.gain"), self.weights.get(f"{name}.bias"), LAYER_EPSILON
        )

    def linear(self, x: Tensor, name: str) -> Tensor:
        """Apply a matrix to the last dimension, with its bias if it has one."""
        return linear(x, self.weights[name], self.weights.get(f"{name}_bias"))

    def attention_input(self, x: Tensor, layer: int) -> Tensor:
        """What the attention of a layer reads of the residual stream."""
        return x if self.is_post_norm else self.norm(x, f"blocks.{layer}.attention_norm")

    def project(self, x: Tensor, layer: int, index: int) -> Tensor:
        """Map x (..., C) to queries (index 0), keys (1) or values (2) of all heads, (..., nh, hs)."""
        matrix = self.weights[f"blocks.{layer}.attention.qkv"][index]
        biases = self.weights.get(f"blocks.{layer}.attention.qkv_bias")
        y = F.linear(x, matrix, None if biases is None else biases.view(3, -1)[index])
        return y.unflatten(-1, (self.config["n_head"], -1))

    def attend(self, x: Tensor, layer: int, query_start: int, view: View, caches: Caches | None) -> Tensor:
        """Map x (B, T, C) to the outputs of all heads side by side, (B, Q, C), before the output projection."""
        inputs = x[:, query_start:], x, x
        query, key, value = (self.project(y, layer, i).transpose(1, 2) for i, y in enumerate(inputs))
        if self.config["position_encoding"] == "rotary":
            query, key = rotate(query, view.positions[:, query_start:]), rotate(key, view.positions)
        key = extend(caches, f"{layer}.key", key, 2)  # (B, nh, S, hs)
        value = extend(caches, f"{layer}.value", value, 2)
        mask = view.is_seen
        biases = self.weights.get(f"blocks.{layer}.attention.distance_bias")
        if biases is not None:  # the bias of a score by head and distance; what is farther away is not seen
            biases = biases.view(self.config["n_head"], -1)  # (nh, D)
            D = biases.size(1)
            scores = biases[:, view.distances.clamp(0, D - 1)][None]  # (1, nh, T, S)
            mask = torch.where(mask & (view.distances < D), scores, -torch.inf)
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[..., query_start:, :])
        return y.transpose(1, 2).flatten(2)

    def after_attention(self, x: Tensor, attended: Tensor, layer: int) -> Tensor:
        """Return the residual stream after a layer, from x before it and the heads' outputs (..., C) at x."""
        block = f"blocks.{layer}"
        x = x + self.linear(attended, f"{block}.attention.out")
        if self.is_post_norm:
            x = self.norm(x, f"{block}.attention_norm")
            return self.norm(x + self.mlp(x, block), f"{block}.mlp_norm")
        return x + self.mlp(self.norm(x, f"{block}.mlp_norm"), block)

    def mlp(self, x: Tensor, block: str) -> Tensor:
        activation = ACTIVATIONS[self.config["activation"]]
        hidden = self.linear(x, f"{block}.mlp.up")
        if f"{block}.mlp.gate" in self.weights:
            hidden = activation(self.linear(x, f"{block}.mlp.gate")) * hidden
        else:
            hidden = activation(hidden)
        return self.linear(hidden, f"{block}.mlp.down")

    def head(self, x: Tensor) -> Tensor:
        """Map the normed residual stream x (..., C) to logits (..., V), without what pairs of tokens add."""
        return F.linear(x, self.weights.get("head", self.weights["token"]), self.weights.get("head_bias"))

    def head_columns(self, x: Tensor) -> Tensor:
        """As `head`, from x (n, C) to (V, n): torch reduces the columns faster than rows of a few logits."""
        logits, biases = F.linear(self.weights.get("head", self.weights["token"]), x), self.weights.get("head_bias")
        return logits if biases is None else logits + biases[:, None]

    def pair_scores(self, x: Tensor, ids: Tensor) -> Tensor:
        """Return what pairs of tokens add to the logits (B, Q, V), from the normed residual stream x at ids (B, Q).

        A pair is scored by its embedding. A next token gets the score of its pair with the present token, and the
        logarithm of the sum of exp(score) over the pairs that it starts.
        """
        pairs = self.weights[PAIR][: self.vocab_size]  # (V, V, C)
        scores = F.linear(x, pairs.flatten(0, 1)).unflatten(-1, pairs.shape[:2])  # (B, Q, V, V)
        with_present = scores.gather(2, ids[..., None, None].expand(-1, -1, 1, self.vocab_size))[:, :, 0]
        return with_present + scores.logsumexp(-1)

    def next_logits(self) -> Callable[..., Tensor]:
        """Return a function from ids (B, T) int64 to the logits (B, V) of the next token, for decoding.

        With more arguments, these are the positions (B, T) of the ids and the next positions, as in `logits`. The
        function keeps keys and values of the latest ids, and computes only the tokens that continue them.
        """
        latest = torch.empty(0, 0)  # ids, positions, next positions
        caches: Caches = {}  # of them

        def next_logits(ids: Tensor, *positions: Tensor) -> Tensor:
            nonlocal latest, caches
            inputs = torch.stack([ids, *positions])
            P, T = latest.size(-1), inputs.size(-1)
            if not (0 < P < T and torch.equal(latest, inputs[..., :P])):
                P, caches = 0, {}
            latest = latest[..., :0]  # an exception leaves the caches unfinished
            logits = self.logits(ids[:, P:], T - P - 1, caches, *positions)[:, 0]
            latest = inputs.clone()
            return logits

        return next_logits
