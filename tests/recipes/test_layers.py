"""The layers of recipes against torch.nn's modules and complex numbers."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn as nn
from torch import Tensor
from torch.testing import assert_close

from model import Transformer
from model_config import ModelConfig
from recipes.layers import rotate
from tests.support.models import example_settings, normal_numbers

OPTIONS = [
    {"norm_position": "post", "bias": "mlp", "norm": "layer_gain", "activation": "gelu_tanh"},
    {"bias": "all", "norm": "layer_gain", "n_layer": 2},
    {"position_encoding": "rotary", "activation": "swiglu", "n_layer": 2},
    {"position_encoding": "rotary", "norm_position": "post", "bias": "all", "activation": "swiglu", "norm": "layer"},
    {"bigrams": True, "n_layer": 2, "tied": True},
    {"position_encoding": "relative", "n_layer": 2},
    {"position_encoding": "relative", "attention_window": 3, "n_layer": 2},
    {"position_encoding": "relative", "norm_position": "post", "bias": "all", "norm": "layer_gain"},
]


def random_model(dtype: torch.dtype = torch.float32, **changes) -> Transformer:
    model = Transformer(ModelConfig(**example_settings(**changes)), dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * weight.size(-1) ** -0.5)
    return model


def torch_layer(model: Transformer, index: int) -> nn.TransformerEncoderLayer:
    """torch's own layer with the weights of a block."""
    config = model.config
    block: Any = model.blocks[index]
    layer = nn.TransformerEncoderLayer(
        config.n_embd,
        config.n_head,
        config.n_hidden,
        dropout=0.0,
        activation=nn.GELU(approximate="tanh" if config.activation == "gelu_tanh" else "none"),
        batch_first=True,
        norm_first=config.norm_position == "pre",
    )
    zeros = torch.zeros(config.n_embd)
    attention: Any = block.attention
    mlp: Any = block.mlp
    norms: Any = block.attention_norm, block.mlp_norm
    values = {
        "self_attn.in_proj_weight": attention.qkv.flatten(0, 1),
        "self_attn.in_proj_bias": torch.zeros(3 * config.n_embd) if config.bias == "mlp" else attention.qkv_bias,
        "self_attn.out_proj.weight": attention.out,
        "self_attn.out_proj.bias": zeros if config.bias == "mlp" else attention.out_bias,
        "linear1.weight": mlp.up,
        "linear1.bias": mlp.up_bias,
        "linear2.weight": mlp.down,
        "linear2.bias": mlp.down_bias,
        "norm1.weight": norms[0].gain,
        "norm1.bias": norms[0].bias,
        "norm2.weight": norms[1].gain,
        "norm2.bias": norms[1].bias,
    }
    layer.load_state_dict(values)
    return layer.train()


def torch_logits(model: Transformer, idx: Tensor) -> Tensor:
    """The logits of a model with biases, learned positions and gains, by torch's modules."""
    T = idx.size(1)
    x = model.token[idx] + model.position[:T]
    for index in range(len(model.blocks)):
        x = torch_layer(model, index)(x, src_mask=nn.Transformer.generate_square_subsequent_mask(T))
    norm = nn.LayerNorm(model.config.n_embd)
    norm.load_state_dict({"weight": model.norm.gain, "bias": model.norm.bias})
    return nn.functional.linear(norm(x), model.head, model.head_bias)


