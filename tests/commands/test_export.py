"""`python -m bench export`."""

import csv
import io
import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench.commands import export
from bench.errors import UsageError
from bench.storage.journal import Journal
from bench.storage.schema import Batch, Certificate, Gpu, Run
from tests.support.examples import ROOT, example_run, example_seconds

UNREACHED = example_seconds(train=None, certify=None, total=None)
GPU = Gpu.model_validate(
    dict.fromkeys(Gpu.model_fields) | {"name": "Example GPU", "throttle_reasons": ["SwPowerCap"], "energy_joules": 1.5}
)


def runs():
    """A run with every value, and a run without the optional ones."""
    full = example_run(
        run_id="full",
        batch=Batch(id="batch", command="compare", planned=10, index=3, side="b"),
        settings={"track": "add3", "num_steps": 700, "share": 1, "compile": False, "mixed": 3},
        note='a "note", with\nlines',
        train_flops=1e12,
        search={"trial": 3, "space": {"batch_size": [512, 1024]}},
    )
    full = full.model_copy(update={"hardware": full.hardware.model_copy(update={"gpu": GPU})})
    bare = example_run(
        run_id="bare",
        settings={"track": "add3", "num_steps": 800, "share": 0.5, "compile": None, "mixed": "three", "new": True},
        outcome="lost",
        seconds=UNREACHED,
        steps=None,
        checks=[],
        reached={},
        certificate=None,
        hardware=None,
        software=None,
        data_sha256=None,
        commit=None,
        dirty=None,
        weights=None,
        started_at="2026-01-31T23:59:59.123456Z",
    )
    return [full, bare]


def leaves(value, name=""):
    """A naive flattening of a line of the journal, in its order; null sections have no leaves."""
    if not isinstance(value, dict):
        return {name: value}
    return {
        leaf: found for key, part in value.items() for leaf, found in leaves(part, f"{name}.{key}".lstrip(".")).items()
    }


@pytest.fixture
def results(tmp_path):
    journal = Journal(tmp_path)
    for run in runs():
        journal.append(run)
    return tmp_path


def exported(results, capsys, **arguments):
    assert export.main(export.Arguments(results=results, **arguments)) == 0
    return capsys.readouterr().out


def test_csv_has_a_row_for_each_run_with_every_value(results, capsys):
    rows = list(csv.DictReader(io.StringIO(exported(results, capsys), newline="")))
    assert len(rows) == 2
    for run, row in zip(runs(), rows, strict=True):
        for name, value in leaves(json.loads(run.model_dump_json())).items():
            if value is None:
                assert row.get(name, "") == ""
            elif isinstance(value, str) and name != "settings.mixed":
                assert row[name] == value
            elif name.startswith("search.space"):
                assert json.loads(row["search.space"]) == {"batch_size": [512, 1024]}
            else:
                assert json.loads(row[name]) == value


def test_columns_are_in_the_order_of_the_journals_keys():
    names = [column.name for column in export.columns_of(runs())]
    assert len(names) == len(set(names))
    wanted = [name for name in leaves(json.loads(runs()[0].model_dump_json())) if name in names]
    assert [name for name in names if name in wanted] == wanted
    assert len(wanted) > 90
    assert names.index("settings.mixed") + 1 == names.index("settings.new")  # came with the second run
    assert names[names.index("settings.new") + 1] == "init_from"


def test_columns_do_not_depend_on_the_values_of_the_runs():
    known = [column.name for column in export.columns_of(runs()[:1])]
    none = [column.name for column in export.columns_of([])]
    assert set(none) <= set(known)
    assert {"batch.side", "seconds.train", "certificate.errors", "hardware.gpu.name", "energy_joules"} <= set(none)


def test_json_is_the_list_of_the_journals_lines(results, capsys):
    shown = json.loads(exported(results, capsys, format="json"))
    assert shown == [json.loads(line) for line in (results / "runs.jsonl").read_text("utf-8").splitlines()]


