"""The transformer against its definition: loops over heads and positions, and counted parameters."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from layers import ACTIVATIONS, Norm, attend_in_products
from model import Transformer
from model_config import ModelConfig
from tests.support.models import example_settings, normal_numbers, random_model

SHAPES = [
    {"n_layer": 1},
    {"n_layer": 2},
    {"n_layer": 1, "n_head": 4, "activation": "relu2"},
    {"n_layer": 1, "norm": "layer"},
    {"n_layer": 1, "norm": "layer_gain", "activation": "gelu_tanh"},
    {"n_layer": 2, "norm": "layer_gain", "tied": True},
]


def random_ids(B: int, T: int, vocab_size: int = 12, seed: int = 0) -> Tensor:
    return torch.randint(vocab_size, (B, T), generator=torch.Generator().manual_seed(seed))


def naive_logits(model: Transformer, ids: list[int]) -> Tensor:
    """One sequence through the textbook's equations in float64, head by head and position by position: (T, V)."""
    config = model.config
    weights = {name: weight.detach().double() for name, weight in model.named_parameters()}
    C, nh = config.n_embd, config.n_head
    hs = C // nh

    def norm(x: Tensor, name: str) -> Tensor:
        if config.norm == "rms":
            return x / (x.square().mean() + torch.finfo(torch.float32).eps).sqrt()
        return (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() * weights.get(f"{name}.gain", 1.0)

    x = [weights["token"][c] + weights["position"][t] for t, c in enumerate(ids)]
    for layer in range(config.n_layer):
        qkv, out = weights[f"blocks.{layer}.attention.qkv"], weights[f"blocks.{layer}.attention.out"]
        up, down = weights[f"blocks.{layer}.mlp.up"], weights[f"blocks.{layer}.mlp.down"]
        read = [norm(row, f"blocks.{layer}.attention_norm") for row in x]
        answers = []
        for t in range(len(ids)):
            heads: list[Any] = []
            for head in range(nh):
                part = slice(head * hs, (head + 1) * hs)
                query = (qkv[0] @ read[t])[part]
                scores = [float(query @ (qkv[1] @ read[s])[part]) / math.sqrt(hs) for s in range(t + 1)]
                shares = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
                heads.append(sum(share * (qkv[2] @ read[s])[part] for s, share in enumerate(shares)))
            answers.append(out @ torch.cat(heads))
        x = [row + answer for row, answer in zip(x, answers, strict=True)]
        x = [row + down @ ACTIVATIONS[config.activation](up @ norm(row, f"blocks.{layer}.mlp_norm")) for row in x]
    return torch.stack([weights["token" if config.tied else "head"] @ norm(row, "norm") for row in x])


# -----------------------------------------------------------------------------
# one function, four ways to compute it


@pytest.mark.parametrize("shape", SHAPES)
def test_the_forward_pass_is_the_textbook_transformer(shape: dict) -> None:
    model = random_model(**shape)
    idx = random_ids(2, 5)
    expected = torch.stack([naive_logits(model, row.tolist()) for row in idx])
    assert_close(model(idx).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("asking", [7, 3, 1])
def test_attention_in_two_products_is_torchs_own(asking: int) -> None:
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, T, 2, 8, generator=draw).transpose(1, 2) for T in (asking, 7, 7))
    seen = torch.ones(7, 7, dtype=torch.bool).tril()[-asking:]
    results = []
    ways: Any = (attend_in_products, torch.nn.functional.scaled_dot_product_attention)
    for attend in ways:
        inputs = [x.clone().requires_grad_() for x in (query, key, value)]
        answers = attend(*inputs, attn_mask=seen, dropout_p=0.0)
        answers.backward(query)  # any gradient
        results.append([answers, *(x.grad for x in inputs)])
    assert_close(*results)


@pytest.mark.parametrize(("dtype", "is_asked"), [(torch.float32, True), (torch.bfloat16, False)])
def test_in_bfloat16_on_a_cpu_torchs_own_attention_is_not_asked(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, is_asked: bool
) -> None:
    asked, attend = [], torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *arguments, **keywords: (asked.append(torch.is_grad_enabled()), attend(*arguments, **keywords))[1],
    )
    model = random_model(dtype=dtype, n_layer=2)
    model.loss(random_ids(4, 11)).backward()
    with torch.no_grad():
        model(random_ids(4, 11))
    assert asked == ([True, True, False, False] if is_asked else [])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("T", "first"), [(11, 0), (11, 7), (11, 10), (4, 0), (4, 2), (1, 0)])
