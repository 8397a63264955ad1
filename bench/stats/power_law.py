"""Fits of power laws."""

import math
from collections.abc import Sequence
from typing import NamedTuple

MIN_LENGTHS = 3  # different numbers of digits that a fit needs


class Fit(NamedTuple):
    """quantity = factor * digits ** exponent; `low` and `high` bound the 95% interval of the exponent."""

    exponent: float
    low: float
    high: float
    factor: float
    num_attempts: int


def fit(measured: Sequence[tuple[int, float]]) -> Fit | None:
    """Fit a power law to (digits, quantity) points by ordinary least squares on the logarithms.

    The interval is from the t distribution. None if there are fewer than MIN_LENGTHS different numbers of digits.
    """
    from scipy.stats import linregress, t  # slow to import

    if len({digits for digits, _ in measured}) < MIN_LENGTHS:
        return None
    line = linregress(*([math.log(value) for value in values] for values in zip(*measured, strict=True)))
    error = 0.0 if math.isnan(line.stderr) else line.stderr  # NaN if the quantity is constant
    half = float(t.ppf(0.975, len(measured) - 2) * error)
    exponent = float(line.slope)
    return Fit(exponent, exponent - half, exponent + half, math.exp(line.intercept), len(measured))


def exponent_text(fitted: Fit | None) -> str:
    """The exponent with its 95% interval, like `1.83 [1.50, 2.16]`, without negative zeros; `too few` without a fit."""
    return "too few" if fitted is None else f"{fitted.exponent:z.2f} [{fitted.low:z.2f}, {fitted.high:z.2f}]"
