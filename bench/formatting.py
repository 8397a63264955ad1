"""Values as text: numbers, durations, settings, commits, one-line summaries of attempts."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.table import Table

from bench.config import current_names
from bench.stats.descriptive import spread
from bench.stats.expected_time import expected_time_to_success
from bench.storage.schema import Interval, Run, Side

MARKUP = re.compile(r"[\\`*_\[\]<>|#~$&]")  # what Markdown does not take for text


def number(value: float | None, pattern: str = ",.0f") -> str:
    """A figure as text; an em dash for what is not known."""
    return "—" if value is None else "never" if value == float("inf") else format(value, pattern)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 3600:,.1f} h"


def search_text(search: Mapping[str, Any] | None) -> str | None:
    """What a search took, in a line; None where there was none."""
    if search is None:
        return None
    trials, attempts = (number(search.get(key)) for key in ("trials", "attempts"))
    seconds = search.get("seconds")
    took = "" if seconds is None else f", {duration(seconds)}"
    flops = "" if search.get("flops") is None else f", {search['flops']:.3g} training FLOPs"
    return f"found by a search of {trials} trials, {attempts} attempts{took}{flops}"


def middle(values: Sequence[float], pattern: str) -> str:
    """The median as text; an em dash when there are no values."""
    known = spread(values)
    return "—" if known is None else format(known.median, pattern)


def spread_text(values: Sequence[float], pattern: str) -> str:
    """`5.50 (1.00 … 10.00)`: median, minimum and maximum; an em dash when there are no values."""
    known = spread(values)
    if known is None:
        return "—"
    return f"{known.median:{pattern}} ({known.minimum:{pattern}} … {known.maximum:{pattern}})"


def commit_text(commit: str | None, dirty: bool | None) -> str:
    """`0123456789 + changes`; an em dash when there is no commit."""
    return "—" if commit is None else commit[:10] + (" + changes" if dirty else "")


def setting_text(value: bool | int | float | str | None) -> str:
    """A setting's value as a config writes it; an em dash where there is none."""
    return "—" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def changed_settings(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The settings that differ, each as `key: old → new` in code."""
    return [
        f"`{key}: {setting_text(before)} → {setting_text(after)}`" for key, before, after in settings_changes(old, new)
    ]


def escape_markdown(text: str) -> str:
    """A text as Markdown that reads as it was typed, in a table too."""
    return MARKUP.sub(r"\\\g<0>", text)


def settings_changes(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, before, after) of the settings that differ, under present names; None where a side lacks the key."""
    before, after = current_names(before), current_names(after)
    keys = sorted({*before, *after})
    return [(key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)]


# -----------------------------------------------------------------------------
# the summary


def errors_in_words(errors: int) -> str:
    return f"{errors:,} error{'' if errors == 1 else 's'}"


# -----------------------------------------------------------------------------
# in words


def ratio_text(ratio: float | None, interval: Interval | None) -> str:
    """`0.912 [0.880, 0.950]`; the interval covers 95%."""
    if ratio is None or math.isnan(ratio):
        return "—"
    number = "∞" if math.isinf(ratio) else f"{ratio:.3f}"
    return number if interval is None else f"{number} [{interval[0]:.3f}, {interval[1]:.3f}]"


def contestant_text(side: Side) -> str:
    where = "no commit" if side.commit is None else side.commit[:10] + (" + changes" if side.dirty else "")
    return f"{side.name} ({where})"


def attempt_line(run: Run) -> str:
    def seconds(value: float | None) -> str:
        return "unknown" if value is None else f"{value:.2f} s"

    verdict = run.message or ("" if run.certificate is None else errors_in_words(run.certificate.errors))
    return (
        f"seed {run.seed}  {run.outcome}  {verdict}  "
        f"train {seconds(run.seconds.train)}  total {seconds(run.seconds.total)}"
        + ("" if run.machine.clean is not False else f"  not clean: {'; '.join(run.machine.reasons)}")
    )


def batch_line(runs: Sequence[Run]) -> str:
    solved = sum(run.outcome == "solved" for run in runs)
    parts = [f"batch {runs[0].batch.id}: solved {solved}/{len(runs)}"]
    for clock in ("train", "total"):
        known = spread([s for run in runs if (s := getattr(run.seconds, clock)) is not None])
        middle = f"median {known.median:.2f} s ({known.minimum:.2f} … {known.maximum:.2f}), " if known else ""
        ert = expected_time_to_success(runs, clock)
        parts.append(f"{clock} {middle}ERT {'never' if math.isinf(ert) else f'{ert:.2f} s'}")
    return "; ".join(parts)


# -----------------------------------------------------------------------------
# tables for the terminal


def terminal_table(headings: Sequence[str], text: Collection[str] = (), no_wrap: Collection[str] = ()) -> Table:
    """An empty table without rules.

    Args:
        text: headings of the columns that are aligned to the left; numbers are aligned to the right.
        no_wrap: headings of the columns whose cells stay on one line.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in text else "right", no_wrap=heading in no_wrap)
    return table
