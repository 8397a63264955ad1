"""Helpers for command lines."""

import pytest

from bench.cli import split_option


@pytest.mark.parametrize("arguments", [["--a", "1", "--attempts", "3", "--b"], ["--a", "1", "--attempts=3", "--b"]])
def test_an_option_is_removed_with_its_value(arguments):
    assert split_option(arguments, "--attempts")[1] == ["--a", "1", "--b"]
