"""The memory estimate, against counted weights, allocated tensors and the sizes that it depends on."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from data import get_track
from memory_estimate import CPU_EVALUATION_BYTES, backward_bytes, evaluation_batch_size, peak_bytes
from model import Transformer
from model_config import ModelConfig
from settings import Settings
from tests.support.small_trainer import SeededTrainer

WIDE = Settings(
    track="add20",
    kernel="torch",
    precision="float32",
    device="cpu",
    n_layer=4,
    n_embd=128,
    n_hidden=512,
    n_head=4,
    batch_size=16,
    num_steps=2,
    evaluation_problems=8,
    check_problems=8,
    matrix_optimizer="adamw",
)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tied": True, "norm": "layer_gain"},
        {"activation": "swiglu", "bias": "all"},
        {"position_encoding": "rotary", "norm_position": "post"},
        {"bigrams": True},
        {"any_order": True},
    ],
)
def test_the_number_of_weights_is_counted_without_building_the_model(options: dict) -> None:
    config = ModelConfig(14, 20, 3, 4, 64, 96, **{"activation": "gelu"} | options)
    model = Transformer(config)
    counted = sum(
        weight.numel() for name, weight in model.named_parameters() if "gain" not in name and "bias" not in name
    )
    assert config.num_parameters == counted
    matrices = [weight for name, weight in model.blocks.named_parameters() if weight.dim() > 1 and "bias" not in name]
    assert config.num_matrix_parameters == sum(map(torch.Tensor.numel, matrices))


@pytest.mark.parametrize(
    ("changes", "has_all_losses"),
    [({}, True), ({"loss_on": "answer"}, False), ({"activation": "swiglu", "norm": "layer"}, True)],
)
def test_the_activations_of_a_step_are_those_that_torch_keeps_for_the_backward_pass(
    changes: dict, has_all_losses: bool
) -> None:
    settings = replace(WIDE, **{"loss_on": "all", "norm": "layer"} | changes)
    trainer = SeededTrainer(settings, get_track("add20"), torch.device("cpu"), torch.float32, 0)
    weights = {weight.untyped_storage().data_ptr() for weight in trainer.model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    alive: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        trainer.model.loss(trainer.inputs.tensors["tokens"][0], trainer.query_start)
    T = trainer.batches.text_length - 1
    config = trainer.model.config
    Q = T - trainer.query_start
    C, H = config.n_embd, config.n_hidden
    temporary = settings.batch_size * T * ((4 if config.is_gated else 2) * H + 4 * C) * 4
    assert backward_bytes(config, settings.batch_size, T, Q, 4) - temporary == pytest.approx(
        sum(kept.values()), rel=0.2
    )
    assert (T == Q) == has_all_losses


@pytest.mark.parametrize("larger", [{"batch_size": 32}, {"n_layer": 8}, {"n_embd": 256}, {"n_hidden": 2048}])
def test_a_larger_model_or_batch_takes_more_memory(larger: dict) -> None:
    assert peak_bytes(replace(WIDE, **larger), 100) > 1.1 * peak_bytes(WIDE, 100)


def test_smaller_parts_of_a_batch_take_less_memory() -> None:
    large = replace(WIDE, batch_size=1024)  # its activations outweigh everything else
    assert peak_bytes(replace(large, micro_batches=16), 100) < peak_bytes(large, 100) / 3
    assert peak_bytes(large, 100, processes=4) < peak_bytes(large, 100)


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "muon"])
def test_the_state_of_the_optimizer_counts(optimizer: Any) -> None:
    settings = replace(WIDE, n_embd=512, n_hidden=2048, batch_size=1, matrix_optimizer=optimizer)
    config = settings.model_config(12, 62)
    numbers = {"adamw": 3, "lion": 2, "muon": 2}[optimizer]  # of each weight, with the weight itself
    assert peak_bytes(settings, 1) > 2 * numbers * 4 * config.num_parameters  # the warm-up copies them


def test_wide_models_are_evaluated_in_smaller_batches_and_shipped_small_ones_as_before() -> None:
    small = Settings(n_embd=32, n_hidden=64, n_head=8).model_config(12, 11)
    assert evaluation_batch_size(small, 11, 4, 2048, "cpu") == 2048
    wide = WIDE.model_config(12, 62)
    batch_size = evaluation_batch_size(wide, 62, 4, 2048, "cpu")
    assert 1 < batch_size < 2048
    assert batch_size * wide.forward_bytes(62, 4) <= CPU_EVALUATION_BYTES
