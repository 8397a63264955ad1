"""The generated blocks of README, from journals made by hand."""

import pytest

from bench.config import find_config, merged_values, track_of
from bench.provenance import ROOT
from bench.report.main_track import MAIN_TRACK, record_lines
from bench.report.readme import FIGURES, PAGE, SYSTEMS, fill_page, records_table, standing_table, standings
from bench.storage.results import FiledResults
from bench.storage.schema import Machine
from tests.support.examples import batch_runs, example_certificate, example_cold_start, example_record
from tracks.descriptions import describe_track


def page(name, between=""):
    return f"before\n<!-- figures: {name} -->\n{between}<!-- end of figures -->\nafter\n"


def on(machine_class):
    return Machine(class_=machine_class, clean=True, reasons=[])


def test_the_text_between_markers_is_made_anew_and_the_rest_is_left():
    results_data = FiledResults(batch_runs("a", [1.0] * 10, machine=on("Example CPU")))
    filled = fill_page(page("standing", "former\n"), results_data)
    assert filled.startswith("before\n<!-- figures: standing -->\n| source system |")
    assert filled.endswith("<!-- end of figures -->\nafter\n")
    assert "former" not in filled
    assert (
        "| three-digit speedrun | `python speedrun.py` | Example CPU | 10/10 | 10/10 | 1.00 | 6.00 | 2026-01-31 | — |"
        in filled
    )
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
    lines = [line for line in standing_table(runs).splitlines()[2:] if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_leader_of_each_machine_class_is_one_of_its_newest_source():
    old = batch_runs("old", [1.0] * 10, source_sha256="e" * 64)
    new = [
        run.model_copy(update={"started_at": run.started_at.replace(year=2027)})
        for name, seconds in (("new", 2.0), ("slow", 3.0))
        for run in batch_runs(name, [seconds] * 10)
    ]
    assert standing_rows(old + new)[0][5] == "2.00"


def test_each_source_system_has_one_row_of_its_fastest_class_and_other_tracks_have_none():
    runs = [
        run
        for i, track in enumerate((MAIN_TRACK, "memorize", "moddiv-113", "moddiv-97", "add2", MAIN_TRACK))
        for run in batch_runs(f"config-{i}", [9.0 - i] * 10, machine=on(f"CPU {i}, 2 cores"), track=track)
    ]
    rows = standing_rows(runs)
    assert [row[0] for row in rows] == [system.name for system in SYSTEMS]
    assert [row[2:4] for row in rows[:3]] == [["CPU 5", "10/10"], ["CPU 4", "10/10"], ["CPU 3", "10/10"]]
    assert all(row[2:] == ["—"] * 7 for row in rows[3:])


def test_seeds_count_once_and_only_what_was_measured_is_clean():
    runs = [
        run.model_copy(update={"machine": Machine(class_="CPU", clean=clean, reasons=[])})
        for name in ("a", "b")
        for run, clean in zip(batch_runs(name, [1.0] * 10, config_hash="one"), [True] * 8 + [None, False], strict=True)
    ]
    assert standing_rows(runs)[0][3:5] == ["10/10", "16/20"]
    unknown = [run.model_copy(update={"machine": Machine(class_="CPU", clean=None, reasons=[])}) for run in runs]
    assert standing_rows(unknown)[0][4] == "—"


def test_below_the_table_stand_the_weaker_targets_of_a_track_that_no_attempt_solved():
    certificate = example_certificate(3, targets={"99%": True, "all": False})
    missed = batch_runs("a", [1.0] * 10, lambda i: "missed", certificate=certificate)
    sentence = "Attempts of `add3` that met a weaker target: 99% 10/10, all 0/10."
    assert f"\n\n{sentence} `total` is warm" in standing_table(missed)
    assert "weaker" not in standing_table(batch_runs("a", [1.0] * 10, certificate=certificate))


def test_below_the_table_stands_what_was_warm():
    runs = batch_runs("a", [1.0] * 10)
    assert standing_table(runs).endswith(
        "\n\n`total` is warm: torch is in the page cache. No cold start has been measured yet."
    )
    older = example_cold_start(cold_total_seconds=9.0, measured_at="2025-01-31T00:00:00Z")
    assert standing_table(runs, cold_starts=[example_cold_start(), older]).endswith(
        " Cold, `add3-cpu` takes 4.00 s, not 1.50 s (Example CPU)."
    )


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_command_of_a_system_runs_its_track(system):
    *options, name = system.command.removeprefix("python speedrun.py").split() or ["add3"]
    assert options in ([], ["--config"])
    _, path = find_config(name, "cpu")
    assert describe_track(*track_of(merged_values(path))).name == system.track


def won(name="won", clock="total", ert_seconds=27.0, year=2027, machine_class="Example CPU"):
    """A record that won in pairs."""
    return example_record(
        name=name,
        clock=clock,
        machine_class=machine_class,
        predecessor="before",
        ert_ratio=0.9,
        ert_ratio_95=(0.8, 1.0),
        result={"attempts": 20, "solved": 20, "clean": 19, "ert_train_seconds": 20.0, "ert_total_seconds": ert_seconds},
        started_at=f"{year}-01-31T00:00:00Z",
    )


def test_a_record_has_the_figures_of_its_own_batch_everywhere():
    runs = batch_runs("add3-cpu", [20.0] * 10) + batch_runs("again", [20.1] * 10, config_hash="add3-cpu")
    row = standing_table(runs, [won()]).splitlines()[2]
    assert row == (
        "| three-digit speedrun | `python speedrun.py` | Example CPU | 20/20 | 19/20 | 20.00 | 27.00 | 2027-01-31 "
        "| [won](results/records/won/README.md) |"
    )
    assert "27.00 s" in record_lines([won()], "records")
    assert records_table([won()]) == records_table([]), "it is that of today"
    assert "| `total` | 28.00 |" in records_table([won(), won("earlier", ert_seconds=28.0, year=2026)])
    example = fill_page(page("example"), FiledResults(runs, records=[won()]))
    assert example.splitlines()[-4:-2] == ["one attempt is not ranked, use --attempts 10", "```"]


def test_the_first_record_of_a_class_stands_below_those_that_won_and_is_no_row_among_them():
    first = example_record(name="first", clock="total", machine_class="One core", result=fast_result())
    runs = batch_runs("unrecorded", [0.1] * 10, machine=on("Another CPU"))
    classes = [standing.machine_class for standing in standings(runs, [first, won()])]
    assert classes == ["Example CPU", "One core", "Another CPU"]
    row = standing_table(runs, [first]).splitlines()[2]
    assert "[first](results/records/first/README.md) (first of its class, compared with nothing)" in row
    assert "first" not in records_table([first, won()])
    assert records_table([first]) == "No earlier record that won in pairs yet."


def fast_result():
    return {"attempts": 10, "solved": 10, "clean": 10, "ert_train_seconds": 0.1, "ert_total_seconds": 0.2}


def test_the_record_before_that_of_today_is_listed_for_each_clock():
    records = [won(f"{clock}-{year}", clock, year=year) for clock in ("total", "train") for year in (2026, 2028, 2027)]
    other = example_record(name="other", track="add2", clock="total", predecessor="before")
    assert [row.split("]")[0] for row in records_table([*records, other]).splitlines()[2:]] == [
        "| [train-2027",
        "| [total-2027",
    ]


def test_the_project_s_readme_shows_figures():
    assert "<!-- figures: " in (ROOT / PAGE).read_text(encoding="utf-8")
