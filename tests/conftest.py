"""The tests run in several processes on a machine that may be busy.

Hypothesis has no deadlines, and few examples of what is cheap to get right.
"""

import os

import hypothesis
import torch

from tests.support.arena import arena  # noqa: F401, a fixture of many tests

hypothesis.settings.register_profile(
    "project",
    deadline=None,
    max_examples=50,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("project")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # a core for each of the processes; more threads would wait for one another
