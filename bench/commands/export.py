"""`python -m bench export`: write the journal's runs as a table for other programs."""

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple

import tyro
from pydantic import BaseModel

from bench.arguments import OptionalPathArgument
from bench.commands.options import DEFAULT_RESULTS, ResultsOption
from bench.errors import UsageError
from bench.formatting import csv_rows
from bench.stats.ranking import current_runs
from bench.storage.journal import Journal
from bench.storage.jsonl import print_faults
from bench.storage.results import read_notes
from bench.storage.schema import Note, Run
from bench.streams import print_error, printable

SIMPLE_TYPES = (bool, int, float, str, datetime)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Write the journal's runs as a table: one row per run, nested keys joined by dots, lists as JSON text.

    The last column has the remarks of `bench note`; the list of lines (json) leaves them in notes.jsonl.
    """

    format: Literal["csv", "json", "parquet"] = "csv"
    """csv or parquet for the table; json for a list of the journal's lines, unchanged."""
    current: tyro.conf.FlagCreatePairsOff[bool] = False
    """Only attempts that compare, of each config. If it has rows on the board: the attempts of the row with the latest
    attempt. If not: its single attempts and those of `compare`, with the settings, source and machine class of the
    latest one. Attempts with overrides, and those of a matrix, a search, an audit or a replay, are left out."""
    output: OptionalPathArgument = None
    """The file to write; by default standard output, except for parquet."""
    results: ResultsOption = DEFAULT_RESULTS


def main(arguments: Arguments) -> int:
    if arguments.format == "parquet" and arguments.output is None:
        raise UsageError("--format parquet needs --output FILE, because it is binary")
    journal = Journal(arguments.results)
    if not journal.path.exists():
        raise UsageError(f"there is no journal in {arguments.results}")
    runs, faults = journal.read()
    print_faults(faults)
    if arguments.current:
        runs = current_runs(runs)
    notes = read_notes(arguments.results)
    if arguments.format == "json":
        content = as_json(runs)
    else:
        columns = [*columns_of(runs), notes_column(runs, notes)]
        content = as_csv(columns) if arguments.format == "csv" else as_parquet(columns)
    if arguments.output is None:
        if sys.stdout.isatty():  # notes may hold control characters
            content = "\n".join(map(printable, content.decode().split("\n"))).encode()
        sys.stdout.buffer.write(content)
        return 0
    try:
        arguments.output.write_bytes(content)
    except OSError as problem:
        raise UsageError(f"--output {arguments.output}: {problem.strerror or problem}") from None
    print_error(f"{len(runs)} runs are written to {arguments.output}")
    return 0


class Column(NamedTuple):
    """One value of every run."""

    name: str
    value_type: type | None  # one of SIMPLE_TYPES; None if no run has a value
    values: list[Any]  # of that type; None for unknown


def columns_of(runs: Sequence[Run]) -> list[Column]:
    """The columns in the order of the journal's keys; the keys of a dict in the order of their first occurrence."""
    return list(columns_below(Run, runs, ()))


def notes_column(runs: Sequence[Run], notes: Mapping[str, Sequence[Note]]) -> Column:
    """The remarks of each run as a JSON list of objects with `text` and `written_at`; None without any."""
    keys = {"text", "written_at"}
    lists = [[note.model_dump(mode="json", include=keys) for note in notes.get(run.run_id, ())] for run in runs]
    return make_column("notes", [], [found or None for found in lists])


def columns_below(annotation: Any, values: Sequence[Any], keys: tuple[str, ...]) -> Iterator[Column]:
    """The columns of the key at a path and of the keys nested in it; `values` are None for runs without the key."""
    alternatives = types_in(annotation)
    only_type = alternatives[0] if len(alternatives) == 1 else None
    if isinstance(only_type, type) and issubclass(only_type, BaseModel):
        for field, info in only_type.model_fields.items():
            nested = [None if value is None else getattr(value, field) for value in values]
            yield from columns_below(info.annotation, nested, (*keys, info.alias or field))
    elif typing.get_origin(only_type) is dict:
        for key in dict.fromkeys(key for value in values for key in value or ()):
            nested = [None if value is None else value.get(key) for value in values]
            yield from columns_below(typing.get_args(only_type)[1], nested, (*keys, key))
    else:
        yield make_column(".".join(keys), alternatives, values)


def types_in(annotation: Any) -> list[Any]:
    """The alternatives of an annotation, without None."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return types_in(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return [alternative for argument in arguments for alternative in types_in(argument)]
    if origin is Literal:
        return list({type(argument) for argument in arguments})
    return [] if annotation is types.NoneType else [annotation]


def make_column(name: str, annotated_types: Sequence[Any], values: Sequence[Any]) -> Column:
    """A column of one simple type: that of the values, or of the annotation without values; otherwise JSON text."""
    value_types = {type(value) for value in values if value is not None} or set(annotated_types)
    if value_types == {int, float}:
        return Column(name, float, [None if value is None else float(value) for value in values])
    if len(value_types) == 1 and (value_type := value_types.pop()) in SIMPLE_TYPES:
        return Column(name, value_type, list(values))
    texts = [None if value is None else json_text(value) for value in values]
    return Column(name, str if any(texts) else None, texts)


def json_text(value: Any) -> str:
    return json.dumps(value, default=lambda section: section.model_dump(mode="json"), ensure_ascii=False)


def as_csv(columns: Sequence[Column]) -> bytes:
    """A header and one line per run; unknown values are empty, other values are written as in the journal."""

    def cells(column: Column) -> list[Any]:
        if column.value_type is bool:
            return [None if value is None else json_text(value) for value in column.values]
        if column.value_type is datetime:
            return [None if value is None else value.isoformat().replace("+00:00", "Z") for value in column.values]
        return column.values

    return csv_rows([[column.name for column in columns], *zip(*map(cells, columns), strict=True)]).encode()


def as_json(runs: Sequence[Run]) -> bytes:
    """One list of the journal's lines."""
    return ("[\n" + ",\n".join(run.model_dump_json() for run in runs) + "\n]\n").encode()


def as_parquet(columns: Sequence[Column]) -> bytes:
    """Typed columns; times are in UTC with microseconds."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError("--format parquet needs pyarrow; install it with `pip install pyarrow`") from None
    arrow_types: dict[type | None, Any] = {
        None: pyarrow.null(),
        bool: pyarrow.bool_(),
        int: pyarrow.int64(),
        float: pyarrow.float64(),
        str: pyarrow.string(),
        datetime: pyarrow.timestamp("us", tz="UTC"),
    }
    arrays = [pyarrow.array(column.values, arrow_types[column.value_type]) for column in columns]
    target = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(arrays, names=[column.name for column in columns]), target)
    return target.getvalue().to_pybytes()