def test_the_fast_pass_is_the_forward_pass(shape: dict, T: int, first: int) -> None:
    model = random_model(**shape)
    idx = random_ids(16, T)
    logits = model(idx, first)
    assert logits.shape == (16, T - first, 12)
    assert logits.dtype == torch.float32
    assert_close(model.forward_fast(idx, first), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_layer", [1, 2])
def test_asking_from_a_later_position_drops_the_earlier_answers_only(n_layer: int) -> None:
    model = random_model(n_layer=n_layer)
    idx = random_ids(8, 11)
    assert_close(model(idx, 6), model(idx)[:, 6:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_layer", [1, 2])
@pytest.mark.parametrize("first", [0, 7])
def test_bfloat16_passes_agree_within_its_rounding(n_layer: int, first: int) -> None:
    idx = random_ids(64, 11)
    exact = random_model(n_layer=n_layer)(idx, first)
    model = random_model(n_layer=n_layer, dtype=torch.bfloat16)
    # bfloat16 keeps 8 bits; a dozen roundings on logits of size 1 stay below a tenth.
    for logits in (model(idx, first), model.forward_fast(idx, first)):
        assert logits.dtype == torch.float32
        assert (logits - exact).abs().max() < 0.1
        assert (logits - exact).abs().max() > 0  # else nothing ran in bfloat16


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_is_used_as_autocast_uses_it(monkeypatch: pytest.MonkeyPatch, shape: dict) -> None:
    idx, model = random_ids(64, 11), random_model(**shape, dtype=torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = random_model(**shape)(idx)
    # Attention is two products on a CPU, which round its scores too; the rest is the same to the last digit.
    assert_close(model(idx), expected.float(), rtol=0, atol=0.05)
    monkeypatch.setattr("layers.attend_in_products", torch.nn.functional.scaled_dot_product_attention)
    with torch.no_grad():
        assert_close(model(idx), expected.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_layer", [1, 2])
def test_the_fast_pass_has_the_gradients_of_the_forward_pass(n_layer: int) -> None:
    idx = random_ids(16, 11)
    gradients = []
    for run in (Transformer.forward, Transformer.forward_fast):
        model = random_model(n_layer=n_layer)
        run(model, idx, 7).square().mean().backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
    assert all(gradient.abs().max() > 0 for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-6)


def test_the_fast_pass_holds_where_attention_is_sharp() -> None:
    model = random_model()
    with torch.no_grad():
        block: Any = model.blocks[0]
        block.attention.qkv[:2] *= 4.0  # scores spread over some 30 nats
    idx = random_ids(32, 11)
    assert_close(model.forward_fast(idx), model(idx), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_answerer_is_the_forward_pass_at_the_last_position(shape: dict) -> None:
    model = random_model(**shape)
    next_logits = model.answerer()
    for T in range(1, 12):
        idx = random_ids(32, T, seed=T)
        logits = next_logits(idx)
        assert logits.dtype == torch.float32
        assert_close(logits, model(idx)[:, -1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_layer", [1, 2, 3])
def test_the_answerer_goes_on_from_what_it_was_asked_last(n_layer: int) -> None:
    model = random_model(n_layer=n_layer)
    next_logits = model.answerer()
    idx, other = random_ids(32, 11), random_ids(32, 11)
    other[:, 0] = (other[:, 0] + 1) % 12
    asked = [idx[:, :6], idx[:, :7], idx[:, :10], idx[:, :10], idx[:, :4], other[:, :5], idx[:, :6], idx[:5, :7]]
    for part in asked:
        assert_close(next_logits(part), model(part)[:, -1], rtol=1e-4, atol=1e-5)


def test_the_answerer_computes_no_character_of_several_layers_twice() -> None:
    model = random_model(n_layer=2)
    lengths = []
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].size(1)))
    next_logits, idx = model.answerer(), random_ids(8, 11)
    for T in (7, 8, 9, 11):
        next_logits(idx[:, :T])
    assert lengths == [7, 1, 1, 2]


def test_the_answerer_sees_that_what_it_was_asked_was_changed_in_place() -> None:
    model = random_model(n_layer=2)
    next_logits, idx = model.answerer(), random_ids(8, 11)
    next_logits(idx[:, :8])
    idx[:, 3] = (idx[:, 3] + 1) % 12
    assert_close(next_logits(idx), model(idx)[:, -1], rtol=1e-4, atol=1e-5)


def test_an_answerer_that_was_broken_off_begins_anew() -> None:
    model = random_model(n_layer=2)
    next_logits, idx = model.answerer(), random_ids(8, 11)
    next_logits(idx[:, :8])

    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    hook = model.blocks[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        next_logits(idx[:, :9])
    hook.remove()
    assert_close(next_logits(idx[:, :9]), model(idx[:, :9])[:, -1], rtol=1e-4, atol=1e-5)


def test_a_text_of_more_characters_than_positions_is_refused() -> None:
    model = random_model(n_layer=2)
    next_logits, idx = model.answerer(), random_ids(8, 12)
    next_logits(idx[:, :10])
    for ask in (model, next_logits):
        with pytest.raises(RuntimeError, match="exceeds dimension size"):
            ask(idx)


@pytest.mark.parametrize("n_layer", [1, 2])
def test_the_bfloat16_answerer_agrees_within_its_rounding(n_layer: int) -> None:
    idx, model = random_ids(64, 9), random_model(n_layer=n_layer)
    next_logits = random_model(n_layer=n_layer, dtype=torch.bfloat16).answerer()
    for T in (6, 7, 9):
        assert (next_logits(idx[:, :T]) - model(idx[:, :T])[:, -1]).abs().max() < 0.1


def test_the_answerer_answers_those_that_all_ask_with_one_character() -> None:
    model = random_model()
    idx = random_ids(8, 9)
    idx[:, -1] = 11  # as prompts do: they end in the same character
    assert_close(model.answerer()(idx), model(idx)[:, -1], rtol=1e-4, atol=1e-5)


# -----------------------------------------------------------------------------
# what a step costs


@pytest.mark.parametrize(
    "shape",
    [
        *SHAPES,
        {"n_layer": 3, "n_head": 4, "n_embd": 40, "n_hidden": 8},
        {"n_layer": 1, "dropout": 0.1},
        {"bigrams": True},
    ],
)
@pytest.mark.parametrize(("B", "T", "first"), [(32, 11, 7), (18, 11, 0), (17, 11, 10), (3, 4, 1), (1, 2, 0)])
def test_the_flops_of_a_step_are_those_that_torch_counts(shape: dict, B: int, T: int, first: int) -> None:
    model = random_model(**shape)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.loss(random_ids(B, T + 1), first).backward()
    assert model.step_flops(B, T, first) == counter.get_total_flops()


# -----------------------------------------------------------------------------
# what a language model must not do


@pytest.mark.parametrize("n_layer", [1, 2])
@pytest.mark.parametrize("run", [Transformer.forward, Transformer.forward_fast])
def test_no_position_sees_a_later_character(n_layer: int, run) -> None:
    model = random_model(n_layer=n_layer)
    idx = random_ids(8, 11)
    logits = run(model, idx)
    for t in range(1, 11):
        changed = idx.clone()
        changed[:, t:] = (changed[:, t:] + 1) % 12
        difference = (run(model, changed) - logits).abs().amax((0, 2))  # (T,)
        assert difference[:t].max() < 1e-5
        assert difference[t:].min() > 1e-3  # the change is seen from its own position on


@pytest.mark.parametrize("n_layer", [1, 2])
def test_a_permuted_vocabulary_permutes_the_logits(n_layer: int) -> None:
    model, renamed = random_model(n_layer=n_layer), random_model(n_layer=n_layer)
    new_id = torch.randperm(12, generator=torch.Generator().manual_seed(1))  # character c becomes new_id[c]
    with torch.no_grad():
        renamed.token[new_id] = model.token
        renamed.head[new_id] = model.head
    idx = random_ids(16, 11)
    assert_close(renamed(new_id[idx])[..., new_id], model(idx), rtol=1e-4, atol=1e-5)
    assert_close(renamed.forward_fast(new_id[idx])[..., new_id], model.forward_fast(idx), rtol=1e-4, atol=1e-5)
    last = renamed.answerer()(new_id[idx])[:, new_id]
    assert_close(last, model.answerer()(idx), rtol=1e-4, atol=1e-5)


# -----------------------------------------------------------------------------
# weights


@pytest.mark.parametrize(("n_layer", "n_head"), [(1, 2), (3, 4)])
def test_the_parameters_are_those_that_can_be_counted_by_hand(n_layer: int, n_head: int) -> None:
    model = Transformer(ModelConfig(**example_settings(n_layer=n_layer, n_head=n_head)))
    V, T, C, H = 12, 11, 16, 24
    attention = 3 * C * C + C * C
    mlp = C * H + H * C
    expected = V * C + T * C + n_layer * (attention + mlp) + V * C
    assert sum(weight.numel() for weight in model.parameters()) == expected
    assert all(weight.dtype == torch.float32 for weight in model.parameters())


def initialized(seed: int, **changes) -> dict[str, Tensor]:
    model = Transformer(ModelConfig(**example_settings(**changes)))
    model.initialize(normal_numbers(seed))
    return model.state_dict()


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    weights = initialized(seed=5)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again, other = initialized(seed=5), initialized(seed=6)
    assert torch.equal(torch.get_rng_state(), before)  # and leave the global random state alone
    for name, weight in weights.items():
        assert torch.equal(weight, again[name])
        if weight.any():
            assert not torch.equal(weight, other[name])


def test_initial_weights_have_the_scale_of_their_role() -> None:
    weights = initialized(seed=0, n_layer=2, n_embd=64, n_hidden=128)
    for name, weight in weights.items():
        match name.rpartition(".")[2]:
            case "token" | "position":
                assert abs(float(weight.std()) - 1) < 0.1
            case "qkv" | "up":
                assert abs(float(weight.std()) * math.sqrt(64) - 1) < 0.1
            case _:
                assert not weight.any()
    assert len(weights) == 3 + 2 * 4


def test_initial_weights_of_gpt2_have_one_scale_and_a_smaller_one_where_they_write_to_the_stream() -> None:
    sizes = {"n_layer": 2, "n_embd": 64, "n_hidden": 128, "norm": "layer_gain"}
    weights = initialized(seed=0, init="gpt2", embedding_std=0.02, **sizes)
    for name, weight in weights.items():
        match name.rpartition(".")[2]:
            case "token" | "position" | "qkv" | "up" | "head":
                assert abs(float(weight.std()) / 0.02 - 1) < 0.1
            case "out" | "down":
                assert abs(float(weight.std()) / (0.02 / math.sqrt(2 * 2)) - 1) < 0.1
            case _:
                assert name.endswith("gain")
                assert (weight == 1).all()
    assert len(weights) == 3 + 1 + 2 * (4 + 2)


def test_the_parameters_of_the_report_are_those_that_nanogpt_counts() -> None:
    sizes: Any = {"vocab_size": 13, "block_size": 16, "n_layer": 3, "n_head": 4, "n_embd": 192, "n_hidden": 768}
    model = Transformer(ModelConfig(**sizes, activation="gelu", norm="layer_gain", init="gpt2", tied=True))
    total = sum(weight.numel() for weight in model.parameters())
    assert total == 1_334_016
    # nanoGPT prints it without the position embeddings, in millions.
    assert f"{(total - model.position.numel()) / 1e6:.2f}M" == "1.33M"


def test_a_config_that_was_stored_before_there_were_choices_means_what_it_meant() -> None:
    config = ModelConfig(**example_settings())
    assert (config.norm, config.init, config.tied, config.dropout) == ("rms", "identity", False, 0.0)
    assert set(Transformer(config).state_dict()) == {
        *("token", "position", "head", "blocks.0.attention.qkv", "blocks.0.attention.out"),
        *("blocks.0.mlp.up", "blocks.0.mlp.down"),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_with_a_gain_is_the_layer_norm_of_torch(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, gain = torch.randn(8, 5, 16, generator=generator), torch.randn(16, generator=generator)
    reference = torch.nn.LayerNorm(16, bias=False)
    norm = Norm(ModelConfig(**example_settings(n_embd=16, norm="layer_gain")), dtype)
    with torch.no_grad():
        reference.weight.copy_(gain)
        norm.gain.copy_(gain)
    assert_close(norm(x), reference(x).to(dtype))


# -----------------------------------------------------------------------------
# dropout


@pytest.mark.parametrize("n_layer", [1, 2])
def test_without_training_nothing_is_dropped(n_layer: int) -> None:
    idx = random_ids(16, 11)
    model, usual = random_model(n_layer=n_layer, dropout=0.5).eval(), random_model(n_layer=n_layer)
    assert_close(model(idx), usual(idx))
    assert_close(model.forward_fast(idx, 7), usual.forward_fast(idx, 7))


@pytest.mark.parametrize("n_layer", [1, 2])
def test_in_training_both_passes_drop_the_same(n_layer: int) -> None:
    idx, model = random_ids(16, 11), random_model(n_layer=n_layer, dropout=0.5)
    passes = []
    for run in (model, model.forward_fast, model):
        torch.manual_seed(len(passes) // 2)
        passes.append(run(idx, 7))
    assert torch.equal(passes[0], passes[1])
    assert not torch.equal(passes[0], passes[2])  # which draws anew
    assert model.prepare(11) is None


def test_dropout_falls_on_embeddings_attention_and_what_the_blocks_add(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped, attended = [], []
    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "dropout", lambda x, p, training: (dropped.append((x.shape, p, training)), x)[1]
    )
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *arguments, dropout_p, **keywords: (attended.append(dropout_p), attend(*arguments, **keywords))[1],
    )
    random_model(n_layer=2, dropout=0.25)(random_ids(4, 11))
    assert dropped == [((4, 11, 16), 0.25, True)] * (1 + 2 * 2)
    assert attended == [0.25, 0.25]


def test_an_untrained_model_prefers_no_character() -> None:
    model = Transformer(ModelConfig(**example_settings()))
    model.initialize(normal_numbers(0))
    assert not model(random_ids(4, 11)).any()


def test_a_parameter_without_an_initialisation_rule_is_an_error() -> None:
    model = Transformer(ModelConfig(**example_settings()))
    model.blocks[0].scale = torch.nn.Parameter(torch.ones(16))
    with pytest.raises(ValueError, match=r"no rule initialises the parameter blocks\.0\.scale"):
        model.initialize(normal_numbers(0))


# -----------------------------------------------------------------------------
# a pair table that does not fit


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_whose_pair_table_does_not_fit_uses_the_plain_pass(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 bytes at 64 positions: the table would take 73 GB."""
    model = random_model(vocab_size=256, block_size=64, n_embd=64, n_head=4, dtype=dtype)
    monkeypatch.setattr("pair_table.pair_table", lambda *_: pytest.fail("it builds the table"))
    idx = random_ids(3, 65, vocab_size=256)
    plain = model(idx[:, :64], 10)
    assert not model.uses_pair_table(64)
    assert model.prepare(64) is None
    assert torch.equal(model.forward_fast(idx[:, :64], 10), plain)
    losses, _ = model.evaluate(idx, 10)
    expected = torch.nn.functional.cross_entropy(plain.mT, idx[:, 11:], reduction="none").amax(1)
    assert torch.equal(losses, expected)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.loss(idx, 10).backward()
    if dtype == torch.float32:
        assert model.step_flops(3, 64, 10) == counter.get_total_flops()


def test_an_answerer_uses_the_table_where_it_fits_and_the_plain_pass_where_it_does_not(monkeypatch) -> None:
    model, plain = random_model(), random_model()
    monkeypatch.setattr("model_config.MAX_TABLE_BYTES", model.config.pair_table_bytes(6, 5, item_bytes=4))
    assert [model.uses_pair_table(T, T - 1) for T in (5, 6, 7)] == [True, True, False]
    next_logits, idx = model.answerer(), random_ids(32, 11)
    for T in (5, 6, 7, 8, 11, 6, 9):
        assert_close(next_logits(idx[:, :T]), plain(idx[:, :T])[:, -1], rtol=1e-4, atol=1e-5)
