"""Helpers for command lines."""

import pytest

from bench.cli import without_option


@pytest.mark.parametrize("arguments", [["--a", "1", "--attempts", "3", "--b"], ["--a", "1", "--attempts=3", "--b"]])
def test_an_option_is_removed_with_its_value(arguments):
    assert without_option(arguments, "--attempts") == ["--a", "1", "--b"]
