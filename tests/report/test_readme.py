"""The generated blocks of README, from journals made by hand."""

import pytest

from bench.provenance import ROOT
from bench.report.main_track import MAIN_TRACK
from bench.report.readme import FIGURES, MOST_ROWS, PAGE, fill_page, records_table, standing_table
from bench.storage.results import FiledResults
from bench.storage.schema import Machine
from tests.support.examples import batch_runs, example_record


def page(name, between=""):
    return f"before\n<!-- figures: {name} -->\n{between}<!-- end of figures -->\nafter\n"


def on(machine_class):
    return Machine(class_=machine_class, clean=True, reasons=[])


def test_the_text_between_markers_is_made_anew_and_the_rest_is_left():
    results_data = FiledResults(batch_runs("a", [1.0] * 10, machine=on("Example CPU")))
    filled = fill_page(page("standing", "old\n"), results_data)
    assert filled.startswith("before\n<!-- figures: standing -->\n| track |")
    assert filled.endswith("<!-- end of figures -->\nafter\n")
    assert "old" not in filled
    assert "| add3 | a | Example CPU | 10/10 | 10/10 | 1.00 | 6.00 | 2026-01-31 |" in filled
    assert fill_page(filled, results_data) == filled
    with pytest.raises(KeyError):
        fill_page(page("no-such-figures"), results_data)


@pytest.mark.parametrize("name", FIGURES)
def test_every_block_says_so_where_there_is_nothing_yet(name):
    assert " yet." in fill_page(page(name), FiledResults([]))


def test_a_page_without_blocks_stays_as_it_is():
    assert fill_page("# Title\n", FiledResults([])) == "# Title\n"


def test_the_example_is_of_the_default_config_even_where_another_one_leads():
    runs = batch_runs("add3-cpu", [9.0] * 10) + batch_runs("challenger", [1.0] * 10)
    text = fill_page(page("example"), FiledResults(runs))
    assert "solved  0 errors in 1,000,000  add3-cpu, " in text
    assert "challenger, seed" not in text


def standing_rows(runs):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in standing_table(runs).splitlines()[2:]]


def test_the_leader_of_each_machine_class_is_one_of_its_newest_source():
    old = batch_runs("old", [1.0] * 10, source_sha256="e" * 64)
    new = [
        run.model_copy(update={"started_at": run.started_at.replace(year=2027)})
        for name, seconds in (("new", 2.0), ("slow", 3.0))
        for run in batch_runs(name, [seconds] * 10)
    ]
    assert [row[1] for row in standing_rows(old + new)] == ["new"]


def test_the_main_track_and_the_fastest_class_come_first_and_the_table_is_short():
    runs = [
        run
        for i in range(MOST_ROWS)
        for run in batch_runs(f"config-{i}", [9.0 - i] * 10, machine=on(f"CPU {i}"), track=MAIN_TRACK)
    ]
    other = batch_runs("other", [0.1] * 10, track="add2")
    shown = [row[1] for row in standing_rows(other + runs)]
    assert shown == [f"config-{i}" for i in reversed(range(MOST_ROWS))]


def test_the_newest_two_records_of_each_clock_are_listed():
    first = example_record()
    year = first.record.started_at.year
    later = [
        example_record(
            name=f"later-{i}",
            predecessor=first.record.name,
            ert_ratio=0.9,
            ert_ratio_95=(0.8, 1.0),
            started_at=first.record.started_at.replace(year=year + i),
        )
        for i in (2, 1)
    ]
    total = example_record(name="total", clock="total")
    other = example_record(name="other", track="add2", clock="total")
    assert records_table([first, *later, total, other]).splitlines()[2:] == [
        "| [later-2](results/records/later-2/README.md) | `train` | 20.00 | 0.900 [0.800, 1.000] | 2028-01-31 |",
        "| [later-1](results/records/later-1/README.md) | `train` | 20.00 | 0.900 [0.800, 1.000] | 2027-01-31 |",
        "| [total](results/records/total/README.md) | `total` | 27.00 | first of its class, compared with nothing "
        "| 2026-01-31 |",
    ]


def test_the_project_s_readme_shows_figures():
    assert "<!-- figures: " in (ROOT / PAGE).read_text(encoding="utf-8")
