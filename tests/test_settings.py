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
