"""Hypothesis on a machine that may be busy: no deadlines, and few examples of what is cheap to get right."""

import hypothesis
from arena import arena  # noqa: F401, a fixture of many tests

hypothesis.settings.register_profile(
    "project",
    deadline=None,
    max_examples=50,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("project")
