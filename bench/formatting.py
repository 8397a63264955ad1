"""Values as text: numbers, durations, settings, commits, one-line summaries of attempts."""

import csv
import math
import re
import shlex
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from bench.clock import ClockName
from bench.config import current_names, setting_text
from bench.stats.descriptive import spread
from bench.stats.estimates import expected_seconds
from bench.stats.expected_time import attempt_costs, expected_time_to_success
from bench.stats.learning_curves import StepSpan
from bench.stats.ranking import CLOCKS
from bench.storage.comparison_schema import Side
from bench.storage.schema import Certificate, Count, Interval, Run

UNKNOWN = "—"  # a value that is not known
# Characters with a meaning in Markdown; an underscore has none within a word.
MARKUP = re.compile(r"[\\`*\[\]<>|#~$&]|(?<![^\W_])_|_(?![^\W_])")
NOT_IN_CODE = re.compile(r"[`|\\]|[^\S ]|^ *$")  # code in Markdown knows no escapes
SPECIAL_IN_SHELL = re.compile(r"""["$`\\!]|[^\S ]""")  # even between double quotes
FORMULA = re.compile(r"[=+\-@\t\r\n]")  # the start of a text that a spreadsheet runs as a formula


def number(value: float | None, pattern: str = ",.0f") -> str:
    """A number as text; `∞` for the ERT of attempts of which none solved the track."""
    return UNKNOWN if value is None else "∞" if value == float("inf") else format(value, pattern)


def seconds_text(seconds: float | None) -> str:
    """`1.50 s`, `unknown`, or `∞` for the ERT of attempts of which none solved the track."""
    return "unknown" if seconds is None else "∞" if math.isinf(seconds) else f"{seconds:.2f} s"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def known(values: Iterable[float | None]) -> list[float]:
    """The values without None."""
    return [value for value in values if value is not None]


def middle(values: Iterable[float | None], pattern: str) -> str:
    """The median of the known values as text."""
    numbers = known(values)
    return number(statistics.median(numbers) if numbers else None, pattern)


def spread_text(values: Iterable[float | None], pattern: str) -> str:
    """`5.50 (1.00 … 10.00)`: median, minimum and maximum of the known values."""
    found = spread(known(values))
    if found is None:
        return UNKNOWN
    return f"{found.median:{pattern}} ({found.minimum:{pattern}} … {found.maximum:{pattern}})"


def steps_title(milestones: Sequence[str]) -> str:
    """`steps from train 100% to validation 100%`, or `steps to validation 100%`."""
    return f"steps {'from' if len(milestones) == 2 else 'to'} {' to '.join(milestones)}"


def steps_text(spans: Sequence[StepSpan]) -> str:
    """Median, minimum and maximum; the steps of each run where one did not finish, `340, 410, > 12,000`."""
    if all(span.is_finished for span in spans):
        return spread_text([span.steps for span in spans], ",.0f")
    return ", ".join(map(str, sorted(spans, key=lambda span: (not span.is_finished, span.steps))))


def limit_text(runs: Iterable[Run]) -> str:
    """The limit on `train` of some runs, or the lowest and the highest: `limit of train 60 to 300 s`."""
    limits = sorted({float(run.settings["max_seconds"] or 0) for run in runs})
    return f"limit of train {' to '.join(dict.fromkeys([f'{limits[0]:g}', f'{limits[-1]:g}']))} s"


def ratio_text(ratio: float | None, interval: Interval | None) -> str:
    """`0.912 [0.880, 0.950]`: a ratio and its 95% interval."""
    if ratio is None or math.isnan(ratio):
        return UNKNOWN
    text = "∞" if math.isinf(ratio) else f"{ratio:.3f}"
    return text if interval is None else f"{text} [{interval[0]:.3f}, {interval[1]:.3f}]"


