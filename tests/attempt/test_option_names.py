"""Each option has several spellings, which mean the same; a wrong one is refused with the right one."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bench.attempt.option_names import options_by_key, split_track_settings, with_dashes
from bench.attempt.request import Request, check_settings_only, read_command_line
from bench.errors import UsageError
from settings import Settings
from tracks.descriptions import read_track_settings


def read(*arguments: str) -> Any:
    return read_command_line(Settings, arguments, "", lambda device: "cpu")


def spelled(*arguments: str) -> list[str]:
    return with_dashes(arguments, Settings, Request)


@dataclasses.dataclass(frozen=True)
class OlderSettings:
    """Settings of a trainer without groups and without track settings."""

    track: str = "add3"
    survey_problems: int = 5


# -----------------------------------------------------------------------------
# options


@pytest.mark.parametrize(
    ("argument", "option"),
    [
        ("model.n_layer=2", ["--n-layer=2"]),
        ("model.n-layer=2", ["--n-layer=2"]),
        ("batch_size=256", ["--batch-size=256"]),
        ("train.batch_size=256", ["--batch-size=256"]),
        ("optimizer.adam_learning_rate=1e-3", ["--adam-learning-rate=1e-3"]),
        ("train.survey_problems=9", ["--survey-problems=9"]),
        ("run.note=a=b/c", ["--note=a=b/c"]),
        ("seed=3", ["--seed=3"]),
        ("compile=true", ["--compile"]),
        ("run.compile=False", ["--no-compile"]),
        ("plan=false", []),
        ("track_settings.training-share=0.4", ["--track_settings.training_share=0.4"]),
    ],
)
def test_an_assignment_is_an_option(argument: str, option: list[str]) -> None:
    assert spelled(argument) == option


def test_the_value_of_an_option_is_no_assignment() -> None:
    line = ["--note", "model.n_layer=2", "--compile", "n_layer=2", "--seed", "1"]
    assert spelled(*line) == ["--note", "model.n_layer=2", "--compile", "--n-layer=2", "--seed", "1"]
    assert read(*line).request.note == "model.n_layer=2"


def test_both_spellings_give_the_same_settings() -> None:
    dashes = read("--n-layer", "2", "--compile", "--kernel", "torch", "--stop-at", "99%")
    assignments = read("model.n_layer=2", "compile=true", "run.kernel=torch", "train.stop_at=99%")
    assert (assignments.settings, assignments.overrides) == (dashes.settings, dashes.overrides)


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("model.batch_size=2", "'model.batch_size' is not an option; write train.batch_size"),
        ("modle.n_layer=2", "'modle.n_layer' is not an option; write model.n_layer"),
        ("model.n_layr=2", "'model.n_layr' is not an option; the nearest is 'model.n_layer'"),
        ("n_layr=2", "'n_layr' is not an option; the nearest is 'n_layer'"),
        ("training_share=0.4", "'training_share' is not an option; write track_settings.training_share"),
        ("compile=yes", "compile must be true or false, got 'yes'"),
        ("track_settings=97", "write track_settings.KEY, as in track_settings.p=97"),
        ("--track-settings=97", "write track_settings.KEY, as in track_settings.p=97"),
    ],
)
def test_a_wrong_name_is_refused_with_the_right_one(argument: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        spelled(argument)
    assert sentence in str(refused.value)


def test_every_option_has_a_group() -> None:
    groups = {option.group for option in options_by_key(Settings, Request).values()}
    assert groups == {group for group, _ in Settings.GROUPS}


def test_a_trainer_without_groups_takes_assignments_without_a_group() -> None:
    assert with_dashes(["survey_problems=3"], OlderSettings, Request) == ["--survey-problems=3"]
    with pytest.raises(UsageError, match="write survey_problems"):
        with_dashes(["train.survey_problems=3"], OlderSettings, Request)


# -----------------------------------------------------------------------------
# settings of the track


@pytest.mark.parametrize(
    "arguments",
    [
        ["--track-settings.p", "113"],
        ["--track-settings.p=113"],
        ["--track_settings.p", "113"],
        ["track_settings.p=113"],
        ["track_settings.p=97", "--track-settings.p", "113"],
    ],
)
def test_a_setting_of_the_track_has_several_spellings(arguments: list[str]) -> None:
    line = read("--track", "moddiv", *arguments)
    assert line.settings.track_settings["p"] == 113
    assert line.overrides == {"track": "moddiv", "track_settings.p": 113}


def test_texts_may_contain_equals_signs_and_slashes() -> None:
    assert split_track_settings(spelled("track_settings.text=a=b/c", "--seed", "1")) == (
        {"text": "a=b/c"},
        ["--seed", "1"],
    )
    assert read("track=memorize", "track_settings.text=--a = b/c").settings.track_settings["text"] == "--a = b/c"


def test_values_have_the_types_of_the_defaults() -> None:
    values = read_track_settings("moddiv", {"p": "97", "training_share": "1", "tokens": "3", "q": "4"})
    assert values == {"p": 97, "training_share": 1.0, "tokens": "3", "q": "4"}
    assert list(map(type, values.values())) == [int, float, str, str]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--track moddiv --track-settings.p", "--track-settings.p: a value is missing"),
        ("--track moddiv --track-settings.p --compile", "--track-settings.p: a value is missing"),
        ("track=moddiv track_settings.p=1e2", "track_settings.p must be a whole number, got '1e2'"),
        ("track=moddiv track_settings.p=96", "track_settings.p must be a prime from 3 to 1009, such as 97; got 96"),
        ("track=moddiv track_settings.token=x", "is not a setting of the track moddiv; the nearest is 'tokens'"),
        ("track_settings.p=97", "track_settings.p is not a setting of the track add3, as it has none"),
        ("track=modiv track_settings.p=97", "there is no track 'modiv'; the nearest is 'moddiv'"),
    ],
)
def test_a_setting_that_the_track_cannot_have_is_refused_in_one_line(line: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        read(*line.split())
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_another_track_keeps_the_settings_of_the_config_that_it_has(tmp_path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('track = "moddiv"\ntrack_settings.p = 113\nkernel = "torch"\n', encoding="utf-8")
    config = ["--config", str(path)]
    assert read(*config).overrides == {}
    assert read(*config, "track_settings.tokens=characters").overrides == {"track_settings.tokens": "characters"}
    same = read(*config, "--track", "modsub")
    assert (same.settings.track_settings["p"], same.overrides) == (113, {"track": "modsub"})
    other = read(*config, "--track", "memorize", "track_settings.masked=3")
    assert "p" not in other.settings.track_settings
    assert other.overrides == {"track": "memorize", "track_settings.masked": 3}


def test_settings_of_the_track_may_be_on_an_axis() -> None:
    check_settings_only(Settings, ["--config", "add3", "--track-settings.p=97", "--track-settings.tokens", "numbers"])
    with pytest.raises(UsageError, match=r"'track_settings\.p' is not a setting"):
        check_settings_only(OlderSettings, ["--track-settings.p=97"])


# -----------------------------------------------------------------------------
# steps and epochs

EPOCHS = "track = 'add2-omnivault'\nbatch_size = 256\n"


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("num_epochs = 3.0\n", ["--num-steps", "90"]),
        ("num_epochs = 3.0\n", ["num_steps=90"]),
        ("num_steps = 5\n", ["--num-epochs", "3", "--num_steps", "90"]),
        ("num_epochs = 3.0\nnum_steps = 90\n", []),
    ],
)
def test_steps_beside_epochs_are_refused(text: str, arguments: list[str], tmp_path: Path) -> None:
    path = tmp_path / "both.toml"
    path.write_text(EPOCHS + text)
    with pytest.raises(UsageError, match="90: num_epochs = 3 sets the number of steps, 83; leave one"):
        read("--config", str(path), *arguments)


@pytest.mark.parametrize(
    ("text", "arguments", "steps"),
    [
        ("num_epochs = 3.0\n", ["--num-epochs", "0", "--num-steps", "90"], 90),
        ("num_epochs = 3.0\nnum_steps = 83\n", ["--batch-size", "512"], 42),  # as `show --settings` writes them
        ("num_steps = 5\n", ["--num-epochs", "3"], 83),
    ],
)
def test_the_nearer_of_steps_and_epochs_counts(text: str, arguments: list[str], steps: int, tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text(EPOCHS + text)
    assert read("--config", str(path), *arguments).settings.num_steps == steps


def test_a_config_with_steps_cannot_extend_one_with_epochs_but_the_reverse(tmp_path: Path) -> None:
    for name, text in (("epochs", "num_epochs = 3.0\n"), ("steps", "num_steps = 90\n")):
        (tmp_path / f"{name}.toml").write_text(EPOCHS + text)
        (tmp_path / f"on-{name}.toml").write_text(f"base = '{name}.toml'\n")
    for name, text in (("epochs", "num_steps = 90\n"), ("steps", "num_epochs = 3.0\n")):
        with (tmp_path / f"on-{name}.toml").open("a") as file:
            file.write(text)
    assert read("--config", str(tmp_path / "on-steps.toml")).settings.num_steps == 83
    with pytest.raises(UsageError, match=r"on-epochs.toml: num_steps 90: num_epochs = 3"):
        read("--config", str(tmp_path / "on-epochs.toml"))
