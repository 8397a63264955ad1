"""`python -m bench export`: the journal's runs as a table, a row a run, for other programs to read."""

import csv
import dataclasses
import io
import json
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel

from bench.errors import UsageError
from bench.provenance import ROOT
from bench.storage.journal import Journal
from bench.storage.jsonl import print_faults
from bench.storage.schema import Run

SIMPLE_KINDS = (bool, int, float, str, datetime)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Write the journal's runs as a table: a row a run, nested keys joined by dots, lists as JSON text."""

    format: Literal["csv", "json", "parquet"] = "csv"
    """csv or parquet, or json for a list of the journal's lines as they are."""
    output: Path | None = None
    """The file to write, in place of standard output; parquet needs one."""
    results: Path = ROOT / "results"
    """The folder of the journal."""


# -----------------------------------------------------------------------------
# the table


class Column(NamedTuple):
    """One value of every run."""

    name: str
    kind: type | None  # one of SIMPLE_KINDS; None where no run has a value that could tell
    values: list[Any]  # of that kind; None for what is not known


def columns_of(runs: Sequence[Run]) -> list[Column]:
    """The table, in the order of the journal's keys; the keys of a dict in the order in which they turned up."""
    return list(columns_below(Run, runs, ()))


def columns_below(annotation: Any, values: Sequence[Any], keys: tuple[str, ...]) -> Iterator[Column]:
    """What stands below one key.

    Args:
        annotation: its type.
        values: what each run has there; None where a run has nothing.
        keys: the way down to it.
    """
    kinds = kinds_of(annotation)
    only = kinds[0] if len(kinds) == 1 else None
    if isinstance(only, type) and issubclass(only, BaseModel):
        for field, info in only.model_fields.items():
            below = [None if value is None else getattr(value, field) for value in values]
            yield from columns_below(info.annotation, below, (*keys, info.alias or field))
    elif typing.get_origin(only) is dict:
        for key in dict.fromkeys(key for value in values for key in value or ()):
            below = [None if value is None else value.get(key) for value in values]
            yield from columns_below(typing.get_args(only)[1], below, (*keys, key))
    else:
        yield column(".".join(keys), kinds, values)


def kinds_of(annotation: Any) -> list[Any]:
    """The alternatives that an annotation leaves, None aside."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return kinds_of(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return [kind for argument in arguments for kind in kinds_of(argument)]
    if origin is Literal:
        return list({type(argument) for argument in arguments})
    return [] if annotation is types.NoneType else [annotation]


def column(name: str, kinds: Sequence[Any], values: Sequence[Any]) -> Column:
    """A column of one simple kind: the values' own, the annotation's when there are none, else JSON text."""
    seen = {type(value) for value in values if value is not None} or set(kinds)
    if seen == {int, float}:
        return Column(name, float, [None if value is None else float(value) for value in values])
    if len(seen) == 1 and (kind := seen.pop()) in SIMPLE_KINDS:
        return Column(name, kind, list(values))
    texts = [None if value is None else json_text(value) for value in values]
    return Column(name, str if any(texts) else None, texts)


def json_text(value: Any) -> str:
    return json.dumps(value, default=lambda section: section.model_dump(mode="json"), ensure_ascii=False)


# -----------------------------------------------------------------------------
# the formats


def as_csv(runs: Sequence[Run]) -> bytes:
    """A header and a line a run; what is not known is empty, the rest is written as in the journal."""

    def cell(value: Any) -> Any:
        if isinstance(value, datetime):
            return value.isoformat().replace("+00:00", "Z")
        return json_text(value) if isinstance(value, bool) else value

    columns = columns_of(runs)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(column.name for column in columns)
    writer.writerows(map(cell, row) for row in zip(*(column.values for column in columns), strict=True))
    return text.getvalue().encode()


def as_json(runs: Sequence[Run]) -> bytes:
    """One list, a line of the journal each."""
    return ("[\n" + ",\n".join(run.line() for run in runs) + "\n]\n").encode()


def as_parquet(runs: Sequence[Run]) -> bytes:
    """Columns with their types; times are in UTC, to the microsecond.

    Raises:
        UsageError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError("--format parquet needs pyarrow; install it with `pip install pyarrow`") from None
    arrow_types = {
        None: pyarrow.null(),
        bool: pyarrow.bool_(),
        int: pyarrow.int64(),
        float: pyarrow.float64(),
        str: pyarrow.string(),
        datetime: pyarrow.timestamp("us", tz="UTC"),
    }
    columns = columns_of(runs)
    arrays = [pyarrow.array(column.values, arrow_types[column.kind]) for column in columns]
    target = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(arrays, names=[column.name for column in columns]), target)
    return target.getvalue().to_pybytes()


def main(arguments: Arguments) -> int:
    if arguments.format == "parquet" and arguments.output is None:
        raise UsageError("--format parquet needs --output FILE: it is no text to print")
    journal = Journal(arguments.results)
    if not journal.path.exists():
        raise UsageError(f"there is no journal in {arguments.results}")
    runs, faults = journal.read()
    print_faults(faults)
    content = {"csv": as_csv, "json": as_json, "parquet": as_parquet}[arguments.format](runs)
    if arguments.output is None:
        sys.stdout.buffer.write(content)
        return 0
    try:
        arguments.output.write_bytes(content)
    except OSError as problem:
        raise UsageError(f"--output {arguments.output}: {problem.strerror or problem}") from None
    return 0