def counted(number: int, noun: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def errors_in_words(errors: int) -> str:
    return counted(errors, "error")


def right_text(count: Count, decimals: int = 2) -> str:
    """The share of right problems, `99.80%`; less than 100% if there is any error."""
    if not count.errors:
        return "100%"
    most = 1 - 10.0 ** -(decimals + 2)  # not rounded to 100%
    return f"{min(1 - count.errors / count.problems, most):.{decimals}%}"


def changed_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The settings that differ, under present names, each as Markdown `key: before → after`; see `markdown_code`."""
    before, after = current_names(before), current_names(after)
    sides = [(key, before.get(key), after.get(key)) for key in sorted({*before, *after})]
    texts = (f"{key}: {setting_text(old)} → {setting_text(new)}" for key, old, new in sides if old != new)
    return list(map(markdown_code, texts))


def commit_text(commit: str | None, dirty: bool | None, unknown: str = UNKNOWN) -> str:
    """`0123456789`, or `0123456789 + changes` for a working tree with uncommitted changes."""
    return unknown if commit is None else commit[:10] + (" + changes" if dirty else "")


def contestant_text(side: Side) -> str:
    """`name (commit)`."""
    return f"{side.name} ({commit_text(side.commit, side.dirty, 'no commit')})"


def search_text(search: Mapping[str, Any] | None) -> str | None:
    """The cost of the search that found a config, as a phrase; None without a search."""
    if search is None:
        return None
    trials, attempts = (number(search.get(key)) for key in ("trials", "attempts"))
    seconds, flops = search.get("seconds"), search.get("flops")
    cost = "" if seconds is None else f", {duration(seconds)}"
    cost += "" if flops is None else f", {flops:.3g} training FLOPs"
    return f"found by a search of {trials} trials, {attempts} attempts{cost}"


def measure_text(certificate: Certificate, name: str) -> str:
    """A measure, with its limit if the verdict depends on it: `loss 0.0004, needed at most 0.001`."""
    value, limit = certificate.measures.get(name), certificate.limits.get(name)
    text = f"{name} {'not finite' if value is None else f'{value:.3g}'}"
    return text if limit is None else f"{text}, needed at most {limit:g}"


def verdict_text(certificate: Certificate) -> str:
    """The errors, and the measures that are above their limits: `0 errors, loss 0.002, needed at most 0.001`.

    Errors that a solved track may have are `31 errors, as allowed`.
    """
    names = certificate.unmet_limits if certificate.has_target else certificate.decisive_measures
    unmet = [measure_text(certificate, name) for name in names]
    allowed = ["as allowed"] if certificate.errors and certificate.is_solved else []
    return ", ".join([errors_in_words(certificate.errors), *allowed, *unmet])


def certificate_text(certificate: Certificate) -> str:
    """What the verdict depends on: `0 errors in 1; loss 0.0004, needed at most 0.001`.

    Where errors are allowed, the measures come first: `invalid 0.0041, needed at most 0.01; 31 errors in 10,000`.
    """
    errors = f"{errors_in_words(certificate.errors)} in {certificate.problems:,}"
    limited = [measure_text(certificate, name) for name in certificate.decisive_measures]
    if certificate.may_have_errors:
        return "; ".join([*limited, errors + (", as allowed" if certificate.errors and certificate.is_solved else "")])
    return "; ".join([errors, *limited])


def heldout_errors_text(certificate: Certificate | None) -> str:
    """The errors among the held-out problems; an em dash for a track that holds none out."""
    return number(certificate.heldout_errors if certificate is not None and certificate.heldout_problems else None)


def targets_text(certificate: Certificate) -> str:
    """`targets met: 0.564, 0.943; not met: 0.956`; empty without named targets."""
    parts = []
    for label, is_met in (("met", True), ("not met", False)):
        if names := [name for name, value in certificate.targets.items() if value is is_met]:
            parts.append(f"{label}: {', '.join(names)}")
    return f"targets {'; '.join(parts)}" if parts else ""


def met_targets_text(runs: Collection[Run]) -> str:
    """`94.3% valid 10/10, 95.6% valid 9/10`: the runs that met each weaker target; empty without named targets."""
    certificates = [run.certificate for run in runs if run.certificate is not None]
    names = dict.fromkeys(name for certificate in certificates for name in certificate.targets)
    met = {name: sum(certificate.targets.get(name, False) for certificate in certificates) for name in names}
    return ", ".join(f"{name} {count}/{len(runs)}" for name, count in met.items())


def outcome_text(run: Run) -> str:
    """The outcome of a run as Markdown, the measures and targets of its certificate, and why it can never be ranked."""
    certificate = run.certificate
    parts: list[str] = [run.outcome]
    if certificate is not None:
        parts += [measure_text(certificate, name) for name in certificate.decisive_measures]
        parts += ["errors as allowed"] if certificate.errors and certificate.is_solved else []
        parts += filter(None, [targets_text(certificate)])
    text = escape_markdown("; ".join(parts))
    return text if run.unranked_because is None else f"{text}, never ranks: {run.unranked_because}"


def attempt_line(run: Run, with_reasons: bool = True) -> str:
    """The outcome, the reason or the errors, and the known seconds of one attempt, and whether and why not clean."""
    verdict = run.message or ("" if run.certificate is None else verdict_text(run.certificate))
    parts = [f"seed {run.seed}", run.outcome, verdict]
    parts += [f"{clock} {seconds_text(seconds)}" for clock in CLOCKS if (seconds := getattr(run.seconds, clock))]
    reasons = f": {'; '.join(run.machine.reasons)}" if with_reasons else ""
    parts += [f"not clean{reasons}"] if run.machine.clean is False else []
    return "  ".join(part for part in parts if part)


def yardstick_line(run: Run) -> str:
    """The seconds of a run of the yardstick, or why it has none."""
    parts = [f"yardstick (fixed work, not meant to solve): train {seconds_text(run.seconds.train)}"]
    parts += [] if run.certificate is not None else [f"{run.outcome}: {run.message}"]
    parts += [f"not clean: {'; '.join(run.machine.reasons)}"] if run.machine.clean is False else []
    return "  ".join(parts)


def expected_text(runs: Sequence[Run], planned: Sequence[Run]) -> str:
    """The duration of the planned attempts, estimated from earlier runs: `about 12 min`."""
    seconds = [expected_seconds(runs, [run]) for run in planned]
    return "duration unknown" if None in seconds else f"about {duration(sum(known(seconds)))}"


def interrupted_line(number: int, runs: Sequence[Run], clock: ClockName) -> str:
    """What the interrupted attempt `number`, the last of `runs`, counts as."""
    cost = attempt_costs(runs, clock)[-1]
    return f"attempt {number} was interrupted; it counts as not solved (charged {cost:,.0f} s by {clock})"


def clean_text(runs: Sequence[Run]) -> str:
    """How many attempts ran on a quiet machine; an em dash when that was not measured."""
    measured = [run.machine.clean for run in runs if run.machine.clean is not None]
    return f"{sum(measured)}/{len(runs)}" if measured else UNKNOWN


def batch_line(runs: Sequence[Run]) -> str:
    """The attempts of one batch: how many solved and were clean, and for each clock the median, the range, the ERT."""
    batch, solved = runs[0].batch, sum(run.outcome == "solved" for run in runs)
    name = UNKNOWN if batch is None else batch.id
    parts = [f"batch {name}: solved {solved}/{len(runs)}, clean {clean_text(runs)}"]
    for clock in CLOCKS:
        seconds = spread(known(getattr(run.seconds, clock) for run in runs))
        median = f"median {seconds.median:.2f} s ({seconds.minimum:.2f} … {seconds.maximum:.2f}), " if seconds else ""
        parts.append(f"{clock} {median}ERT {seconds_text(expected_time_to_success(runs, clock))}")
    return "; ".join(parts)


def terminal_table(headings: Sequence[str], text: Collection[str] = (), no_wrap: Collection[str] = ()) -> Table:
    """An empty table without rules.

    Columns are aligned to the right, those whose headings are in `text` to the left. The cells of the columns whose
    headings are in `no_wrap` stay on one line.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in text else "right", no_wrap=heading in no_wrap)
    return table


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[object]], text: Collection[str] = ()) -> str:
    """A Markdown table; the columns whose headings are in `text` are aligned to the left, all others to the right."""
    ruler = ["---" if heading in text else "---:" for heading in headings]
    return "\n".join(map(markdown_row, (headings, ruler, *rows)))


