"""One layer of the transformer in C, for a CPU in float32: `kernel.c`, compiled when first wanted and called from here.

Forward and backward pass go over a few texts at a time, which stay in the cache from the first product to the last
gradient, where torch would write every intermediate result of the batch to memory and start its threads some hundred
times a step.
"""

import ctypes
import functools
import os
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCE = Path(__file__).with_suffix(".c")
# Level 3 takes three times as long to compile for the same speed. Sums may be added up in any order, as in torch.
OPTIONS = "-O2 -ftree-vectorize -fvect-cost-model=dynamic -fno-inline -ffast-math -march=native".split()
LIBRARY = "-std=c11 -shared -fPIC -nostartfiles".split()


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
        command = [*compiler.split(), *OPTIONS, *LIBRARY, *constants, str(SOURCE), "-o", str(target), "-lm"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True)
        except OSError as problem:
            raise RuntimeError(f"the C compiler did not start: {problem}") from None
        if answer.returncode:
            raise RuntimeError(f"the C compiler failed: {(answer.stderr.splitlines() or ['no message'])[0]}")
        found = ctypes.CDLL(str(target))
    found.examples.restype = ctypes.c_double
    return found


@functools.cache
def workers(n: int) -> ThreadPoolExecutor:
    """Threads for shares of a batch; ctypes lets go of the interpreter's lock during a call."""
    return ThreadPoolExecutor(n)


def pointers(tensors: list[Tensor]) -> ctypes.Array:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


Weights = tuple[Tensor, ...]  # token, position, qkv, out, up, down, head: float32 and contiguous
Prepared = tuple[list[Tensor], list[Tensor]]  # the weights as the library wants them, and what all texts share


class Kernel:
    """The layer of one shape: B texts of T characters, asked at positions `first`.. .

    Raises:
        RuntimeError: see `library`.
    """

    def __init__(
        self, vocab_size: int, n_head: int, n_embd: int, n_hidden: int, centered: bool, epsilon: float, threads: int
    ) -> None:
        """`centered` and `epsilon` are the norm's: whether it subtracts the mean, and what it adds to the variance."""
        self.vocab_size, self.padded_vocab, self.threads = vocab_size, -(-vocab_size // 16) * 16, threads
        self.n_head, self.n_embd, self.n_hidden = n_head, n_embd, n_hidden
        shape = {"V": vocab_size, "NH": n_head, "HS": n_embd // n_head, "H": n_hidden}
        self.library = library(**shape, CENTERED=int(centered), EPSILON=epsilon)

    def prepare(self, weights: Weights, T: int, first: int) -> Prepared:
        """What serves all texts of T characters as long as the weights stay the same."""
        V, VP, C, H = self.vocab_size, self.padded_vocab, self.n_embd, self.n_hidden
        R, Q = T * V, T - first
        rows = (-(-R // 4) * 4, C)
        made = (rows, rows, rows[:1], rows, rows, rows, (Q * V, R, self.n_head), (3, C, C), (C, C))
        table = [torch.empty(shape) for shape in (*made, (3, C, C), (C, C), (C, H), (H, C), (C, VP))]
        *others, head = (weight.detach() for weight in weights)
        ready = [*others, torch.cat([head, head.new_zeros(VP - V, C)])]
        self.library.prepare(T, first, pointers(ready), pointers(table))
        return ready, table

    def logits(self, prepared: Prepared, idx: Tensor, first: int) -> Tensor:
        """idx (B, T) to float32 logits (B, T - first, V)."""
        B, T = idx.shape
        logits = torch.empty(B, T - first, self.padded_vocab)
        self.examples(prepared, idx.to(torch.uint8).contiguous(), T, first, 0.0, logits, None)
        return logits[..., : self.vocab_size]

    def loss(self, weights: Weights, texts: Tensor, first: int) -> Tensor:
        """Texts (B, T + 1) to the mean cross-entropy, nats, of the characters after positions first.. ."""
        return Loss.apply(self, texts.to(torch.uint8).contiguous(), first, *weights)

    def orthogonalize(self, matrices: Tensor, coefficients: tuple[float, float, float], num_iterations: int) -> Tensor:
        """`optim.orthogonalize` for float32 matrices (n, rows, columns), contiguous, which are overwritten."""
        n, rows, columns = matrices.shape
        given = (ctypes.c_float * 3)(*coefficients)

        def share(i: int, start: int, end: int) -> None:
            place = ctypes.c_void_p(matrices.data_ptr() + start * rows * columns * 4)
            self.library.orthogonalize(end - start, rows, columns, num_iterations, given, place)

        self.shared(n, share)
        return matrices

    def shared(self, n: int, share: Callable[[int, int, int], Any]) -> list[Any]:
        """What `share` returns for each thread's number, and where its part of 0..n starts and ends."""
        edges = [i * n // self.threads for i in range(self.threads + 1)]
        parts = [(i, edges[i], edges[i + 1]) for i in range(self.threads)]
        others = [workers(self.threads).submit(share, *part) for part in parts[1:]]
        return [share(*parts[0]), *(other.result() for other in others)]

    def examples(
        self,
        prepared: Prepared,
        texts: Tensor,
        T: int,
        first: int,
        weight: float,
        logits: Tensor | None,
        sums: list[list[Tensor]] | None,
    ) -> float:
        """The library's function of that name, for texts (B, stride) uint8 that are shared out among the threads."""
        B, stride = texts.shape

        def share(i: int, start: int, end: int) -> float:
            return self.library.examples(
                T,
                first,
                ctypes.c_int64(end - start),
                ctypes.c_void_p(texts.data_ptr() + start * stride),
                stride,
                ctypes.c_float(weight),
                *map(pointers, prepared),
                None if logits is None else ctypes.c_void_p(logits.data_ptr() + start * logits.stride(0) * 4),
                None if sums is None else pointers(sums[i]),
            )

        return sum(self.shared(B, share))


class Loss(torch.autograd.Function):
    """The loss; its gradients are computed with it."""

    @staticmethod
    def forward(ctx: Any, kernel: Kernel, texts: Tensor, first: int, *weights: Tensor) -> Tensor:
        B, T = len(texts), texts.size(1) - 1
        prepared = kernel.prepare(weights, T, first)
        rows, pairs, (*_, out, up, down, head) = prepared[1][0], prepared[1][6], prepared[0]
        sizes = [tensor.numel() for tensor in (rows, rows, pairs, out, up, down, head)]
        shares = torch.zeros(kernel.threads, sum(sizes))  # each thread adds up gradients of its own
        count = B * (T - first)
        sums = [list(share.split(sizes)) for share in shares]
        loss = kernel.examples(prepared, texts, T, first, 1 / count, None, sums) / count

        gradients = [torch.zeros_like(weight) for weight in weights]
        total = list(shares.sum(0).split(sizes))
        kernel.library.finish(T, first, pointers(prepared[1]), pointers(total), pointers(gradients))
        ctx.save_for_backward(*gradients)
        return torch.tensor(loss)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *(each * gradient for each in ctx.saved_tensors)