def test_parquet_keeps_types_and_values(results):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = results / "runs.parquet"
    assert export.main(export.Arguments(format="parquet", output=path, results=results)) == 0
    table = parquet.read_table(path)
    types = {field.name: str(field.type) for field in table.schema}
    assert {name: types[name] for name in ("seed", "seconds.train", "dirty", "run_id", "started_at")} == {
        "seed": "int64",
        "seconds.train": "double",
        "dirty": "bool",
        "run_id": "string",
        "started_at": "timestamp[us, tz=UTC]",
    }
    assert types["settings.share"] == "double"  # once 1, once 0.5
    assert types["settings.mixed"] == "string"
    assert types["energy_joules"] == "double"  # without a value, by the annotation
    for column in export.columns_of(runs()):
        assert table[column.name].to_pylist() == column.values
    assert table["started_at"].to_pylist()[1] == datetime(2026, 1, 31, 23, 59, 59, 123456, tzinfo=UTC)
    assert json.loads(table["checks"].to_pylist()[0])[0]["step"] == 700


def test_an_empty_journal_has_a_header_and_no_rows(tmp_path, capsys):
    pytest.importorskip("pyarrow")
    (tmp_path / "runs.jsonl").touch()
    assert exported(tmp_path, capsys).startswith("schema,run_id,batch.id,")
    assert json.loads(exported(tmp_path, capsys, format="json")) == []
    assert export.main(export.Arguments(format="parquet", output=tmp_path / "empty.parquet", results=tmp_path)) == 0


def test_an_output_file_has_the_printed_content(results, capsys):
    printed = exported(results, capsys)
    assert exported(results, capsys, output=results / "runs.csv") == ""
    assert (results / "runs.csv").read_bytes() == printed.encode()


def test_unreadable_lines_are_reported_and_skipped(results, capsys):
    with open(results / "runs.jsonl", "a") as file:
        file.write('{"torn":')
    assert export.main(export.Arguments(results=results)) == 0
    shown = capsys.readouterr()
    assert "runs.jsonl:3: skipped" in shown.err
    assert len(list(csv.reader(io.StringIO(shown.out, newline="")))) == 3


@pytest.mark.parametrize("place", ["no-such-folder/runs.csv", "."])
def test_an_output_that_cannot_be_written_is_an_error(results, place):
    with pytest.raises(UsageError, match="--output"):
        export.main(export.Arguments(output=results / place, results=results))


def test_parquet_needs_an_output_file_and_pyarrow(results, monkeypatch):
    with pytest.raises(UsageError, match="--output FILE"):
        export.main(export.Arguments(format="parquet", results=results))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match="pip install pyarrow"):
        export.main(export.Arguments(format="parquet", output=results / "runs.parquet", results=results))
    assert not (results / "runs.parquet").exists()


def test_a_folder_without_a_journal_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="no journal"):
        export.main(export.Arguments(results=tmp_path / "results"))
    assert list(Path(tmp_path).iterdir()) == []


def test_a_closed_pipe_is_not_an_error(results):
    journal = results / "runs.jsonl"
    lines = (run.model_copy(update={"run_id": str(i)}).model_dump_json() for i, run in enumerate(100 * runs()))
    journal.write_text("".join(f"{line}\n" for line in lines), "utf-8")  # more than a pipe holds
    command = [sys.executable, "-m", "bench", "export", "--results", str(results)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.read(10) == b"schema,run"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_the_example_in_the_documentation_prints_a_median(tmp_path, monkeypatch, capsys):
    for seconds in (1.0, 2.0, 4.0):
        Journal(tmp_path).append(example_run(run_id=f"run-{seconds}", seconds=example_seconds(train=seconds)))
    export.main(export.Arguments(current=True, output=tmp_path / "runs.csv", results=tmp_path))
    monkeypatch.chdir(tmp_path)
    documentation = (ROOT / "docs" / "COMMANDS.md").read_text(encoding="utf-8")
    exec(documentation.partition("```python\n")[2].partition("```")[0], {})
    assert capsys.readouterr().out == "2.0\n"


def test_the_documented_columns_exist():
    documentation = (ROOT / "docs" / "COMMANDS.md").read_text(encoding="utf-8")
    rows = documentation.partition("| column | meaning |")[2].partition("\n\n")[0].splitlines()[2:]
    names = {column.name for column in [*export.columns_of(runs()), export.notes_column(runs(), {})]}
    for row in rows:
        prefix = ""
        for name in re.findall(r"`([^`]+)`", row.split("|")[1]):
            prefix = prefix if name.startswith(".") else name.rpartition(".")[0]
            full_name = prefix + name if name.startswith(".") else name
            if full_name.endswith("…"):
                *parent, field = full_name.removesuffix(".…").split(".")
                assert field in (Certificate if parent == ["certificate"] else Run).model_fields
            elif full_name != "reached.sample80":  # not of every track
                assert full_name in names | {"reached.heldout", "reached.99%", "reached.solved"}, full_name
