"""Settings of all tests: Hypothesis, and threads."""

import os
import re

import hypothesis
import pytest
import torch

from tests.support.arena import arena  # noqa: F401, a fixture of many tests

hypothesis.settings.register_profile(
    "repeatable",
    database=None,
    deadline=None,  # the machine may be busy
    derandomize=True,
    max_examples=50,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile("random", hypothesis.settings.get_profile("repeatable"), derandomize=False)

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # one core for each process


def pytest_configure(config: pytest.Config) -> None:
    """Use the same Hypothesis examples in every run, and new ones where the slow tests are selected."""
    is_slow = re.search(r"(?<!not )\bslow\b", config.getoption("markexpr") or "")
    hypothesis.settings.load_profile("random" if is_slow else "repeatable")
