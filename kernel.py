"""One layer of the transformer in C, for a CPU: `kernel.c`, compiled when first wanted and called from here.

Forward and backward pass go over a few texts at a time, which stay in the cache from the first product to the last
gradient, where torch would write every intermediate result of the batch to memory and start its threads some hundred
times a step. So do the optimizers, a matrix at a time. The threads take many steps before they come back to Python.
"""

import ctypes
import functools
import os
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCE = Path(__file__).with_suffix(".c")
# The first of these that the compiler takes is used. gcc's level 3 takes three times as long to compile for the same
# speed; clang knows no cost model, and on some machines another name for the processor.
OPTIONS = (
    "-O2 -ftree-vectorize -fvect-cost-model=dynamic -fno-inline -march=native",
    "-O3 -march=native",
    "-O3 -mcpu=native",
    "-O3",
)
# Sums may be added up in any order, as in torch.
LIBRARY = "-std=c11 -ffast-math -shared -fPIC -nostartfiles".split()


@functools.cache
def library(**sizes: int | float) -> ctypes.CDLL:
    """`kernel.c` compiled for one shape, by the C compiler that the environment's CC names, or cc.

    Raises:
        RuntimeError: the compiler is missing or does not like it.
    """
    with tempfile.TemporaryDirectory(prefix="addition-speedrun-") as folder:
        target = Path(folder, "kernel.so")
        constants = [f"-D{name}={value}" for name, value in sizes.items()]
        compiler = os.environ.get("CC", "").strip() or "cc"
        problems = {}  # what it says, each once
        what = [*LIBRARY, *constants, str(SOURCE), "-o", str(target), "-lm"]
        for options in OPTIONS:
            command = [*compiler.split(), *options.split(), *what]
            try:
                answer = subprocess.run(command, capture_output=True, text=True)
            except OSError as problem:
                raise RuntimeError(f"the C compiler did not start: {problem}") from None
            if not answer.returncode:
                break
            problems[(answer.stderr.splitlines() or ["no message"])[0]] = None
        else:
            raise RuntimeError(f"the C compiler failed: {'; '.join(problems)}")
        found = ctypes.CDLL(str(target))
    found.table_size.restype = found.sums_size.restype = ctypes.c_int64
    found.train.restype = ctypes.c_double
    return found


def address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def pointers(tensors: Sequence[Tensor]) -> ctypes.Array:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


class Matrix(ctypes.Structure):
    """As in kernel.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "gradient", "mean")),
        *((name, ctypes.c_int) for name in ("rows", "columns", "is_transposed")),
        ("scale", ctypes.c_float),
    )


class Other(ctypes.Structure):
    """As in kernel.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "gradient", "mean", "mean_square")),
        ("size", ctypes.c_int),
        ("weight_decay", ctypes.c_float),
    )


