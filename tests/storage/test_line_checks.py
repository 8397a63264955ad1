"""Lines that nobody's attempt can have left, and honest ones."""

from typing import Any

import pytest

from bench.storage.line_checks import line_faults
from bench.storage.schema import Batch
from tests.support.examples import example_certificate, example_run, example_seconds

BATCH = Batch(id="batch", command="speedrun", planned=10, index=0)
WITHOUT_MARGIN = example_certificate(smallest_margin=None)
WORK = {"train_flops": 20e9, "matmul_flops_per_second": 1e9}  # as much as 20 s of `train` allow


def faults(**changes: Any) -> list[str]:
    return line_faults(example_run(batch=BATCH, **changes))


def test_nothing_speaks_against_an_honest_line():
    assert faults() == []


@pytest.mark.parametrize(
    ("forged", "reason"),
    [
        ({"judge": None}, "does not name its judge"),
        ({"judge": "self"}, "judged itself"),
        ({"certificate": WITHOUT_MARGIN}, "no smallest margin"),
        ({"certificate": None}, "its certificate does not say that it solved"),
        ({"certificate": example_certificate(1)}, "its certificate does not say that it solved"),
        ({"commit": None, "dirty": None}, "commit is not known"),
        ({"dirty": True}, "not committed"),
        ({"dirty": None}, "not committed"),
        (WORK | {"train_flops": 60e9}, "utilisation above 1"),
        (WORK | {"seconds": example_seconds(train=0.0)}, "utilisation above 1"),
        ({"seconds": example_seconds(train=0.05, total=26.5)}, "do not add up"),
        ({"seconds": example_seconds(train=None)}, "seconds of a phase are missing"),
        ({"outer_seconds": example_seconds(train=21.0)}, "the clocks disagree about train"),
        ({"outer_seconds": example_seconds(certify=None)}, "the clocks disagree about certify"),
    ],
)
def test_a_forged_line_is_disputed_for_its_reason(forged, reason):
    assert any(reason in fault for fault in faults(**forged)), faults(**forged)


@pytest.mark.parametrize(
    "honest",
    [
        WORK,
        WORK | {"matmul_flops_per_second": None},
        {"outer_seconds": example_seconds(train=20.3)},  # within 2% and 20 ms
        {"outcome": "missed", "certificate": example_certificate(3, smallest_margin=None)},  # a logit was not a number
        {
            "outcome": "timeout",
            "certificate": None,
            "judge": None,
            "seconds": example_seconds(certify=None),
        },
        {"outcome": "lost", "certificate": None, "outer_seconds": example_seconds(certify=None, total=None)},
        {"certificate": WITHOUT_MARGIN, "settings": {"track": "sumeq"}},  # several right answers
        {"certificate": WITHOUT_MARGIN, "settings": {"track": "a track that is no more"}},
    ],
)
def test_an_honest_line_is_not_disputed(honest):
    assert faults(**honest) == []
