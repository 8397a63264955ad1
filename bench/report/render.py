"""Jinja templates with their filters, and writing or checking rendered pages."""

import contextlib
import functools
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemBytecodeCache, FileSystemLoader, StrictUndefined

from bench.formatting import (
    clean_text,
    commit_text,
    contestant_text,
    escape_markdown,
    heldout_errors_text,
    markdown_code,
    markdown_label,
    met_targets_text,
    number,
    outcome_text,
    ratio_text,
    search_text,
)
from bench.stats.expected_time import expected_time_to_success
from bench.stats.ranking import Entry
from bench.storage.comparison_schema import Reproduction, Side
from bench.storage.jsonl import replace_file
from bench.storage.schema import Run
from bench.streams import print_error

TEMPLATES = Path(__file__).parent / "templates"


def solved_text(entry: Entry) -> str:
    """`19.5/20` seeds; a number that is not whole is rounded down."""
    return f"{math.floor(10 * entry.num_solved_seeds) / 10:g}/{entry.num_seeds}"


def attempts_text(entry: Entry) -> str:
    """`20`, `20 seeds, 40 runs in 2 batches`, or `20 planned, 13 run`."""
    num_seeds, num_runs = entry.num_seeds, len(entry.runs)
    attempts = str(num_runs) if num_seeds == num_runs else f"{num_seeds} seeds, {num_runs} runs"
    if not entry.finished:
        seeds = "" if num_seeds == num_runs else f"{num_seeds} seeds, "
        attempts = f"{seeds}{entry.num_planned} planned, {num_runs} run"
    return attempts + ("" if len(entry.batches) == 1 else f" in {len(entry.batches)} batches")


def merged_text(entry: Entry) -> str:
    """Says that an entry has batches with different hashes of equal settings."""
    hashes = ", ".join(f"`{digest[:8]}`" for digest in entry.config_hashes)
    first = entry.runs[0]
    return (
        f"{markdown_code(first.label)} of {first.started_at.date()}: its batches have the config hashes {hashes}. "
        "They write equal settings differently, such as 600 and 600.0, so they count as one contestant."
    )


def commit_of(source: Run | Side) -> str:
    return commit_text(source.commit, source.dirty)


def replay_reason(replay: Reproduction) -> str:
    """Why a replay did not reproduce its record; lines filed earlier say `1 errors`."""
    return re.sub(r"\b1 errors\b", "1 error", replay.reason or "")


FILTERS: dict[str, Callable[..., str | float | None]] = {
    "attempts": attempts_text,
    "clean": clean_text,
    "commit": commit_of,
    "contestant": contestant_text,
    "ert": expected_time_to_success,
    "heldout_errors": heldout_errors_text,
    "escape_markdown": escape_markdown,
    "label": markdown_label,
    "merged": merged_text,
    "met_targets": met_targets_text,
    "number": number,
    "outcome": outcome_text,
    "ratio": ratio_text,
    "reason": replay_reason,
    "search": search_text,
    "solved": solved_text,
}


@functools.cache  # compiling a template takes longer than rendering it
def template_environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        bytecode_cache=bytecode_cache(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown; text typed by users goes through `escape_markdown`
    )
    environment.filters |= FILTERS
    return environment


def bytecode_cache() -> FileSystemBytecodeCache | None:
    """Compiled templates beside the templates, as Python keeps compiled modules; None where that is not possible."""
    folder = TEMPLATES / "__pycache__"
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)
    if not is_encodable(str(folder)):  # Jinja encodes the path
        return None
    return FileSystemBytecodeCache(str(folder)) if os.access(folder, os.W_OK) else None


def is_encodable(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def render_template(name: str, **values: Any) -> str:
    """A page from the template `NAME.md.jinja`."""
    return template_environment().get_template(f"{name}.md.jinja").render(values)


def write_or_check(
    texts: Mapping[Path, str],
    pictures: Mapping[Path, Callable[[], str | bytes]],
    check: bool,
    command: str,
    stale: Iterable[Path] = (),
) -> int:
    """Write rendered files, or check the files on disk against them.

    The bytes of a picture depend on the version of the library that drew it; the check only requires that it exists.

    Args:
        texts: path -> text.
        pictures: path -> function that draws the picture.
        check: write nothing; print a line on standard error for each file that differs.
        command: the command that this line recommends, without `python -m bench`.
        stale: generated files that should no longer exist; deleted when writing.

    Returns:
        The exit status: 1 when the check fails.
    """
    if not check:
        for path, draw in pictures.items():
            replace_file(path, draw())
        for path, text in texts.items():
            replace_file(path, text)
        for path in stale:
            path.unlink()
        print_error(f"{len(texts)} pages and tables and {len(pictures)} plots are written")
        return 0
    problems = {path: "is missing" for path in (*texts, *pictures) if not path.exists()}
    differing = [path for path, text in texts.items() if path not in problems and path.read_text("utf-8") != text]
    problems |= dict.fromkeys([*differing, *stale], "does not agree with the journal")
    for path, problem in problems.items():
        print_error(f"{short_path(path)} {problem}; run `python -m bench {command}`")
    if not problems:
        print_error(f"{len(texts)} pages and tables agree with the journal, and all {len(pictures)} plots exist")
    return 1 if problems else 0


def short_path(path: Path) -> str:
    """The path from the current folder, if it leads to the file."""
    with contextlib.suppress(ValueError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)
