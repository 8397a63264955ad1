"""One layer of the transformer in C, for a CPU in float32: `kernel.c`, compiled when first wanted and called from here.

Forward and backward pass go over a few texts at a time, which stay in the cache from the first product to the last
gradient, where torch would write every intermediate result of the batch to memory and start its threads some hundred
times a step. So does Muon's step, a matrix at a time.
"""

import concurrent.futures
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
    found.table_size.restype = found.sums_size.restype = ctypes.c_int64
    found.gradients.restype = ctypes.c_double
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


Weights = tuple[Tensor, ...]  # token, position, qkv, out, up, down, head: float32 and contiguous
Prepared = tuple[Weights, Tensor]  # the weights, and the library's table of what all texts share


class Kernel:
    """The layer of one shape: B texts of T characters, asked at positions `first`.. . Not for several threads at once.

    Raises:
        RuntimeError: see `library`.
    """

    def __init__(
        self, vocab_size: int, n_head: int, n_embd: int, n_hidden: int, centered: bool, epsilon: float, threads: int
    ) -> None:
        """`centered` and `epsilon` are the norm's: whether it subtracts the mean, and what it adds to the variance."""
        shape = {"V": vocab_size, "NH": n_head, "HS": n_embd // n_head, "H": n_hidden}
        self.library = library(**shape, CENTERED=int(centered), EPSILON=epsilon)
        self.vocab_size, self.threads = vocab_size, threads
        self.pool = ThreadPoolExecutor(threads)  # ctypes lets go of the interpreter's lock during a call
        self.meeting = (ctypes.c_int * 3)()  # where the threads wait for one another

    def prepare(self, weights: Weights, T: int, first: int) -> Prepared:
        """What serves all texts of T characters as long as the weights stay the same."""
        table = torch.empty(self.library.table_size(T, first))
        self.together("prepare", self.meeting, T, first, pointers(weights), address(table))
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
        """Call the library's function that answers texts and writes into what is to be found."""
        (weights, table), texts = prepared, texts.to(torch.uint8).contiguous()
        given = T, first, ctypes.c_int64(len(texts)), address(texts), pointers(weights), address(table)
        self.together(name, *given, *map(address, found))

    def loss(self, weights: Weights, texts: Tensor, first: int) -> Tensor:
        """Texts (B, T + 1) to the mean cross-entropy, nats, of the characters after positions first.. ."""
        return Loss.apply(self, texts.to(torch.uint8).contiguous(), first, *weights)

    def muon(
        self,
        matrices: Sequence[tuple[Tensor, Tensor, float]],
        rate: float,
        momentum: float,
        kept: float,
        coefficients: tuple[float, float, float],
        num_iterations: int,
    ) -> None:
        """The step of `optim.Muon`, in place.

        Args:
            matrices: weights (n, rows, columns) or (rows, columns), float32 and contiguous, with their gradients;
                running means of these (n, rows, columns), contiguous, with rows <= columns, else of the transpose; and
                the update's scale. Sizes are multiples of 16.
            rate: of learning.
            momentum: of the running mean.
            kept: of a weight, what weight decay leaves.
            coefficients: of the iteration.
            num_iterations: of it.
        """
        given = []
        for weight, mean, scale in matrices:
            n, rows, columns = mean.shape
            places = [tensor.data_ptr() for tensor in (weight, weight.grad, mean)]
            is_transposed = weight.size(-2) > weight.size(-1)
            for start in range(0, 4 * n * rows * columns, 4 * rows * columns):
                given.append(Matrix(*(place + start for place in places), rows, columns, is_transposed, scale))
        given.sort(key=lambda matrix: -matrix.columns)  # the threads take turns, and should have as much to do
        numbers = (ctypes.c_float(number) for number in (rate, momentum, kept))
        ready = (Matrix * len(given))(*given)
        self.together("muon", len(given), ready, *numbers, num_iterations, (ctypes.c_float * 3)(*coefficients))

    def together(self, name: str, *arguments: Any) -> list[Any]:
        """What the library's function returns to each of the threads, which call it together."""
        call = getattr(self.library, name)
        others: list[concurrent.futures.Future] = []
        try:
            others += [self.pool.submit(call, i, self.threads, *arguments) for i in range(1, self.threads)]
            return [call(0, self.threads, *arguments), *(other.result() for other in others)]
        except BaseException:  # interrupted: the others wait for one that does not come
            self.meeting[2] = 1
            concurrent.futures.wait(others)
            self.meeting[:] = 0, 0, 0
            raise


class Loss(torch.autograd.Function):
    """The loss; its gradients are computed with it."""

    @staticmethod
    def forward(ctx: Any, kernel: Kernel, texts: Tensor, first: int, *weights: Tensor) -> Tensor:
        (B, T), library = (len(texts), texts.size(1) - 1), kernel.library
        space = torch.empty(library.table_size(T, first) + kernel.threads * library.sums_size(T, first))
        gradients = [torch.zeros_like(weight) for weight in weights]
        given = T, first, ctypes.c_int64(B), address(texts), pointers(weights), address(space), pointers(gradients)
        losses = kernel.together("gradients", kernel.meeting, *given)
        ctx.save_for_backward(*gradients)
        return torch.tensor(sum(losses) / (B * (T - first)))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *(each * gradient for each in ctx.saved_tensors)