@pytest.mark.parametrize("norm_position", ["pre", "post"])
@pytest.mark.parametrize("bias", ["mlp", "all"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_blocks_with_biases_are_torchs_own_layers(norm_position: str, bias: str, activation: str) -> None:
    options: Any = {"norm_position": norm_position, "bias": bias, "activation": activation}
    model = random_model(n_layer=2, norm="layer_gain", **options)
    idx = torch.randint(12, (3, 9), generator=torch.Generator().manual_seed(1))
    assert_close(model(idx), torch_logits(model, idx), rtol=1e-4, atol=1e-5)
    assert_close(model(idx, 4), torch_logits(model, idx)[:, 4:], rtol=1e-4, atol=1e-5)


def test_the_two_digit_adder_has_its_published_number_of_parameters() -> None:
    sizes: Any = {"vocab_size": 18, "block_size": 11, "n_layer": 2, "n_head": 4, "n_embd": 128, "n_hidden": 256}
    kinds: Any = {"activation": "gelu_tanh", "norm": "layer_gain", "norm_position": "post", "bias": "mlp"}
    model = Transformer(ModelConfig(**sizes, **kinds))
    assert sum(weight.numel() for weight in model.parameters()) == 270_226


def test_rotary_positions_turn_pairs_of_channels_as_complex_numbers() -> None:
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[0, 1, 2, 3, 4], [7, 3, 0, 1, 9]])
    pairs = torch.complex(x[..., :4], x[..., 4:])
    angles = positions[:, None, :, None] * 10_000.0 ** (-2 * torch.arange(4) / 8)
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    assert_close(rotate(x, positions), torch.cat([turned.real, turned.imag], -1))
    assert_close(rotate(x, positions[0])[0], rotate(x, positions)[0])


