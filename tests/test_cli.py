"""Helpers for command lines."""

import dataclasses
from typing import Annotated, Literal

import pytest
import tyro

from bench.cli import parse_arguments, split_option, with_option_names
from bench.errors import UsageError


@pytest.mark.parametrize("arguments", [["--a", "1", "--attempts", "3", "--b"], ["--a", "1", "--attempts=3", "--b"]])
def test_an_option_is_removed_with_its_value(arguments):
    assert split_option(arguments, "--attempts")[1] == ["--a", "1", "--b"]


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("batch_size must be above 0, got 0", "--batch-size must be above 0, got 0"),
        ("n_embd (33) must be divisible by n_head (8)", "n_embd (33) must be divisible by n_head (8)"),
        ("batch_size (5) must be a multiple of n_head", "--batch-size (5) must be a multiple of n_head"),
        ("track: there is no track 'x'", "--track: there is no track 'x'"),
        ("x.toml: batch_size must be above 0", "x.toml: batch_size must be above 0"),
        ("--batch-size: 'a' is not a whole number", "--batch-size: 'a' is not a whole number"),
    ],
)
def test_a_message_about_a_setting_of_the_command_line_names_the_option(message, shown):
    assert with_option_names(message, ["--batch_size", "5", "--track=x", "--json"]) == shown


@dataclasses.dataclass(frozen=True)
class Sides:
    a: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    """A config."""
    b: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    """The config or record that A is compared with, whose description is long enough for several lines of a panel."""
    clock: Literal["train", "total"]
    """The clock."""
    attempts: int | None = None


def refusal(arguments):
    with pytest.raises(UsageError) as refused:
        parse_arguments(Sides, arguments, program="python -m bench compare")
    return str(refused.value)


def test_missing_arguments_are_named_with_their_meaning():
    assert refusal(["a", "b"]) == "compare needs --clock {train,total}: the clock"
    assert refusal(["a", "--clock", "train"]) == (
        "compare needs B: the config or record that A is compared with, whose description is long enough for several "
        "lines of a panel"
    )
    assert refusal(["--clock", "train"]).startswith("compare needs A: a config, and B: the config or record")


def test_an_optional_number_is_read_and_described_like_a_number(capsys):
    assert parse_arguments(Sides, ["a", "b", "--clock", "total"]).attempts is None
    assert parse_arguments(Sides, ["a", "b", "--clock", "total", "--attempts", "3"]).attempts == 3
    assert refusal(["a", "b", "--clock", "total", "--attempts", "x"]) == "--attempts: 'x' is not a whole number"
    with pytest.raises(SystemExit):
        parse_arguments(Sides, ["--help"])
    assert "--attempts INT" in capsys.readouterr().out
