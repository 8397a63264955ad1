"""Small models with random weights."""

from collections.abc import Callable
from typing import Any

import torch

from model import ModelConfig, Transformer


def example_settings(**changes: Any) -> dict[str, Any]:
    """The shape of a model that is small and still has more of everything than one."""
    sizes = {"vocab_size": 12, "block_size": 11, "n_layer": 1, "n_head": 2, "n_embd": 16, "n_hidden": 24}
    return sizes | {"activation": "gelu"} | changes


def normal_numbers(seed: int) -> Callable[[str, torch.Size], torch.Tensor]:
    """What `Transformer.initialize` takes."""
    generator = torch.Generator().manual_seed(seed)
    return lambda name, shape: torch.randn(shape, generator=generator)


def random_model(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Transformer:
    """A model whose every weight is random: `initialize` starts half of them at zero, which would hide mistakes."""
    model = Transformer(ModelConfig(**example_settings(**changes)), dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * weight.size(-1) ** -0.5)
        for weight in (model.token, model.position):
            weight.mul_(weight.size(-1) ** 0.5)
    return model