def markdown_row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def csv_rows(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV; None becomes an empty cell.

    A text that a spreadsheet would run as a formula begins with an apostrophe (OWASP, CSV injection); numbers do not.
    """

    def cell(value: object) -> object:
        return f"'{value}" if isinstance(value, str) and FORMULA.match(value) and not is_number(value) else value

    class Lines(list[str]):
        def write(self, line: str) -> None:
            self.append(f"{line[:-2]}\n")

    lines = Lines()
    writer = csv.writer(lines, lineterminator="\r\n")  # cells with either of its characters are quoted
    for row in rows:
        writer.writerow([cell(value) if value.__class__ is str else value for value in row])
    return "".join(lines)


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def escape_markdown(text: str) -> str:
    """Text as Markdown that renders as it was typed, in one line, also inside a table; whitespace becomes one space."""
    return MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


def markdown_label(run: Run) -> str:
    """The label of a run as Markdown; see `Run.label`."""
    return escape_markdown(run.label)


def markdown_code(text: str) -> str:
    """Text as Markdown code; escaped instead where code cannot hold it in one line or in a table."""
    return escape_markdown(text) if NOT_IN_CODE.search(text) else f"`{text}`"


def ask_command(run: str, prompt: str, options: Sequence[str] = ()) -> str:
    """The command that asks the model of a run, for a POSIX shell; `options` and `run` are words of it.

    Double quotes hold the prompts of most tracks. A newline is written as `ask` reads it, in one line.
    """
    prompt = prompt.replace(r"\n", r"\\n").replace("\n", r"\n")
    word = shlex.quote(prompt) if SPECIAL_IN_SHELL.search(prompt) else f'"{prompt}"'
    words = [run, word, *map(shlex.quote, options)]
    if prompt.startswith("-"):
        words = [run, *map(shlex.quote, options), "--", word]
    return " ".join(["python -m bench ask", *words])
