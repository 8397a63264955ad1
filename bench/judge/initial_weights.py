"""The law of initial weights: a function of the seed, and of the name, the shape and the role of each tensor.

A tensor is a standard deviation times standard normal numbers, which any program can compute again: those of NumPy's
`RandomState`, whose streams do not change between versions, with the sha256 of seed and name as its seed.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.judge.architecture import complete_config, weight_shapes


def standard_normal(seed: int, draw: int, name: str, shape: tuple[int, ...]) -> Tensor:
    """Return standard normal numbers, float32 on the CPU.

    Args:
        seed: of the attempt.
        draw: 0 for the weights that training starts from first, 1 for those after a restart, and so on.
        name: of the tensor, as in the weights file.
    """
    digest = hashlib.sha256(f"{seed} {draw} {name}".encode()).digest()
    generator = np.random.RandomState(np.frombuffer(digest, "<u4"))
    return torch.from_numpy(generator.standard_normal(shape).astype(np.float32))


def initial_weights(
    config: Mapping[str, Any], init: str, embedding_std: float, seed: int
) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the initial values of every weight of a model, those of draw 0.

    With `init` = "identity", matrices that read the residual stream have the standard deviation 1 / sqrt(columns), and
    those that write to it, and the head, are 0. With "gpt2", all have 0.02, divided by the square root of their number
    for matrices that write. Embeddings have `embedding_std`. Gains are 1, biases 0.
    """
    complete = complete_config(config)
    is_gpt2 = init == "gpt2"
    for name, shape in weight_shapes(complete):
        role = name.rpartition(".")[2]
        std = {
            "qkv": shape[-1] ** -0.5,
            "up": shape[-1] ** -0.5,
            "gate": shape[-1] ** -0.5,
            "out": 0.0,
            "down": 0.0,
            "head": 0.0,
        }.get(role, embedding_std)
        if is_gpt2 and role in ("qkv", "up", "gate", "head"):
            std = 0.02
        if is_gpt2 and role in ("out", "down"):
            std = 0.02 / math.sqrt(2 * complete["n_layer"])
        if role == "gain":
            yield name, torch.ones(shape)
        elif role.endswith("bias") or not std:
            yield name, torch.zeros(shape)
        else:
            yield name, standard_normal(seed, 0, name, shape) * std


def state_sha256(weights: Mapping[str, Tensor]) -> str:
    """Return one sha256 over the names and values of all weights, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        values = weights[name].detach().cpu().float().contiguous().view(torch.uint8)
        digest.update(name.encode() + values.numpy().tobytes())
    return digest.hexdigest()
