"""The judge's forward pass against the trainer's model: two implementations of one function."""

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bench.config import config_files, read_config
from bench.judge import forward
from bench.judge.architecture import CHOICES, weight_shapes
from bench.judge.forward import Caches, Model
from model import Transformer
from model_config import ModelConfig
from settings import Settings
from tests.support.examples import ROOT
from tests.support.models import example_settings

CLOSE = 1e-5  # relative to the largest logit; float32 has 1.2e-7
CONFIGS = sorted(config_files())

KINDS: list[dict[str, Any]] = [
    {},
    {"bigrams": True},
    {"any_order": True},
    {"position_encoding": "rotary"},
    {"position_encoding": "rotary", "any_order": True},
    {"position_encoding": "rotary", "bigrams": True},
    {"position_encoding": "relative"},
    {"position_encoding": "relative", "attention_window": 5},
]


def architectures(kinds: list[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    names = ("activation", "norm", "norm_position", "bias", "tied")
    choices = {name: st.sampled_from(CHOICES[name]) for name in names} | {"n_layer": st.integers(1, 3)}
    return st.builds(lambda kind, others: kind | others, st.sampled_from(kinds), st.fixed_dictionaries(choices))


ARCHITECTURES = architectures(KINDS)
IN_ANY_ORDER = architectures([kind for kind in KINDS if "any_order" in kind])
IN_ORDER = architectures([kind for kind in KINDS if "any_order" not in kind])  # only these have padded texts


def random_model(config: ModelConfig) -> Transformer:
    """A model in evaluation mode whose every weight is random and matters."""
    model = Transformer(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        drawn = torch.randn(weight.shape, generator=generator)
        is_embedding = name.endswith(("token", "position", "pair"))
        weight.copy_(drawn if weight.dim() == 1 or is_embedding else drawn * 1.5 * weight.size(-1) ** -0.5)
    return model


def judged(model: Transformer, dtype: torch.dtype = torch.float32) -> Model:
    return Model(dataclasses.asdict(model.config), model.state_dict(), dtype)


def random_ids(config: ModelConfig, T: int) -> Tensor:
    return torch.randint(config.vocab_size, (3, T), generator=torch.Generator().manual_seed(1))


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def reduced_config(name: str) -> ModelConfig:
    """The architecture of one of the project's configs, in small."""
    settings = Settings(**read_config(config_files()[name], Settings))
    config = settings.model_config(len(settings.track_description.vocabulary), settings.track_description.block_size)
    sizes: dict[str, Any] = {"vocab_size": min(config.vocab_size, 20), "block_size": min(config.block_size, 12)}
    sizes |= {"n_layer": min(config.n_layer, 2), "n_embd": 4 * config.n_head, "n_hidden": 24}
    return dataclasses.replace(config, **sizes)


# -----------------------------------------------------------------------------
# the same logits


@pytest.mark.parametrize("name", CONFIGS)
def test_the_logits_of_every_config_s_model_are_those_of_the_trainer(name: str) -> None:
    config = reduced_config(name)
    model, ids = random_model(config), random_ids(config, config.block_size)
    for query_start in (0, config.block_size // 2):
        expected = model(ids, query_start)
        for dtype in (torch.float32, torch.float64):
            logits = judged(model, dtype).logits(ids, query_start)
            assert logits.dtype == dtype
            assert difference(logits, expected) < CLOSE


@pytest.mark.parametrize("name", CONFIGS)
def test_attention_scores_times_1_5_are_seen_in_every_config_s_model(name: str) -> None:
    config = reduced_config(name)
    model, ids = random_model(config), random_ids(config, config.block_size)
    logits = judged(model).logits(ids)
    for name, weight in model.named_parameters():  # scores are products with queries
        if name.endswith("qkv"):
            weight[0] *= 1.5
        elif name.endswith("qkv_bias"):
            weight[: config.n_embd] *= 1.5
    assert difference(logits, model(ids)) > 100 * CLOSE


@given(ARCHITECTURES)
def test_the_logits_of_every_architecture_are_those_of_the_trainer(changes: dict) -> None:
    config = ModelConfig(**example_settings(**changes))
    model, ids = random_model(config), random_ids(config, 9)
    for query_start in (0, 5):
        expected = model(ids, query_start)
        assert difference(judged(model).logits(ids, query_start), expected) < CLOSE
        assert difference(judged(model, torch.float64).logits(ids, query_start), expected) < CLOSE


@pytest.mark.parametrize("changes", [{"norm": "rms"}, {"norm": "layer"}, {"norm": "layer_gain"}, {"n_layer": 3}])
def test_float64_is_computed_in_float64(changes: dict) -> None:
    config = ModelConfig(**example_settings(**changes))
    model, ids = random_model(config), random_ids(config, 9)
    double = Transformer(config, torch.float64)  # the layers of recipes compute in float32 in part
    double.load_state_dict(model.state_dict())
    exact = double.double().requires_grad_(False)(ids)  # rounded to float32
    assert difference(judged(model, torch.float64).logits(ids), exact) < 2**-23


@given(IN_ORDER, st.sampled_from(["left", "right"]))
def test_padding_changes_no_logit_of_a_text(changes: dict, side: str) -> None:
    config = ModelConfig(**example_settings(**changes))
    model, ids, positions = random_model(config), random_ids(config, 9), torch.full((3, 9), -1)
    for row, length in enumerate((9, 4, 1)):
        positions[row, 9 - length if side == "left" else 0 :][:length] = torch.arange(length)
    judge, is_token = judged(model), positions >= 0
    logits = judge.logits(ids, positions=positions)
    assert difference(logits[is_token], model(ids, positions=positions)[is_token]) < CLOSE
    for row in range(3):
        alone = judge.logits(ids[row : row + 1, is_token[row]])[0]
        assert difference(logits[row, is_token[row]], alone) < CLOSE


@given(IN_ANY_ORDER)
def test_texts_in_any_order_have_the_trainer_s_logits(changes: dict) -> None:
    config = ModelConfig(**example_settings(**changes))
    model, ids = random_model(config), random_ids(config, 9)
    order = torch.stack([torch.randperm(11, generator=torch.Generator().manual_seed(row)) for row in range(3)])
    positions, next_positions = order[:, :9], order[:, 1:10]
    expected, judge = model(ids, 0, None, positions, next_positions), judged(model)
    assert difference(judge.logits(ids, 0, None, positions, next_positions), expected) < CLOSE
    assert difference(judge.logits(ids), expected) > 100 * CLOSE
    next_logits = judge.next_logits()
    for length in range(1, 10):
        inputs = (x[:, :length] for x in (ids, positions, next_positions))
        assert difference(next_logits(*inputs), expected[:, length - 1]) < CLOSE


@given(ARCHITECTURES)
def test_caches_continue_a_text(changes: dict) -> None:
    config = ModelConfig(**example_settings(**changes))
    model, ids = random_model(config), random_ids(config, 9)
    expected, judge = model(ids), judged(model)
    caches: Caches = {}
    parts = [judge.logits(part, 0, caches) for part in ids.split([4, 1, 3, 1], 1)]
    assert difference(torch.cat(parts, 1), expected) < CLOSE


@pytest.mark.parametrize("window", [0, 5])
def test_a_text_with_relative_positions_may_be_longer_than_the_block_size(window: int) -> None:
    config = ModelConfig(
        **example_settings(position_encoding="relative", attention_window=window, n_layer=2, block_size=8)
    )
    model, ids = random_model(config), random_ids(config, 20)
    assert difference(judged(model).logits(ids, 15), model(ids, 15)) < CLOSE


def test_weights_of_another_float_type_are_converted() -> None:
    model = random_model(ModelConfig(**example_settings()))
    state = {name: weight.bfloat16() for name, weight in model.state_dict().items()}
    model.load_state_dict(state)
    judge = Model(dataclasses.asdict(model.config), state, torch.float64)
    ids = random_ids(model.config, 9)
    assert difference(judge.logits(ids), model(ids)) < CLOSE


# -----------------------------------------------------------------------------
# decoding


def test_decoding_computes_only_the_tokens_that_continue_the_latest_text(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(ModelConfig(**example_settings(n_layer=2)))
    judge, ids, lengths = judged(model), random_ids(model.config, 9), []
    embed = judge.embed
    monkeypatch.setattr(
        judge,
        "embed",
        lambda text, positions, *other: (lengths.append(positions.size(1)), embed(text, positions, *other))[1],
    )
    next_logits = judge.next_logits()
    for text in (ids[:, :5], ids[:, :6], ids[:, :8], ids[:, :8], ids[:, :3], (ids[:, :4] + 1) % 12, ids[:2, :5]):
        assert difference(next_logits(text), model(text)[:, -1]) < CLOSE
    assert lengths == [5, 1, 2, 8, 3, 4, 5]


def test_decoding_goes_on_after_an_error() -> None:
    model = random_model(ModelConfig(**example_settings(n_layer=2)))
    next_logits, ids = judged(model).next_logits(), random_ids(model.config, 12)
    next_logits(ids[:, :9])
    with pytest.raises(IndexError):
        next_logits(torch.cat([ids[:, :9], torch.full((3, 1), 12)], 1))
    with pytest.raises(ValueError, match=r"^a text of 12 tokens is longer than the model's block_size, 11$"):
        next_logits(ids)
    assert difference(next_logits(ids[:, :10]), model(ids[:, :10])[:, -1]) < CLOSE


def test_decoding_does_not_continue_other_positions() -> None:
    model = random_model(ModelConfig(**example_settings(n_layer=2)))
    next_logits, ids, positions = (
        judged(model).next_logits(),
        random_ids(model.config, 6),
        torch.arange(6).expand(3, -1),
    )
    next_logits(ids[:, :5], positions[:, :5])
    found = next_logits(ids, positions + 1)
    assert difference(found, model(ids, positions=positions + 1)[:, -1]) < CLOSE


# -----------------------------------------------------------------------------
# what is refused


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"n_experts": 4}, "the judge cannot certify a model with the unknown setting 'n_experts'"),
        ({"a\nb": 4}, r"the judge cannot certify a model with the unknown setting 'a\\nb'"),
        ({"norm": "batch"}, "with norm = 'batch'; it must be one of rms, layer, layer_gain"),
        ({"tied": None}, "with tied = None; it must be one of False, True"),
        ({"activation": ["gelu"]}, r"with activation = \['gelu'\]; it must be one of gelu, "),
        ({"n_layer": 0}, "with n_layer = 0; it must be a whole number above 0"),
        ({"n_head": True}, "with n_head = True; it must be a whole number above 0"),
        ({"n_embd": 16.0}, r"with n_embd = 16\.0; it must be a whole number above 0"),
        ({"attention_window": -1}, "with attention_window = -1; it must be a whole number, at least 0"),
        ({"attention_window": 3}, "with attention_window but without relative positions"),
        ({"n_head": 3}, "with n_embd = 16: n_head = 3 must divide it$"),
        ({"n_head": 16, "position_encoding": "rotary"}, "n_head = 16 must divide it into heads of an even width"),
        ({"n_layer": 10**30}, "the weights lack blocks.1.attention.qkv, which the model's config describes"),
        (
            {"attention_window": 10**400, "position_encoding": "relative"},
            "the weights lack blocks.0.attention.distance",
        ),
        ({"vocab_size": 10**30}, r"the weight token is \(12, 16\) of float32; the model's config describes"),
        ({"tied": True}, "the weights hold 'head', which the model's config does not describe"),
        ({"bias": "mlp"}, "the weights lack blocks.0.mlp.up_bias"),
    ],
)
def test_a_model_that_is_not_known_is_refused_in_one_line(changes: dict, reason: str) -> None:
    model = random_model(ModelConfig(**example_settings()))
    with pytest.raises(ValueError, match=reason) as caught:
        Model(dataclasses.asdict(model.config) | changes, model.state_dict())
    assert "\n" not in str(caught.value)


def test_a_config_without_a_size_is_refused() -> None:
    model = random_model(ModelConfig(**example_settings()))
    config = dataclasses.asdict(model.config)
    del config["n_head"], config["activation"]
    with pytest.raises(ValueError, match=r"a model whose config lacks n_head, activation$"):
        Model(config, model.state_dict())


def test_integers_are_no_weights() -> None:
    model = random_model(ModelConfig(**example_settings()))
    state = model.state_dict() | {"head": torch.zeros(12, 16, dtype=torch.int8)}
    with pytest.raises(ValueError, match=r"the weight head is \(12, 16\) of int8; .* floats of shape \(12, 16\)$"):
        Model(dataclasses.asdict(model.config), state)


def test_an_id_outside_the_vocabulary_is_an_error() -> None:
    judge = judged(random_model(ModelConfig(**example_settings())))
    for unknown in (-1, 12):
        with pytest.raises(IndexError):
            judge.logits(torch.tensor([[0, unknown]]))


@given(ARCHITECTURES)
def test_the_weights_of_an_architecture_have_the_trainer_s_names_and_shapes(changes: dict) -> None:
    model = random_model(ModelConfig(**example_settings(**changes)))
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    assert dict(weight_shapes(judged(model).config)) == shapes


def test_the_judge_imports_nothing_of_the_trainer() -> None:
    code = "import sys, bench.judge.forward, bench.judge.shared_prefixes; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    ours = {path.stem for path in ROOT.glob("*.py")} | {"recipes"}
    names = shown.split()
    assert not {name.partition(".")[0] for name in names} & ours
    assert not [name for name in names if name.startswith("tracks.batches")]


@pytest.mark.parametrize("is_convolution", [True, False])
@pytest.mark.parametrize("rows", [16, 1024, 1024 + 16, 4096, 4097])
def test_many_rows_are_mapped_as_few_are(rows: int, is_convolution: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "blas_lacks_avx512", lambda: is_convolution)
    generator = torch.Generator().manual_seed(0)
    x, matrix, bias = (torch.randn(*shape, generator=generator) for shape in ((rows, 24), (40, 24), (40,)))
    for each in (None, bias):
        exact = (x.double() @ matrix.double().T) + (0 if each is None else each.double())
        mapped = forward.linear(x, matrix, each)
        assert mapped.shape == (rows, 40)
        assert float((mapped - exact).abs().max()) < 1e-5
        in_float64 = forward.linear(x.double(), matrix.double(), None if each is None else each.double())
        assert float((in_float64 - exact).abs().max()) < 1e-13
