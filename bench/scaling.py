"""`python -m bench scaling`: what learning to add takes, by the number of digits, from the journal alone."""

import dataclasses
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from bench.growth import (
    CONFIGS,
    FEWEST_LENGTHS,
    QUANTITIES,
    Attempt,
    Family,
    families,
    plotted,
)
from bench.journal import Journal
from bench.lines import report
from bench.pages import changed_settings, commit_text, environment, middle, number, plain, publish, spread_text
from bench.plots import csv_text
from bench.provenance import ROOT


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Render SCALING.md and its plot from the journal's attempts of the scaling configs on `addN` and `addN-reversed`.

    An attempt is one of them whatever its outcome. Attempts that differ in more than track and seed are never pooled.
    """

    results: Path = ROOT / "results"
    """The folder of the journal."""
    check: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write nothing; exit 1 when a file and the journal disagree."""


# -----------------------------------------------------------------------------
# the page


def render_scaling(found: Sequence[Family], faults: Sequence[str] = ()) -> str:
    """The whole page as Markdown.

    Args:
        found: as `families` gives them.
        faults: sentences about what could not be read.
    """
    first = {(family.machine_class, family.order): family for family in plotted(found)}
    machines: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for family in found:
        section = family_section(family, first[family.machine_class, family.order])
        machines[plain(family.machine_class)].append(section)
    template = environment().get_template("scaling.md.jinja")
    return template.render(
        configs=CONFIGS,
        machines=dict(machines),
        quantities=list(QUANTITIES),
        fewest_lengths=FEWEST_LENGTHS,
        faults=[plain(fault) for fault in faults],
    )


def family_section(family: Family, shown: Family) -> dict[str, Any]:
    """What the page says of one family; `shown` is the first of its machine class and order, which the plot shows."""
    runs = [attempt.run for attempt in family.attempts]
    days = sorted({f"{run.started_at:%Y-%m-%d}" for run in runs})
    changes = changed_settings(shown.settings, family.settings)
    if family.attempts[0].run.source_sha256 != shown.attempts[0].run.source_sha256:
        changes.append("the source")
    return {
        "order": family.order,
        "configs": sorted({run.config for run in runs}),
        "commits": ", ".join(sorted({commit_text(run.commit, run.dirty) for run in runs})),
        "days": days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}",
        "num_attempts": len(runs),
        "num_clean": sum(run.machine.clean is True for run in runs),
        "is_shown": family == shown,
        "changes": changes,
        "num_solved": family.num_solved,
        "exponents": family.exponents,
        "rows": [
            length_row(digits, [attempt for attempt in family.attempts if attempt.digits == digits])
            for digits in sorted({attempt.digits for attempt in family.attempts})
        ],
    }


def length_row(digits: int, attempts: Sequence[Attempt]) -> dict[str, Any]:
    """A family's attempts at one number of digits."""
    solved = [attempt.run for attempt in attempts if attempt.solved]
    unsolved = [attempt.run for attempt in attempts if not attempt.solved]
    certificates = [run.certificate for run in unsolved if run.certificate is not None]
    others = Counter(run.outcome for run in unsolved if run.certificate is None)

    def known(values: Sequence[float | None]) -> list[float]:
        return [value for value in values if value is not None]

    return {
        "digits": digits,
        "solved": f"{len(solved)}/{len(attempts)}",
        "seconds": spread_text(known([run.seconds.train for run in solved]), ".2f"),
        "steps": middle(known([run.steps for run in solved]), ",.0f"),
        "flops": middle(known([run.train_flops for run in solved]), ".3g"),
        "examples": middle(known([run.examples for run in solved]), ",.0f"),
        "errors": spread_text([certificate.errors for certificate in certificates], ",.0f"),
        "rate": spread_text([certificate.error_rate_upper_95 for certificate in certificates], ".2g"),
        "uncertified": ", ".join(f"{count} {outcome}" for outcome, count in sorted(others.items())) or number(None),
    }


# -----------------------------------------------------------------------------
# the plot's data


class Row(NamedTuple):
    """One attempt of a family that the plot shows."""

    run: str
    machine_class: str
    digits: int
    order: str
    outcome: str
    train_seconds: float | None
    steps: int | None
    train_flops: float | None


def rows_of(shown: Sequence[Family]) -> list[Row]:
    return [
        Row(run.run_id, machine, digits, order, run.outcome, run.seconds.train, run.steps, run.train_flops)
        for machine, order, attempts in shown
        for digits, run in attempts
    ]


# -----------------------------------------------------------------------------
# the command


def sentences(shown: Sequence[Family]) -> list[str]:
    """The exponents in words."""
    quantities = " / ".join(QUANTITIES)
    return [
        f"{family.order}, by {quantities}: exponent {' / '.join(family.exponents)} on {family.machine_class}"
        for family in shown
    ]


def main(arguments: Arguments) -> int:
    runs, faults = Journal(arguments.results).read()
    found = families(runs)
    shown = plotted(found)
    texts, pictures = {arguments.results / "SCALING.md": render_scaling(found, faults)}, {}
    report(faults)
    if shown:
        from bench.scaling_plot import draw_scaling

        texts[arguments.results / "plots" / "scaling.csv"] = csv_text(rows_of(shown))
        pictures[arguments.results / "plots" / "scaling.png"] = lambda: draw_scaling(shown)
        for sentence in sentences(shown):
            print(sentence)
    else:
        print(f"no attempt of {' or '.join(CONFIGS)} on addN or addN-reversed yet", file=sys.stderr)
    return publish(texts, pictures, arguments.check, "scaling")
