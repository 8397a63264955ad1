"""Runs that are disputed, by a check of their line or by hand."""

from datetime import UTC, datetime, timedelta

import pytest

from bench.stats.ranking import group_batches, group_entries, ranked_entries
from bench.storage.disputes import Dispute, disputes_file
from bench.storage.journal import Journal
from bench.storage.results import read_results
from tests.support.examples import batch_runs, example_run, example_seconds

NOW = datetime(2026, 12, 1, tzinfo=UTC)


def dispute(results, run_id, why, settled=False, minutes=0):
    line = Dispute(run_id=run_id, why=why, settled=settled, written_at=NOW + timedelta(minutes=minutes))
    disputes_file(results).append(line)


@pytest.fixture
def results(tmp_path):
    for run in [*batch_runs("a", [1.0] * 10), *batch_runs("b", [2.0] * 10)]:
        Journal(tmp_path).append(run)
    return tmp_path


def ranked(results):
    return [entry.id for entry in ranked_entries(read_results(results).runs, "train")]


def test_a_run_that_is_disputed_by_hand_takes_the_rank_of_its_whole_batch(results):
    assert ranked(results) == ["a", "b"]
    dispute(results, "a-3", "it had the weights in its initializer")
    assert ranked(results) == ["b"]
    (entry,) = [entry for entry in group_entries(group_batches(read_results(results).runs)) if entry.disputed]
    assert (entry.id, len(entry.runs), entry.ranked) == ("a", 10, False)
    assert entry.disputed == ["by hand: it had the weights in its initializer"]


def test_the_latest_line_about_a_run_counts(results):
    dispute(results, "a-3", "one")
    dispute(results, "a-3", "they are not", settled=True, minutes=1)
    assert ranked(results) == ["a", "b"]
    dispute(results, "a-3", "they are", minutes=2)
    dispute(results, "b-0", "settled without a dispute", settled=True, minutes=2)
    assert ranked(results) == ["b"]


def test_what_a_check_found_is_not_settled_by_hand(results):
    forged = batch_runs("forged", [0.1] * 10)
    forged[4] = forged[4].model_copy(update={"seconds": forged[4].seconds.model_copy(update={"total": 0.2})})
    for run in forged:
        Journal(results).append(run)
    dispute(results, "forged-4", "trust me", settled=True)
    assert ranked(results) == ["a", "b"]


def test_a_disputed_batch_leaves_the_entry_of_its_contestant(results):
    """The other batches of the contestant keep their rank, by their own attempts."""
    for run in batch_runs("again", [9.0] * 10, config_hash="a"):
        Journal(results).append(run)
    assert ranked(results) == ["b", "a"]
    dispute(results, "again-0", "another machine")
    (first, _) = ranked_entries(read_results(results).runs, "train")
    assert (first.id, len(first.runs)) == ("a", 10)


def test_a_line_cannot_say_of_itself_whether_it_is_disputed(tmp_path):
    journal = Journal(tmp_path)
    for run in batch_runs("forged", [1.0] * 10, judge=None):
        journal.append(run)
    text = journal.path.read_text("utf-8").replace('{"schema"', '{"disputed":[],"is_old":true,"schema"')
    journal.path.write_text(text, "utf-8")
    runs, faults = journal.read()
    assert (runs, len(faults)) == ([], 10)


def test_disputes_are_never_written_into_the_journal(results):
    dispute(results, "a-3", "why")
    (run,) = [run for run in Journal(results).read()[0] if run.disputed]
    assert "disputed" not in run.model_dump_json()
    Journal(results).append(run.model_copy(update={"run_id": "copy"}))
    assert '"disputed"' not in (results / "runs.jsonl").read_text("utf-8")


def test_runs_that_never_rank_are_disputed_by_hand_alone(tmp_path):
    single = example_run(run_id="single", judge=None, seconds=example_seconds(total=1.0))
    opponent = example_run(
        run_id="opponent", judge=None, batch={"id": "x", "command": "record", "planned": 10, "index": 0, "side": "b"}
    )
    for run in (single, opponent):
        Journal(tmp_path).append(run)
    assert [run.disputed for run in Journal(tmp_path).read()[0]] == [(), ()]
    dispute(tmp_path, "single", "why")
    assert [run.disputed for run in Journal(tmp_path).read()[0]] == [("by hand: why",), ()]


def test_a_damaged_line_of_disputes_is_reported(results):
    with open(results / "disputes.jsonl", "a") as file:
        file.write("torn\n")
    (fault,) = read_results(results).faults
    assert fault.startswith("disputes.jsonl:1: skipped")
