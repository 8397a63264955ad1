"""Search spaces: their suggestions, and the errors about them."""

from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.experiments.launcher import Contestant, Refusal
from bench.experiments.search_space import SPACES, check_space, read_search_space
from bench.experiments.toml_file import find_file
from tests.support.examples import example_run

GOOD = """\
base = "add3"
attempts = 4

[space]
batch_size = { low = 128, high = 512, step = 64 }
adam_learning_rate = { low = 0.01, high = 0.1, log = true }
matrix_optimizer = { choices = ["muon", "adamw"] }
muon_momentum = { low = 0.5, high = 0.9, when = { matrix_optimizer = "muon" } }
muon_iterations = { low = 3, high = 6, when = { matrix_optimizer = ["muon"], batch_size = [128, 192] } }
"""


@pytest.fixture
def space_of(tmp_path):
    def read(text):
        path = tmp_path / "some.toml"
        path.write_text(text)
        return read_search_space(path)

    return read


@pytest.mark.extra
def test_suggestions_lie_in_the_space_and_fulfil_the_conditions(space_of):
    import optuna

    space = space_of(GOOD)
    assert (space.name, space.base, space.clock, space.attempts) == ("some", "add3", "train", 4)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    suggestions = [space.suggest(study.ask()) for _ in range(200)]
    for values in suggestions:
        assert values["batch_size"] in range(128, 513, 64)
        assert isinstance(values["batch_size"], int)
        assert 0.01 <= values["adam_learning_rate"] <= 0.1
        assert ("muon_momentum" in values) == (values["matrix_optimizer"] == "muon")
        both = values["matrix_optimizer"] == "muon" and values["batch_size"] in (128, 192)
        assert ("muon_iterations" in values) == both
        assert isinstance(values.get("muon_iterations", 3), int)
    assert {values["matrix_optimizer"] for values in suggestions} == {"muon", "adamw"}
    small = sum(values["adam_learning_rate"] < 10**-1.5 for values in suggestions)
    assert 60 < small < 140, "half of a logarithmic range lies below its middle"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("attempts = 4", "attempts = 4.5", "line 2: attempts: must be the number of attempts of a trial"),
        ("attempts = 4\n", "", "attempts: must be the number of attempts of a trial"),
        ("attempts = 4", "attemps = 4", "line 2: attemps: unknown key; the nearest is 'attempts'"),
        ('base = "add3"\n', "", "base: must be the name of a config, but it is missing"),
        ("[space]", "[spaces]", "line 4: spaces: unknown key"),
        ("{ low = 128, high = 512, step = 64 }", "128", r"line 5: space\.batch_size: must be a table"),
        ("high = 512", "higher = 512", r"line 5: space\.batch_size: unknown key 'higher'; the nearest is 'high'"),
        ("low = 128, ", "", r"line 5: space\.batch_size: low must be a number, but it is missing"),
        ("low = 128", "low = 1024", "line 5: .*low must be below high, got 1024 and 512"),
        ("low = 128", 'low = "a"', "line 5: .*low must be a number"),
        ("step = 64", "step = 0.5", "line 5: .*the step of a range of whole numbers must be a whole"),
        ("step = 64", "step = 64, log = true", "line 5: .*step must be a number above 0, and cannot"),
        ("low = 0.01", "low = 0.0", r"line 6: space\.adam_learning_rate: the low end of a log"),
        ("log = true", "log = 1", r"line 6: .*log must be true or false"),
        ('["muon", "adamw"]', "[]", "line 7: .*choices must be a list"),
        ('["muon", "adamw"]', "[[1]]", "line 7: .*choices must be numbers, strings"),
        ('{ matrix_optimizer = "muon" }', '"muon"', "line 8: .*when must be a table"),
        ('{ matrix_optimizer = "muon" }', '{ optimizer = "muon" }', "line 8: .*'optimizer' must come first"),
        ('{ matrix_optimizer = "muon" }', '{ matrix_optimizer = "sgd" }', "line 8: .*matrix_optimizer is never 'sgd'"),
    ],
)
def test_an_error_names_the_line_and_the_key(space_of, old, new, message):
    assert old in GOOD
    with pytest.raises(UsageError, match=message):
        space_of(GOOD.replace(old, new))


