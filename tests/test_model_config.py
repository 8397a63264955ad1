"""The shapes that a model can have, and errors for the others."""

import subprocess
import sys

import pytest

import layers
import model_config
from model_config import ModelConfig
from tests.support.examples import ROOT
from tests.support.models import example_settings


def test_every_activation_has_a_function() -> None:
    assert tuple(layers.ACTIVATIONS) == model_config.ACTIVATIONS


def test_a_shape_needs_no_torch() -> None:
    code = "import sys, model_config; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "False"


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_a_dropout_that_is_no_share_is_an_error(dropout: float) -> None:
    with pytest.raises(ValueError, match=r"dropout must be in 0\.\.1, below 1"):
        ModelConfig(**example_settings(dropout=dropout))


@pytest.mark.parametrize("name", ["vocab_size", "block_size", "n_layer", "n_head", "n_embd", "n_hidden"])
@pytest.mark.parametrize("size", [0, -1])
def test_a_size_below_one_is_an_error_that_names_it(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be at least 1, got {size}$"):
        ModelConfig(**example_settings(**{name: size}))


def test_a_width_that_the_heads_cannot_share_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"n_embd \(16\) must be divisible by n_head \(3\)"):
        ModelConfig(**example_settings(n_head=3))


def test_an_unknown_activation_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="gelu, silu, relu2, gelu_tanh, swiglu, got 'tanh'"):
        ModelConfig(**example_settings(activation="tanh"))


@pytest.mark.parametrize(("name", "known"), [("norm", "rms, layer, layer_gain"), ("init", "identity, gpt2")])
def test_an_unknown_choice_is_an_error_that_lists_the_known_ones(name: str, known: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be one of {known}, got 'other'"):
        ModelConfig(**example_settings(**{name: "other"}))
