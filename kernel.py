"""One transformer layer in C for a CPU: `kernel.c`, compiled by kernel_compiler.py and called with ctypes.

Forward and backward pass process a few texts at a time, so that intermediate results stay in the cache. torch would
write each of them to memory for the whole batch and start its threads about a hundred times per step. The optimizers
process one matrix at a time for the same reason. One call takes many steps before it returns to Python.
"""

import ctypes
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from kernel_compiler import compilation
from model_config import ModelConfig


def address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def addresses(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def gradient(weight: Tensor) -> Tensor:
    """Return the `grad` of a weight, zeros if it has had none."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad


# The structs of kernel.c with the same names.


class MuonWeight(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "gradient", "mean")),
        *((name, ctypes.c_int) for name in ("rows", "columns", "is_transposed")),
        ("scale", ctypes.c_float),
    )


class AdamWWeight(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "gradient", "mean", "mean_square")),
        ("size", ctypes.c_int),
        ("weight_decay", ctypes.c_float),
    )


class Optimizers(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in ("num_muon_weights", "num_adamw_weights", "num_iterations", "adamw_steps")),
        ("muon_weights", ctypes.POINTER(MuonWeight)),
        ("adamw_weights", ctypes.POINTER(AdamWWeight)),
        *((name, ctypes.c_float) for name in ("muon_rate", "momentum", "muon_weight_decay")),
        ("coefficients", ctypes.c_float * 3),
        ("adamw_rate", ctypes.c_float),
        ("betas", ctypes.c_float * 2),
        ("epsilon", ctypes.c_float),
    )


Weights = tuple[Tensor, ...]  # token, position, qkv, out, up, down, head: float32 and contiguous


def check_length(weights: Weights, T: int) -> None:
    """Raise ValueError for texts of more characters than the model has positions."""
    if len(weights[1]) < T:
        raise ValueError(f"texts of {T} characters for a model of {len(weights[1])} positions")


class Kernel:
    """The compiled layer for one model shape. An instance must not be used by several Python threads at once.

    Shapes: B texts of T characters; the Q = T - query_start positions from `query_start` on predict their next
    character.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, threads: int) -> None:
        """Compile for a model, with factors of matrix products rounded to `dtype`; RuntimeError if that fails."""
        self.vocab_size, self.threads = config.vocab_size, threads
        self.library = compilation(config.kernel_constants(str(dtype).removeprefix("torch."))).library()
        self.pool = ThreadPoolExecutor(threads)  # ctypes releases the interpreter's lock during a call
        self.barrier = (ctypes.c_int * 3)()  # `Barrier` of kernel.c: arrived, generation, abandoned

    def prepare(self, weights: Weights, T: int) -> "Prepared":
        """Compute what depends on the weights alone, for texts of T characters."""
        check_length(weights, T)
        table = torch.empty(self.library.table_size(T))
        self.call("prepare", self.barrier, T, addresses(weights), address(table))
        return Prepared(self, weights, table)

    def train(
        self, weights: Weights, tokens: Tensor, query_start: int, factors: Tensor, optimizers: Optimizers
    ) -> float:
        """Take one step on each batch of tokens (steps, B, T + 1), uint8 and contiguous.

        Changes the weights and the optimizers' state in place; positions from T on do not change. Leaves the last
        step's gradients in `grad`. `factors` (steps,) float32 are learning rates as shares of the peak; the optimizers
        together have all of the weights. Returns the mean cross-entropy of the last batch before its step, nats.
        """
        if not len(factors) == len(tokens) > 0:
            raise ValueError(f"{len(factors)} factors of the learning rate for {len(tokens)} steps")
        steps, B, T = len(tokens), tokens.size(1), tokens.size(2) - 1
        check_length(weights, T)
        space = torch.empty(self.library.table_size(T) + self.threads * self.library.sums_size(T))
        gradients = addresses([gradient(weight) for weight in weights])
        inputs = T, query_start, ctypes.c_int64(B), steps, address(tokens), address(factors), addresses(weights)
        losses = self.call("train", self.barrier, *inputs, gradients, ctypes.byref(optimizers), address(space))
        return sum(losses) / (B * (T - query_start))

    def call(self, name: str, *arguments: Any) -> list[Any]:
        """Call a function of the library from all threads together and return the results of the threads."""
        function = getattr(self.library, name)
        try:
            others = [self.pool.submit(function, i, self.threads, *arguments) for i in range(1, self.threads)]
            return [function(0, self.threads, *arguments), *(other.result() for other in others)]
        except BaseException:  # an interrupt: the other threads wait at the barrier, and only the pool can join them
            self.barrier[2] = 1
            self.pool.shutdown()
            self.pool = ThreadPoolExecutor(self.threads)
            self.barrier[:] = [0, 0, 0]
            raise


class Prepared:
    """A kernel with the weights, and its table of everything that depends on them alone.

    It is valid until the weights change. Shapes are as for `Kernel`; token ids outside the vocabulary are a ValueError.
    """

    def __init__(self, kernel: Kernel, weights: Weights, table: Tensor) -> None:
        self.kernel, self.weights, self.table = kernel, weights, table

    def logits(self, idx: Tensor, query_start: int) -> Tensor:
        """Map idx (B, T) to float32 logits (B, Q, V)."""
        (B, T), V = idx.shape, self.kernel.vocab_size
        logits = torch.empty(B, T - query_start, -(-V // 16) * 16)
        self.call("logits", idx, T, query_start, logits)
        return logits[..., :V]

    def evaluate(self, tokens: Tensor, query_start: int) -> tuple[Tensor, Tensor]:
        """Return the loss of each predicted character of tokens (B, T + 1), nats, and its margin, (B, Q) float32 each.

        The margin is the character's logit less the largest other one.
        """
        T = tokens.size(1) - 1
        losses = torch.empty(len(tokens), T - query_start)
        margins = torch.empty_like(losses)
        self.call("evaluate", tokens, T, query_start, losses, margins)
        return losses, margins

    def call(self, name: str, tokens: Tensor, T: int, query_start: int, *outputs: Tensor) -> None:
        """Call a function of the library that reads tokens (B, T or T + 1) and fills the outputs."""
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.kernel.vocab_size:
            raise ValueError(f"a text holds a character that is not one of the vocabulary's {self.kernel.vocab_size}")
        tokens = tokens.to(torch.uint8).contiguous()
        inputs = ctypes.c_int64(len(tokens)), address(tokens), addresses(self.weights), address(self.table)
        self.kernel.call(name, T, query_start, *inputs, *map(address, outputs))