class Optimizers(ctypes.Structure):
    """As in kernel.c."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("num_matrices", "num_others", "num_iterations", "adam_steps")),
        ("matrices", ctypes.POINTER(Matrix)),
        ("others", ctypes.POINTER(Other)),
        *((name, ctypes.c_float) for name in ("muon_rate", "momentum", "muon_weight_decay")),
        ("coefficients", ctypes.c_float * 3),
        ("adam_rate", ctypes.c_float),
        ("betas", ctypes.c_float * 2),
        ("epsilon", ctypes.c_float),
    )


Weights = tuple[Tensor, ...]  # token, position, qkv, out, up, down, head: float32 and contiguous
Prepared = tuple[Weights, Tensor]  # the weights, and the library's table of what all texts share


def check_length(weights: Weights, T: int) -> None:
    """Raises ValueError for texts of more characters than the model has positions."""
    if len(weights[1]) < T:
        raise ValueError(f"texts of {T} characters for a model of {len(weights[1])} positions")


class Kernel:
    """The layer of one shape: B texts of T characters, asked at positions `first`.. . Not for several threads at once.

    Raises:
        RuntimeError: see `library`.
    """

    def __init__(
        self,
        vocab_size: int,
        n_head: int,
        n_embd: int,
        n_hidden: int,
        centered: bool,
        epsilon: float,
        dtype: torch.dtype,
        threads: int,
    ) -> None:
        """Args:
        centered, epsilon: the norm's: whether it subtracts the mean, and what it adds to the variance.
        dtype: what the factors of matrix products are rounded to, bfloat16 or, not at all, float32.
        threads: at least 1.
        """
        shape = {"V": vocab_size, "NH": n_head, "HS": n_embd // n_head, "H": n_hidden}
        how = {"CENTERED": int(centered), "EPSILON": epsilon, "BFLOAT16": int(dtype == torch.bfloat16)}
        self.library = library(**shape, **how)
        self.vocab_size, self.threads = vocab_size, threads
        self.pool = ThreadPoolExecutor(threads)  # ctypes lets go of the interpreter's lock during a call
        self.meeting = (ctypes.c_int * 3)()  # where the threads wait for one another

    def prepare(self, weights: Weights, T: int) -> Prepared:
        """What serves all texts of T characters as long as the weights stay the same.

        Raises:
            ValueError: the model has fewer positions.
        """
        check_length(weights, T)
        table = torch.empty(self.library.table_size(T))
        self.together("prepare", self.meeting, T, pointers(weights), address(table))
        return weights, table

    def logits(self, prepared: Prepared, idx: Tensor, first: int) -> Tensor:
        """idx (B, T) to float32 logits (B, T - first, V)."""
        B, T = idx.shape
        logits = torch.empty(B, T - first, -(-self.vocab_size // 16) * 16)
        self.ask("logits", prepared, idx, T, first, logits)
        return logits[..., : self.vocab_size]

    def examine(self, prepared: Prepared, texts: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Texts (B, T + 1) to the losses, nats, of the characters after positions first.. , and which are not written.

        Two (B, T - first): float32, and bool.
        """
        B, T = len(texts), texts.size(1) - 1
        losses, wrong = torch.empty(B, T - first), torch.empty(B, T - first, dtype=torch.bool)
        self.ask("examine", prepared, texts, T, first, losses, wrong)
        return losses, wrong

    def ask(self, name: str, prepared: Prepared, texts: Tensor, T: int, first: int, *found: Tensor) -> None:
        """Call the library's function that answers texts and writes into what is to be found.

        Raises:
            ValueError: a text holds a character that is not in the vocabulary.
        """
        if texts.numel() and not 0 <= texts.min() <= texts.max() < self.vocab_size:
            raise ValueError(f"a text holds a character that is not one of the vocabulary's {self.vocab_size}")
        (weights, table), texts = prepared, texts.to(torch.uint8).contiguous()
        given = T, first, ctypes.c_int64(len(texts)), address(texts), pointers(weights), address(table)
        self.together(name, *given, *map(address, found))

    def train(self, weights: Weights, texts: Tensor, first: int, factors: Tensor, how: Optimizers) -> float:
        """Take a step on each of texts (steps, B, T + 1), learning what follows positions first.. .

        Weights and the optimizers' state change in place; the last step's gradients are left in the weights' `grad`.

        Args:
            weights: of the layer; they have a `grad`, float32 and contiguous; positions that no text has keep theirs.
            texts: uint8 and contiguous, of the vocabulary's characters.
            factors: (steps,) float32, of the optimizers' learning rates.
            how: the optimizers, which have all of the weights.

        Returns:
            The last batch's mean cross-entropy before its step, nats.

        Raises:
            ValueError: there are not as many factors as batches, or none; the model has fewer positions.
        """
        if not len(factors) == len(texts) > 0:
            raise ValueError(f"{len(factors)} factors of the learning rate for {len(texts)} steps")
        steps, B, T = len(texts), texts.size(1), texts.size(2) - 1
        check_length(weights, T)
        space = torch.empty(self.library.table_size(T) + self.threads * self.library.sums_size(T))
        gradients = pointers([weight.grad for weight in weights])
        given = T, first, ctypes.c_int64(B), steps, address(texts), address(factors), pointers(weights), gradients
        losses = self.together("train", self.meeting, *given, ctypes.byref(how), address(space))
        return sum(losses) / (B * (T - first))

    def together(self, name: str, *arguments: Any) -> list[Any]:
        """What the library's function returns to each of the threads, which call it together."""
        call = getattr(self.library, name)
        try:
            others = [self.pool.submit(call, i, self.threads, *arguments) for i in range(1, self.threads)]
            return [call(0, self.threads, *arguments), *(other.result() for other in others)]
        except BaseException:  # interrupted: the others wait for one that does not come, and the pool alone knows them
            self.meeting[2] = 1
            self.pool.shutdown()
            self.pool = ThreadPoolExecutor(self.threads)
            self.meeting[:] = 0, 0, 0
            raise
