"""Settings of all tests: Hypothesis, threads, and the fixture of a project with a fake trainer."""

import os
import re

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # one core for each worker, and for a process that it starts


def pytest_configure(config: pytest.Config) -> None:
    """Prepare a process that runs tests; the one that only distributes them to workers imports nothing."""
    if config.getoption("numprocesses", None):
        return
    set_hypothesis_profile(is_slow=re.search(r"(?<!not )\bslow\b", config.getoption("markexpr") or "") is not None)
    config.pluginmanager.import_plugin("tests.support.arena")


def set_hypothesis_profile(is_slow: bool) -> None:
    """Use the same Hypothesis examples in every run, and new ones where the slow tests are selected."""
    import hypothesis

    hypothesis.settings.register_profile(
        "all",
        database=None,
        deadline=None,  # the machine may be busy
        derandomize=not is_slow,
        max_examples=50,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("all")
