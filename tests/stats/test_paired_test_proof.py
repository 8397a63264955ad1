"""Error rates of the paired test, its intervals and its plans, measured on simulated comparisons.

`python -m tests.stats.test_paired_test_proof` prints the table of docs/RULES.md. Of 200 tests at the 5% level, less
than 3 or more than 19 err with a probability of 1 in 200 (binomial distribution).
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from bench.formatting import markdown_table
from bench.stats.levels import LEVEL, record_level
from bench.stats.paired_test import (
    charge_attempts,
    pair_runs,
    pairs_needed,
    ratio_interval,
    swap_test,
    unpaired_ratio_interval,
    verdict,
)
from bench.storage.schema import Run
from tests.support.examples import ROOT, example_run

NUM_COMPARISONS = 200
NUM_INTERVALS = 100  # each takes as long as many comparisons
NUM_SIMULATED = 2_000  # comparisons in each row of the table
TEMPLATE = example_run()
MARKS = ("<!-- simulation -->\n", "<!-- end of simulation -->")  # around the table in docs/RULES.md
pytestmark = pytest.mark.slow


def simulated_runs(
    generator: np.random.Generator,
    *,
    num_pairs: int = 10,
    ratio: float = 1.0,
    noise: float = 0.03,
    miss_rate: float | tuple[float, float] = 0.0,
    lost_rate: float = 0.0,
    drift: float = 0.0,
    max_seconds: float | None = 600.0,
    outlier: str = "",
) -> tuple[list[Run], list[Run]]:
    """The runs of side a and of side b, as a comparison would journal them.

    Args:
        ratio: of a's seconds to those of b, which are around 20.
        noise: standard deviation of log seconds.
        miss_rate: share of the attempts that end without solving; of each side, or of both alike.
        lost_rate: share of the attempts that were killed, so that nobody knows their seconds.
        drift: how much slower the machine is for the last attempt than for the first; it slows down evenly.
        max_seconds: the limit that a killed attempt is charged; without one it is charged as the slowest of its side.
        outlier: the side, `a` or `b`, whose first attempt takes 20 times as long for its steps.
    """
    machine = np.linspace(1.0, 1.0 + drift, 2 * num_pairs).reshape(num_pairs, 2)  # in the order of the attempts
    machine = generator.permuted(machine, axis=1)  # either side goes first
    seconds = 20.0 * np.array([ratio, 1.0]) * machine * np.exp(noise * generator.normal(size=(num_pairs, 2)))
    if outlier:
        seconds[0, "ab".index(outlier)] *= 20.0
    missed = generator.random((num_pairs, 2)) < np.array(miss_rate)
    lost = generator.random((num_pairs, 2)) < lost_rate

    def run(pair: int, side: int) -> Run:
        outcome = "lost" if lost[pair, side] else "missed" if missed[pair, side] else "solved"
        train = None if lost[pair, side] else float(seconds[pair, side])
        return TEMPLATE.model_copy(
            update={
                "seed": pair,
                "outcome": outcome,
                "seconds": TEMPLATE.seconds.model_copy(update={"train": train}),
                "settings": {"max_seconds": max_seconds},
            }
        )

    return [run(pair, 0) for pair in range(num_pairs)], [run(pair, 1) for pair in range(num_pairs)]


def verdicts(level: float = LEVEL, num_comparisons: int = NUM_COMPARISONS, **circumstances: Any) -> Counter[str]:
    """How often which verdict about side a came out."""
    generator = np.random.default_rng(2026)
    return Counter(
        verdict(pair_runs(*simulated_runs(generator, **circumstances), "train"), level) for _ in range(num_comparisons)
    )


# -----------------------------------------------------------------------------
# the table of docs/RULES.md

ROWS: dict[str, dict[str, Any]] = {
    "equal sides": {"noise": 0.1},
    "equal sides, one slow attempt of `a`": {"noise": 0.1, "outlier": "a"},
    "equal sides, one slow attempt of `b`": {"noise": 0.1, "outlier": "b"},
    "`a` takes 0.8 times as long": {"noise": 0.1, "ratio": 0.8},
    "the same, one slow attempt of `a`": {"noise": 0.1, "ratio": 0.8, "outlier": "a"},
    "the same, one slow attempt of `b`": {"noise": 0.1, "ratio": 0.8, "outlier": "b"},
}
LEVELS = (record_level(1), LEVEL)


def simulated_shares() -> dict[tuple[str, float], Counter[str]]:
    """How often which verdict came out, for each row and level."""
    return {
        (name, level): verdicts(level, NUM_SIMULATED, **circumstances)
        for name, circumstances in ROWS.items()
        for level in LEVELS
    }


def simulation_table(shares: dict[tuple[str, float], Counter[str]]) -> str:
    columns = [(level, word) for level in LEVELS for word in ("faster", "slower")]
    headings = ["simulated", *(f'"{word}" at {level:.1%}' for level, word in columns)]
    rows = [[name, *(f"{shares[name, level][word] / NUM_SIMULATED:.1%}" for level, word in columns)] for name in ROWS]
    return markdown_table(headings, rows, text=headings[:1])


@pytest.fixture(scope="module")
def shares() -> dict[tuple[str, float], Counter[str]]:
    return simulated_shares()


def test_the_table_of_the_rules_is_that_of_the_simulation(shares: dict[tuple[str, float], Counter[str]]) -> None:
    text = (ROOT / "docs" / "RULES.md").read_text(encoding="utf-8")
    assert text.split(MARKS[0])[1].split(MARKS[1])[0].strip() == simulation_table(shares)


def test_false_alarms_are_at_most_as_frequent_as_the_level(shares: dict[tuple[str, float], Counter[str]]) -> None:
    """Also with one slow attempt. Three standard errors are allowed."""
    for (name, level), counts in shares.items():
        if name.startswith("equal"):
            alarms = counts["faster"] + counts["slower"]
            assert alarms / NUM_SIMULATED <= level + 3 * (level / NUM_SIMULATED) ** 0.5, (name, level)
            assert alarms > 0, "a test that never errs would have no power"


def test_one_slow_attempt_does_not_take_the_power(shares: dict[tuple[str, float], Counter[str]]) -> None:
    for level in LEVELS:
        faster = [shares[name, level]["faster"] / NUM_SIMULATED for name in ROWS if not name.startswith("equal")]
        assert faster[0] >= 0.85
        assert faster[1] >= 0.5
        assert faster[2] >= 0.85


# -----------------------------------------------------------------------------
# other circumstances


@pytest.mark.parametrize(
    "circumstances",
    [
        {},
        {"noise": 0.3},
        {"drift": 0.2},
        {"miss_rate": 0.1},
        {"miss_rate": 0.1, "drift": 0.2},
        {"miss_rate": 0.5, "noise": 0.3},
        {"lost_rate": 0.1},
        {"lost_rate": 0.1, "max_seconds": None},
        {"num_pairs": 13, "miss_rate": 0.1, "lost_rate": 0.1, "drift": 0.2},
    ],
    ids=str,
)
def test_a_config_rarely_wins_against_itself(circumstances: dict[str, Any]) -> None:
    counts = verdicts(**circumstances)
    assert counts["faster"] + counts["slower"] <= 19
    rejected = num_rejected(**circumstances)
    assert 3 <= rejected <= 19


def num_rejected(**circumstances: Any) -> int:
    """How often the test rejects, whatever the ratio of the ERTs says."""
    generator = np.random.default_rng(2026)
    pairs = [pair_runs(*simulated_runs(generator, **circumstances), "train") for _ in range(NUM_COMPARISONS)]
    return sum(swap_test(one) <= LEVEL for one in pairs)


@pytest.mark.parametrize("circumstances", [{}, {"drift": 0.2}, {"num_pairs": 13}], ids=str)
def test_a_side_that_is_a_tenth_slower_is_nearly_always_found(circumstances: dict[str, Any]) -> None:
    assert verdicts(ratio=1.1, **circumstances)["slower"] >= 0.9 * NUM_COMPARISONS
    assert verdicts(ratio=1 / 1.1, **circumstances)["faster"] >= 0.9 * NUM_COMPARISONS


def test_a_side_that_is_faster_but_misses_every_other_time_does_not_win() -> None:
    """It needs 18 s an attempt, hence 36 s a success, and the other side 20 s."""
    counts = verdicts(ratio=0.9, miss_rate=(0.5, 0.0), num_pairs=20)
    assert counts["faster"] == 0


def test_a_challenger_does_not_win_because_attempts_were_killed() -> None:
    """A tenth of all attempts, of both sides alike; in these pairs the opponent's are not run again."""
    generator, wins = np.random.default_rng(2026), 0
    for _ in range(NUM_COMPARISONS):
        runs = simulated_runs(generator, lost_rate=0.1)
        wins += verdict(pair_runs(*runs, "train", has_challenger=True)) == "faster"
    assert wins <= 10