@pytest.mark.parametrize("path", sorted(SPACES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_spaces_of_the_project_can_be_read(path):
    assert find_file(path.stem, SPACES) == path
    assert read_search_space(path).dimensions
    with pytest.raises(UsageError, match="there is no such file in bench/spaces"):
        find_file("ad3", SPACES)


HEAD = 'base = "add3"\nattempts = 2\n[space]\n'
SETTINGS = {"rate": 0.5, "size": 4, "fast": True}


def contestant(settings):
    return Contestant(Path("speedrun.py"), (), example_run(settings=settings))


def accepting(is_valid):
    """A trainer that accepts some choices of settings."""
    return lambda choices: [
        contestant(SETTINGS | values) if is_valid(values) else Refusal("size must divide", not_here=False)
        for values in choices
    ]


def test_a_range_of_whole_numbers_is_one_of_floats_where_the_setting_is_a_float(space_of):
    space = space_of(HEAD + "rate = { low = 1, high = 2 }\nsize = { choices = [1, 2], when = { rate = 1 } }")
    space, planned = check_space(space, accepting(lambda values: True))
    assert planned.settings == SETTINGS
    assert [(type(one.low), type(one.high)) for one in space.dimensions[:1]] == [(float, float)]
    assert str(space.dimensions[1].when) == "(('rate', (1.0,)),)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nosuch = { low = 1, high = 2 }", "'nosuch' is not a setting"),
        ("rats = { low = 1, high = 2 }", "the nearest is 'rate'"),
        ("attempts = { choices = [1] }", "'attempts' is not a setting"),
        ("size = { low = 1.0, high = 2.0 }", "size must be a whole number, got 1.0"),
        ("rate = { choices = ['1'] }", "rate must be a number, got '1'"),
    ],
)
def test_unknown_settings_and_wrong_types_are_refused_before_the_first_trial(space_of, text, message):
    with pytest.raises(UsageError, match=message):
        check_space(space_of(HEAD + text), accepting(lambda values: True))


def test_a_value_that_fits_no_other_value_is_refused_before_the_first_trial(space_of):
    space = space_of(HEAD + "size = { choices = [2, 3] }\nrate = { low = 1, high = 2 }")
    with pytest.raises(UsageError, match="size=3: size must divide"):
        check_space(space, accepting(lambda values: values.get("size") != 3))
    check_space(space, accepting(lambda values: values.get("size") != 3 or values.get("rate") == 2))


def test_a_setting_of_the_track_may_be_searched_and_be_a_condition(space_of):
    text = """\
base = "moddiv-97"
attempts = 2
[space]
track_settings.tokens = { choices = ["numbers", "characters"] }
n_embd = { choices = [64, 128], when = { track_settings.tokens = "numbers" } }
"""
    space = space_of(text)
    assert [dimension.name for dimension in space.dimensions] == ["track_settings.tokens", "n_embd"]
    assert space.dimensions[1].when == (("track_settings.tokens", ("numbers",)),)
    with pytest.raises(UsageError, match=r"line 4: space\.track_settings\.tokens: choices must be a list"):
        space_of(text.replace('["numbers", "characters"]', "[]"))


@pytest.mark.parametrize(
    ("base", "space", "message"),
    [
        (
            {},
            "curves = { choices = [false, true] }",
            "curves=true: a run that looked at .* set curves to false",
        ),
        ({"curves": True}, "rate = { low = 0.1, high = 1.0 }", "the base: a run that looked at .* set curves to false"),
        ({}, "control = { choices = ['none', 'shuffle'] }", "control=shuffle: .* never ranks; set control to none"),
    ],
)
def test_a_search_takes_no_runs_that_never_rank(space_of, base, space, message):
    def ask(choices):
        return [contestant(SETTINGS | {"curves": False, "control": "none"} | base | values) for values in choices]

    with pytest.raises(UsageError, match=message):
        check_space(space_of(HEAD + space), ask)
