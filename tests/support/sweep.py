"""Attempts of the config `scaling`, made by hand for the tests of what is rendered from them."""

from tests.support.examples import example_certificate, example_run, example_seconds


def attempt(track, train=10.0, outcome="solved", errors=0, settings=None, max_seconds=600.0, **changes):
    """One attempt; misses have errors, whose rate's upper bound is told as one in a million more."""
    certificate = example_certificate(errors, exhaustive=False, error_rate_upper_95=(errors + 1) / 1e6)
    values = {
        "config": "scaling",
        "track": track,
        "outcome": outcome,
        "seconds": example_seconds(train=train),
        "certificate": certificate if outcome in ("solved", "missed") else None,
        "settings": {"track": track, "max_seconds": max_seconds, "num_steps": 700} | (settings or {}),
        "train_flops": 1e12,
    }
    return example_run(**values | changes)


def sweep(exponent=2.0, lengths=(1, 2, 3, 4), suffix="", **changes):
    """An attempt on each track, all solved, whose seconds are 5 * digits ** exponent."""
    return [attempt(f"add{n}{suffix}", 5.0 * n**exponent, run_id=f"add{n}{suffix}", **changes) for n in lengths]