def test_less_than_six_pairs_find_nothing_however_different_the_sides() -> None:
    assert verdicts(ratio=100.0, num_pairs=5) == {"not decided": NUM_COMPARISONS}


@pytest.mark.parametrize("level", [LEVEL, record_level(2)])
def test_as_many_pairs_as_a_plan_asks_for_find_the_difference_four_times_in_five(level: float) -> None:
    """About: the distribution of the statistic is discrete, and only nearly normal."""
    pilot = pair_runs(*simulated_runs(np.random.default_rng(1), num_pairs=1_000, ratio=1.15, noise=0.15), "train")
    needed = pairs_needed(pilot, level)
    found = verdicts(level, ratio=1.15, noise=0.15, num_pairs=needed)["slower"]
    assert 0.7 * NUM_COMPARISONS <= found <= 0.9 * NUM_COMPARISONS


def times_held(intervals: Iterable[tuple[float, float]], ratio: float) -> int:
    return sum(low <= ratio <= high for low, high in intervals)


def test_the_interval_usually_holds_the_true_ratio() -> None:
    """In somewhat less than 95%: this is known of percentile intervals of few attempts."""
    generator = np.random.default_rng(2026)
    intervals = []
    for seed in range(NUM_INTERVALS):
        runs = simulated_runs(generator, num_pairs=20, ratio=1.1, miss_rate=0.2, drift=0.2)
        intervals.append(ratio_interval(pair_runs(*runs, "train"), seed))
    assert 0.85 * NUM_INTERVALS <= times_held(intervals, 1.1) <= 0.99 * NUM_INTERVALS


def test_the_interval_of_batches_that_ran_apart_usually_holds_the_true_ratio() -> None:
    generator = np.random.default_rng(2026)
    intervals = []
    for seed in range(NUM_INTERVALS):
        new, _ = simulated_runs(generator, num_pairs=20, ratio=1.1, noise=0.1, miss_rate=0.2)
        _, old = simulated_runs(generator, num_pairs=30, noise=0.1, miss_rate=0.2)
        intervals.append(unpaired_ratio_interval(charge_attempts(new, "train"), charge_attempts(old, "train"), seed))
    assert 0.85 * NUM_INTERVALS <= times_held(intervals, 1.1) <= 0.99 * NUM_INTERVALS


if __name__ == "__main__":
    print(simulation_table(simulated_shares()))
