"""The README of a record: its replays are shown, and it agrees with the journal."""

import dataclasses
import zipfile

import pytest

from bench.report.record_page import changed_files, medians_text, record_pages
from bench.storage.results import FiledResults
from tests.support.examples import batch_runs, example_agenda, example_certificate, example_record, example_reproduction


@pytest.fixture
def folder(tmp_path):
    return dataclasses.replace(example_record(), folder=tmp_path)


def page(folder):
    plan = example_agenda(id=folder.record.batch)
    results = FiledResults(batch_runs("a", [1.0]), records=[folder], paired_plans=[plan])
    return record_pages(results, lambda record: "93/5=")[folder.folder / "README.md"]


def test_a_failed_replay_is_on_the_page_of_its_record(folder):
    assert "Nobody has replayed it yet." in page(folder)
    folder.reproductions.append(example_reproduction())
    folder.reproductions.append(example_reproduction("run: 1 errors by today's certificate"))
    text = page(folder)
    assert "Replays that reproduced this record: 1 of 2." in text
    assert "| 2027-01-31 | Example CPU | 10/10 | 9/10 | 1.000 [0.900, 1.100] | **no**: run: 1 error by today's" in text


def test_a_record_without_its_plan_has_no_page(folder):
    assert record_pages(FiledResults([], records=[folder]), lambda record: "") == {}


def test_the_page_asks_a_problem_of_its_track(folder):
    assert 'weights.safetensors "93/5="\n' in page(folder)


def test_a_track_without_held_out_problems_has_no_held_out_errors(folder):
    certificate = example_certificate(problems=1, heldout_problems=0, heldout_errors=0)
    plan = example_agenda(id=folder.record.batch)
    runs = batch_runs(plan.id, [1.0], command="compare", certificate=certificate)
    runs = [run.model_copy(update={"batch": plan.batch(0, "a")}) for run in runs]
    results = FiledResults(runs, records=[folder], paired_plans=[plan])
    text = record_pages(results, lambda record: "")[folder.folder / "README.md"]
    assert "| 7 | solved | 0 | — | 700 |" in text


@pytest.mark.parametrize(("judge", "is_marked"), [(None, True), ("harness", False)])
def test_attempts_without_a_judge_are_marked(folder, judge, is_marked):
    plan = example_agenda(id=folder.record.batch)
    runs = batch_runs(plan.id, [1.0], command="compare", judge=judge)
    runs = [run.model_copy(update={"batch": plan.batch(0, "a")}) for run in runs]
    results = FiledResults(runs, records=[folder], paired_plans=[plan])
    text = record_pages(results, lambda record: "")[folder.folder / "README.md"]
    assert ("The attempts are not judged: their source is older" in text) is is_marked


@pytest.mark.parametrize(("isolated", "is_marked"), [(None, False), (False, True), (True, False)])
def test_attempts_without_namespaces_are_marked(folder, isolated, is_marked):
    plan = example_agenda(id=folder.record.batch)
    runs = batch_runs(plan.id, [1.0], command="compare", judge="harness", isolated=isolated)
    runs = [run.model_copy(update={"batch": plan.batch(0, "a")}) for run in runs]
    results = FiledResults(runs, records=[folder], paired_plans=[plan])
    text = record_pages(results, lambda record: "")[folder.folder / "README.md"]
    assert ("the system allowed no namespaces for 1 of 1." in text) is is_marked


def test_source_that_cannot_be_read_is_not_compared(folder, tmp_path):
    assert changed_files(folder, folder, of_harness=False) is None
    (tmp_path / "source.zip").write_bytes(b"damaged")
    assert changed_files(folder, folder, of_harness=False) is None
    with zipfile.ZipFile(tmp_path / "source.zip", "w"):
        pass
    assert changed_files(folder, folder, of_harness=False) == []


def test_bounds_that_were_not_measured_are_left_out():
    runs = [
        run.model_copy(update={"train_flops": 3e9, "matmul_flops_per_second": 1e9, "step_launches": None})
        for run in batch_runs("a", [1.0] * 3)
    ]
    assert medians_text(runs).endswith("Computing these FLOPs at the peak takes at least 3 s.")
