"""What is printed about a filed run."""

from types import SimpleNamespace
from typing import Any

from bench.attempt.filing import describe_filing
from bench.storage.journal import Journal
from data import get_track
from tests.support.examples import example_run


def test_a_filed_run_names_the_folder_and_says_how_to_ask_its_model(tmp_path):
    plan: Any = SimpleNamespace(request=SimpleNamespace(journal=True, results=tmp_path), track=get_track("add3"))
    run = example_run(run_id="some", batch=None, weights="weights/some.safetensors")
    Journal(tmp_path).append(run)
    standing, ask = describe_filing(plan, run).splitlines()
    assert standing.startswith(f"in {tmp_path}: one attempt is not ranked")
    assert ask == f'ask this run: python -m bench ask some "381+350=" --results {tmp_path}'
    assert describe_filing(plan, run.model_copy(update={"weights": None})).splitlines()[-1] == "run some"
