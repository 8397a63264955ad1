"""Dropout with the same units in all layers, against a model whose units are cut out."""

import dataclasses

import pytest
import torch

from model import ModelConfig, Transformer

CONFIG = ModelConfig(7, 8, n_layer=3, n_head=2, n_embd=64, n_hidden=32, activation="gelu", shared_dropout=0.9)


def random_model(config: ModelConfig = CONFIG) -> Transformer:
    model = Transformer(config)
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5, generator=generator)
    return model


def test_dropped_units_of_the_stream_are_zero_after_every_block_and_differ_between_texts() -> None:
    model = random_model()
    streams = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: streams.append(output))
    torch.manual_seed(1)
    model(torch.randint(7, (500, 8)))
    zeros = torch.stack([(stream == 0).all(1) for stream in streams])  # (layers, B, C)
    assert (zeros == zeros[0]).all()
    assert all(torch.equal((stream != 0).any(1), (stream != 0).all(1)) for stream in streams)  # at all positions
    rates = zeros[0].double().mean(1)  # of each text, uniform from 0 to 0.9
    assert rates.mean() == pytest.approx(0.45, abs=0.04)
    assert rates.std() == pytest.approx(0.9 / 12**0.5, abs=0.03)
    assert len({tuple(row) for row in zeros[0].tolist()}) > 450


def test_it_is_drawn_from_the_seed_anew_for_each_batch_and_only_in_training() -> None:
    model, idx = random_model(), torch.arange(7)[None].repeat(4, 1)
    torch.manual_seed(1)
    first, second = model(idx), model(idx)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(model(idx), first)
    usual = Transformer(dataclasses.replace(CONFIG, shared_dropout=0.0))
    usual.load_state_dict(model.state_dict())
    torch.testing.assert_close(model.eval()(idx), usual(idx))
    state = torch.get_rng_state()
    model(idx)
    assert torch.equal(torch.get_rng_state(), state)


def test_with_all_units_of_the_embedding_dropped_the_logits_are_zero() -> None:
    model = random_model(dataclasses.replace(CONFIG, n_embd=2, shared_dropout=1.0, norm="layer"))
    torch.manual_seed(1)
    logits = model(torch.zeros(100, 8, dtype=torch.int64))
    assert (logits == 0).flatten(1).all(1).any()
    assert logits.isfinite().all()


def test_wrong_rates_and_the_kernel_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shared_dropout must be in 0..1, got 1.1"):
        dataclasses.replace(CONFIG, shared_dropout=1.1)
    assert "shared_dropout = 0.9" in (dataclasses.replace(CONFIG, n_layer=1).kernel_problem or "")
    assert not random_model().uses_pair_table(8)
