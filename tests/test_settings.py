"""Which settings are valid, and what they need."""

import subprocess
import sys

import pytest

from settings import Settings
from tests.support.examples import ROOT


def test_settings_need_no_torch() -> None:
    code = "import sys, settings; settings.Settings(num_steps=3); print({'torch', 'numpy'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"


@pytest.mark.parametrize(
    "bad", [{"num_steps": 0}, {"level_share": 1.5}, {"n_embd": 10, "n_head": 4}, {"adam_beta1": 1.0}]
)
def test_settings_that_make_no_sense_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Settings(**bad)


def test_a_stream_has_no_answers_to_learn_alone() -> None:
    assert Settings(track="add3-report", loss_on="all").loss_on == "all"
    with pytest.raises(ValueError, match="loss_on: a window of add3-report can start anywhere"):
        Settings(track="add3-report", loss_on="answer")


def test_settings_know_what_the_kernel_does_not_support() -> None:
    assert Settings().kernel_problem is None
    assert "torch.compile" in Settings(compile=True).kernel_problem
    assert "one layer" in Settings(n_layer=2).kernel_problem
    assert "does not clip gradients" in Settings(clip_norm=1.0).kernel_problem
    assert "does not split batches" in Settings(micro_batches=2).kernel_problem


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"grad_scaler": True}, "does without grad_scaler"),
        ({"grokfast_lambda": 2.0}, "does without grad_scaler, grokfast_lambda"),
        ({"max_row_norm": 1.0}, "and max_row_norm; this config sets one"),
        ({"matrix_optimizer": "adam"}, "has matrix_optimizer = adam"),
        ({"matrix_optimizer": "lion"}, "has matrix_optimizer = lion"),
        ({"norm_position": "post"}, "norms of inputs; this config has norm_position = post"),
        ({"bias": "mlp"}, "layers without biases; this config has bias = mlp"),
        ({"bias": "all"}, "has bias = all"),
        ({"position_encoding": "rotary"}, "learned positions; this config has position_encoding = rotary"),
        ({"bigrams": True}, "single characters; this config has bigrams = true"),
        ({"activation": "swiglu"}, "has activation = swiglu"),
        ({"activation": "relu2"}, "has activation = relu2"),
        ({"dropout": 0.1}, "training without dropout"),
        ({"track": "moddiv", "track_settings": {"p": 257}}, "up to 256 characters; this config has 259 characters"),
        ({"track": "moddiv", "track_settings": {"tokens": "characters"}}, "only texts of one length"),
    ],
)
def test_every_option_that_the_kernel_lacks_is_named(changes: dict, reason: str) -> None:
    assert reason in Settings(**changes).kernel_problem


@pytest.mark.parametrize("changes", [{"adam_epsilon": 1e-6}, {"decay_on": "all"}, {"decay": "noam"}, {"curves": True}])
def test_the_kernel_has_the_options_that_change_numbers_alone(changes: dict) -> None:
    assert Settings(**changes).kernel_problem is None


def test_epochs_are_another_spelling_of_steps() -> None:
    recipe = Settings(track="add2-omnivault", batch_size=256, num_epochs=3, schedule_unit="epoch")
    assert recipe.num_steps == 83  # 3 * 7,000 / 256 = 82.03
    assert recipe.schedule_interval == 7000 / 256
    assert Settings(track="add2-omnivault", num_steps=83).num_steps == 83
    assert Settings(track="add2", batch_size=512, num_epochs=0.5).num_steps == 9  # of 9,004 problems


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_epochs": 2}, "num_epochs: add4 has no list of training problems; set num_steps"),
        ({"schedule_unit": "epoch"}, "schedule_unit: add4 has no list of training problems; set it to step"),
        ({"sampling": "epochs"}, "sampling: add4 has no list of training problems; set it to independent"),
        ({"checkpoint": "best"}, "checkpoint: add4 has no validation set"),
        ({"checkpoint_every": 75}, "checkpoint_every must be a multiple of check_every"),
        ({"position_encoding": "rotary", "n_embd": 12, "n_head": 4}, "heads of an even width, got 3"),
        ({"attention_window": 8}, "attention_window must be 0"),
        ({"attention_window": -1, "position_encoding": "relative"}, "attention_window must be 0"),
        ({"track": "moddiv", "bigrams": True}, "a vocabulary of at most 64 characters, got 99"),
        ({"grokfast_alpha": 1.0}, "grokfast_alpha must be in 0..1, below 1"),
        ({"max_row_norm": -1.0}, "max_row_norm must be finite and at least 0"),
        ({"norm_position": "middle"}, "norm_position must be one of pre, post, got 'middle'"),
    ],
)
def test_options_of_recipes_that_make_no_sense_are_refused(changes: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Settings(**{"track": "add4"} | changes)


def test_the_settings_of_a_track_are_completed_by_its_defaults() -> None:
    settings = Settings(track="moddiv", track_settings={"p": 113, "training_share": 0.4})
    expected = {"p": 113, "tokens": "numbers", "training_share": 0.4, "validation_share": 0.1}
    assert settings.track_settings == expected
    assert settings.track_description.name == "moddiv-113-train-0.4"
    assert Settings().track_settings == {}


@pytest.mark.parametrize(
    ("track", "given", "sentence"),
    [
        ("moddiv", {"p": 96}, "track_settings.p must be a prime"),
        ("moddiv", {"p": "97"}, "track_settings.p must be a whole number, got '97'"),
        ("moddiv", {"token": "numbers"}, "track_settings.token is not a setting .* nearest is 'tokens'"),
        ("add3", {"p": 97}, "track_settings.p is not a setting of the track add3, as it has none"),
    ],
)
def test_settings_that_the_track_cannot_have_are_refused(track: str, given: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Settings(track=track, track_settings=given)
