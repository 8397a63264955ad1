"""Fits of power laws."""

import math
from collections.abc import Sequence
from typing import NamedTuple

FEWEST_LENGTHS = 3  # numbers of digits that were solved, for a fit


class Fit(NamedTuple):
    """quantity = factor * digits ** exponent; the bounds are those of the exponent's 95% interval."""

    exponent: float
    low: float
    high: float
    factor: float
    num_attempts: int


def fit(measured: Sequence[tuple[int, float]]) -> Fit | None:
    """A power law, by ordinary least squares on the logarithms of (digits, quantity).

    The interval is by the t distribution. None when fewer than FEWEST_LENGTHS numbers of digits are among the points.
    """
    from scipy.stats import linregress, t  # slow to import

    if len({digits for digits, _ in measured}) < FEWEST_LENGTHS:
        return None
    line = linregress(*([math.log(value) for value in values] for values in zip(*measured, strict=True)))
    error = 0.0 if math.isnan(line.stderr) else line.stderr  # not a number where the quantity never changes
    half = float(t.ppf(0.975, len(measured) - 2) * error)
    exponent = float(line.slope)
    return Fit(exponent, exponent - half, exponent + half, math.exp(line.intercept), len(measured))


def exponent_text(fitted: Fit | None) -> str:
    """`1.83 [1.50, 2.16]`; the interval covers 95%, and no zero is negative."""
    return "too few" if fitted is None else f"{fitted.exponent:z.2f} [{fitted.low:z.2f}, {fitted.high:z.2f}]"