def test_rotary_attention_depends_on_distances_alone() -> None:
    model = random_model(position_encoding="rotary", n_layer=2)
    idx = torch.randint(12, (3, 6), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(6).expand(3, -1)
    assert_close(model(idx, positions=positions + 50), model(idx), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(model(idx, positions=2 * positions), model(idx), atol=1e-2)


def test_relative_positions_add_a_bias_of_each_head_and_distance_to_the_scores() -> None:
    model = random_model(position_encoding="relative")
    attention: Any = model.blocks[0].attention
    x = torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(1))
    biases = attention.distance_bias.view(2, 11)
    query, key, value = (x @ attention.qkv[i].T for i in range(3))
    expected = torch.zeros(3, 7, 16)
    for text, head, i in itertools.product(range(3), range(2), range(7)):
        part = slice(8 * head, 8 * head + 8)
        scores = [query[text, i, part] @ key[text, j, part] / 8**0.5 + biases[head, i - j] for j in range(i + 1)]
        shares = torch.stack(scores).softmax(0)
        expected[text, i, part] = shares @ value[text, : i + 1, part]
    assert_close(attention(x, 0), expected @ attention.out.T, rtol=1e-4, atol=1e-5)


def test_relative_positions_start_as_none_and_belong_to_adamw_without_decay() -> None:
    model: Any = random_model(position_encoding="relative")
    assert "position" not in dict(model.named_parameters())
    model.initialize(normal_numbers(0))
    biases = model.blocks[0].attention.distance_bias
    assert biases.shape == (2 * 11,)
    assert not biases.any()


def test_a_prompt_longer_than_the_training_texts_attends_by_the_same_biases() -> None:
    model, idx = random_model(position_encoding="relative"), torch.randint(12, (3, 11))
    alone = model(idx[:, 5:])
    attention: Any = model.blocks[0].attention
    with torch.no_grad():
        attention.distance_bias.view(2, 11)[:, 6:] = -torch.inf
    assert_close(model(idx)[:, -1], alone[:, -1], rtol=1e-4, atol=1e-5)


def test_an_attention_window_ends_attention_at_a_distance() -> None:
    model, idx = random_model(position_encoding="relative", attention_window=4), torch.randint(12, (3, 11))
    attention: Any = model.blocks[0].attention
    assert attention.distance_bias.shape == (2 * 4,)
    for T in (2, 4, 11):
        assert_close(model(idx[:, :T])[:, -1], model(idx[:, max(0, T - 4) : T])[:, -1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(idx)[:, -1], model(idx[:, -3:])[:, -1], atol=1e-3)


def test_attention_windows_grow_with_depth() -> None:
    model: Any = random_model(position_encoding="relative", attention_window=8, n_layer=3, n_embd=8)
    assert [block.attention.distance_bias.numel() // 2 for block in model.blocks] == [3, 6, 8]
    assert model.config.attention_window == 8


def test_swiglu_is_its_formula() -> None:
    mlp: Any = random_model(activation="swiglu", bias="mlp", norm="layer").blocks[0].mlp
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    gate, up = x @ mlp.gate.T + mlp.gate_bias, x @ mlp.up.T + mlp.up_bias
    assert_close(mlp(x), (gate * gate.sigmoid() * up) @ mlp.down.T + mlp.down_bias)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_answerer_and_padding_hold_for_every_option(options: dict, dtype: torch.dtype) -> None:
    model, atol = random_model(dtype, **options), 1e-5 if dtype == torch.float32 else 0.05
    idx = torch.randint(12, (3, 9), generator=torch.Generator().manual_seed(1))
    next_logits = model.answerer()
    for T in (4, 5, 8):
        assert_close(next_logits(idx[:, :T]), model(idx[:, :T])[:, -1], rtol=1e-3, atol=atol)
    positions = torch.cat([torch.full((3, 4), -1), torch.arange(5).expand(3, -1)], 1)
    assert_close(model(idx, 4, positions=positions), model(idx[:, 4:]), rtol=1e-3, atol=atol)
    logits = model(idx)
    logits.sum().backward()
    assert logits.dtype == torch.float32
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_padded_batch_has_the_loss_and_the_gradients_of_its_texts_with_every_option(options: dict, side: str) -> None:
    together, apart = random_model(**options), random_model(**options)
    draw = torch.Generator().manual_seed(0)
    texts = [torch.randint(11, (length + 1,), generator=draw) for length in (3, 9, 1)]
    tokens, positions = torch.full((3, 10), 11), torch.full((3, 9), -1)
    for row, text in enumerate(texts):
        start = 0 if side == "right" else 10 - len(text)
        tokens[row, start : start + len(text)] = text
        positions[row, start : start + len(text) - 1] = torch.arange(len(text) - 1)
    together.eval()  # bigrams add a loss in training
    loss = together.masked_loss(tokens[:, :-1], tokens[:, 1:], positions >= 0, 0, positions)
    logits = torch.cat([apart(text[None, :-1])[0] for text in texts])
    expected = nn.functional.cross_entropy(logits, torch.cat([text[1:] for text in texts]))
    loss.backward()
    expected.backward()
    assert_close(loss, expected)
    for ours, theirs in zip(together.parameters(), apart.parameters(), strict=True):
        assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_a_gate_starts_as_the_matrix_beside_it() -> None:
    model = Transformer(ModelConfig(**example_settings(activation="swiglu", n_embd=64, n_hidden=128)))
    model.initialize(normal_numbers(0))
    mlp: Any = model.blocks[0].mlp
    assert float(mlp.gate.detach().std()) == pytest.approx(64**-0.5, rel=0.05)
    assert float(mlp.up.detach().std()) == pytest.approx(64**-0.5, rel=0.05)
    assert not torch.equal(mlp.gate, mlp.up)
    assert not mlp.down.any()


@pytest.mark.parametrize("options", OPTIONS)
def test_gains_start_at_one_and_biases_at_zero_and_the_kernel_is_refused(options: dict) -> None:
    model = Transformer(ModelConfig(**example_settings(**options)))
    model.initialize(normal_numbers(0))
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            assert weight.dim() == 1
            assert not weight.any()
        if name.endswith("gain"):
            assert (weight == 1).all()
    assert model.config.kernel_problem


def test_the_squared_norm_is_the_sum_of_all_squares() -> None:
    model = random_model(n_layer=2)
    expected = sum(float(weight.detach().double().square().sum()) for weight in model.parameters())
    assert model.squared_norm().dim() == 0
    assert float(model.squared_norm()) == pytest.approx(expected, rel=1e-5)
