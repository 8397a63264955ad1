"""Lookup of runs and weights in a journal of three runs."""

from datetime import UTC, datetime

import pytest

from bench.errors import UsageError
from bench.storage import results as results_module
from bench.storage.journal import Journal
from bench.storage.results import find_run, find_weights, weights_sha256
from tests.support.examples import example_record, example_run


@pytest.fixture
def results(tmp_path):
    """The second run was the last to keep weights; the third, the latest, stands first in the file."""
    journal = Journal(tmp_path)
    (tmp_path / "weights").mkdir()
    for day, name in ((3, "third"), (1, "first"), (2, "second")):
        path = tmp_path / "weights" / f"{name}.safetensors"
        path.write_bytes(name.encode())
        kept = {"weights": f"weights/{name}.safetensors", "weights_sha256": weights_sha256(path)}
        if name == "third":
            kept = {"weights": None, "weights_sha256": None}
        journal.append(example_run(run_id=name, started_at=f"2026-01-0{day}T00:00:00Z", **kept))
    return tmp_path


def test_a_run_is_found_by_its_id(results):
    assert find_run("first", results).run_id == "first"


def test_latest_is_the_run_that_started_last(results):
    assert find_run("latest", results).run_id == "third"
    assert find_run("latest", results, with_weights=True).run_id == "second"
    assert find_weights("latest", results)[0] == results / "weights" / "second.safetensors"


def test_a_run_is_found_by_a_copy_of_its_weights(results, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy.safetensors"
    elsewhere.write_bytes(b"first")
    assert find_run(str(elsewhere), results).run_id == "first"


def test_missing_weights_are_an_error_with_a_remedy(results):
    (results / "weights" / "second.safetensors").unlink()
    with pytest.raises(UsageError, match=r"weights of second are not here.*make an attempt first"):
        find_weights("latest", results)


def test_invalid_lines_are_reported(results, capsys):
    with open(Journal(results).path, "a") as file:
        file.write("torn\n")
    assert find_run("first", results).run_id == "first"
    assert "runs.jsonl:4: skipped" in capsys.readouterr().err


def test_a_path_to_weights_needs_no_journal(tmp_path):
    assert find_weights(str(tmp_path / "any.safetensors"), tmp_path)[0] == tmp_path / "any.safetensors"


@pytest.mark.parametrize(
    ("reference", "named"),
    [
        ("secnod", "'second'"),
        ("latets", "the nearest is 'latest'"),
        ("x", "there are first, latest"),
        ("", "is empty"),
        ("no-such-file.safetensors", "no-such-file"),
    ],
)
def test_the_message_about_an_unknown_run_names_the_nearest(results, reference, named):
    with pytest.raises(UsageError, match=named):
        find_run(reference, results)


def test_a_run_without_weights_is_refused_where_weights_are_needed(results):
    with pytest.raises(UsageError, match=r"the run third kept no weights \(solved\)"):
        find_weights("third", results)


def test_a_run_of_a_matrix_exists_although_it_keeps_no_weights(results):
    batch = {"id": "some", "command": "matrix", "planned": 1, "index": 0}
    Journal(results).append(example_run(run_id="cell", batch=batch, weights=None))
    with pytest.raises(UsageError, match="the run cell kept no weights; matrix keeps no weights"):
        find_weights("cell", results)


def test_weights_that_a_run_saved_after_a_step_are_found_by_run_and_step(results):
    for step in (500, 1_000_000):
        results_module.checkpoint_path("third", step, results).write_bytes(b"")
    path, which = find_weights("latest@500", results)
    assert path == results / "weights" / "third-step-000500.safetensors"
    assert which == f"third ({find_run('third', results).label}) after step 500"
    assert find_weights("third@1000000", results)[0].name == "third-step-1000000.safetensors"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("third@499", "no weights of step 499 of third; the nearest is @500"),
        ("first@500", "no weights of step 500 of first; set checkpoint_every"),
        ("third@", "the step after @ must be a whole number"),
        ("third@5e2", "the step after @ must be a whole number"),
        ("fourth@500", "there is no run 'fourth'"),
        ("@500", "the name of the run is empty"),
    ],
)
def test_a_wrong_step_is_refused_with_the_nearest(results, reference, message):
    results_module.checkpoint_path("third", 500, results).write_bytes(b"")
    with pytest.raises(UsageError, match=message):
        find_weights(reference, results)


def test_a_record_is_not_taken_for_a_run(results):
    folder = results / "records" / "2026-01-01-add3-fast"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(example_record().record.model_dump_json())
    with pytest.raises(UsageError, match=r"is a record, not a run.*2026-01-01-add3-fast/README\.md"):
        find_run(folder.name, results)


def test_a_run_id_that_is_only_alike_is_not_suggested(results):
    for index in range(30):
        Journal(results).append(example_run(run_id=f"20261126-1710{index}-add3-cpu-5e902f"))
    with pytest.raises(UsageError, match="`python -m bench export` lists all"):
        find_run("2026-11-26-add3-nothing", results)
    with pytest.raises(UsageError, match="the nearest is '20261126-171012-add3-cpu-5e902f'"):
        find_run("20261126-171012-add3-cpu-5e902", results)


def test_weights_of_no_run_in_the_journal_are_refused(results):
    (results / "weights" / "third.safetensors").write_bytes(b"foreign")
    with pytest.raises(UsageError, match="no run in"):
        find_run(str(results / "weights" / "third.safetensors"), results)


@pytest.mark.parametrize("reference", ["latest", "first"])
def test_without_a_journal_there_is_no_run(tmp_path, reference):
    with pytest.raises(UsageError, match="there is no run in"):
        find_run(reference, tmp_path)


def test_the_latest_run_is_not_a_test_of_a_trainer_or_a_machine(tmp_path):
    journal = Journal(tmp_path)
    for day, (command, control) in enumerate((("speedrun", "none"), ("yardstick", "none"), ("audit", "shuffle")), 1):
        batch = {"id": "batch", "command": command, "planned": 3, "index": 0}
        started_at = datetime(2026, 1, day, tzinfo=UTC)
        changes = {"batch": batch, "settings": {"control": control}, "started_at": started_at}
        journal.append(example_run(run_id=command, **changes))
    assert find_run("latest", tmp_path).run_id == "speedrun"


def test_durations_are_estimated_from_the_project_and_the_given_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(results_module, "ROOT", tmp_path)
    here, elsewhere = (example_run().machine.model_dump(by_alias=True) | {"class": name} for name in ("Ü (c)", "Other"))
    for folder, name in (("results", "own"), ("play", "tried")):
        Journal(tmp_path / folder).append(example_run(run_id=name, machine=here))
        Journal(tmp_path / folder).append(example_run(run_id=f"{name} elsewhere", machine=elsewhere))
    planned = [example_run(machine=here)]
    for folder, names in (("play", ["own", "tried"]), ("results", ["own"])):
        assert [run.run_id for run in results_module.runs_for_estimates(tmp_path / folder, planned)] == names
