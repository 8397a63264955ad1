"""What the pages that are rendered from the journal have in common: figures as text, templates, and their check."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench.archive import settings_changes
from bench.lines import replace_file
from bench.stats import spread

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


def plain(text: str) -> str:
    """A text as Markdown that reads as it was typed, in a table too."""
    return MARKUP.sub(r"\\\g<0>", text)


def environment() -> Environment:
    """The templates beside this file."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown; what others have typed goes through `plain`
    )


def publish(
    texts: Mapping[Path, str], pictures: Mapping[Path, Callable[[], str | bytes]], check: bool, command: str
) -> int:
    """Write what a command has rendered, or check what lies there.

    A picture's bytes depend on the version that drew it, so that the check asks only whether it is there.

    Args:
        texts: what each file should say.
        pictures: what draws each picture.
        check: write nothing.
        command: whose name the check's advice gives.

    Returns:
        The exit status: 1 when the check finds a file that says something else; a line on standard error for each.

    Raises:
        OSError: a file could not be written.
    """
    if not check:
        for path, draw in pictures.items():
            replace_file(path, draw())
        for path, text in texts.items():
            replace_file(path, text)
        return 0
    stale = [path.name for path, text in texts.items() if not path.exists() or path.read_text("utf-8") != text]
    stale += [path.name for path in pictures if not path.exists()]
    for name in stale:
        print(f"{name} does not say what the journal says; run `python -m bench {command}`", file=sys.stderr)
    return 1 if stale else 0
