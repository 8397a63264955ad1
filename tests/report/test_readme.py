"""The figures of README and docs, from journals made by hand."""

import pytest

from bench.provenance import ROOT
from bench.report.readme import PAGES, fill_page, record_figures
from bench.storage.results import FiledResults
from tests.support.examples import batch_runs, example_agenda, example_record


def page(name, between=""):
    return f"before\n<!-- figures: {name} -->\n{between}<!-- end of figures -->\nafter\n"


def test_figures_between_markers_are_made_anew_and_the_rest_is_left():
    evidence = FiledResults(batch_runs("a", [1.0] * 10))
    filled = fill_page(page("standing", "old\n"), evidence)
    assert filled.startswith("before\n<!-- figures: standing -->\n| track |")
    assert filled.endswith("<!-- end of figures -->\nafter\n")
    assert "old" not in filled
    assert "| 10/10 | 6.00 | 1.00 (1.00 … 1.00) | 3.00 (3.00 … 3.00) | 6.00 (6.00 … 6.00) |" in filled
    assert "| 2026-01-31 | ffffffffff |" in filled
    assert fill_page(filled, evidence) == filled
    with pytest.raises(KeyError):
        fill_page(page("no-such-figures"), evidence)


def test_the_example_is_of_the_default_config_even_where_another_one_leads():
    runs = batch_runs("add3-cpu", [9.0] * 10) + batch_runs("challenger", [1.0] * 10)
    text = fill_page(page("example"), FiledResults(runs))
    assert "solved  0 errors in 1,000,000  add3-cpu, " in text
    assert "challenger, seed" not in text


def test_records_stand_newest_first_with_what_they_changed():
    first = example_record()
    later = {"name": "later", "predecessor": first.record.name, "ert_ratio": 0.9, "ert_ratio_95": (0.8, 1.0)}
    second = example_record(**later, batch="another", started_at=first.record.started_at.replace(year=2027))
    why = example_agenda(id="another", why="fewer steps | cheaper ones")
    newest, oldest = record_figures(FiledResults([], records=[first, second], paired_plans=[why])).splitlines()[2:]
    assert newest.startswith("| [later](results/records/later/README.md) | `train` | 20.00 | 0.900 [0.800, 1.000] |")
    assert "fewer steps \\| cheaper ones | Example CPU |" in newest
    assert "| 20.00 | — | the first of its kind | Example CPU |" in oldest
    assert record_figures(FiledResults([])) == "No record yet."


def test_every_page_shows_figures():
    assert all("<!-- figures: " in (ROOT / name).read_text(encoding="utf-8") for name in PAGES)
