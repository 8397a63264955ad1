"""The leaderboard, from journals made by hand."""

import re
import shutil
import subprocess
import sys
import time
from datetime import timedelta
from typing import Any

import pytest

from bench.report import leaderboard
from bench.report.leaderboard import group_by_track, render_leaderboard
from bench.report.track_page import update_page
from bench.storage.journal import Journal
from bench.storage.results import FiledResults, read_results
from bench.storage.schema import Machine
from tests.support.examples import (
    ROOT,
    batch_runs,
    example_agenda,
    example_certificate,
    example_cold_start,
    example_conclusion,
    example_record,
    example_run,
    example_seconds,
)

MOST_BYTES = 1_500  # of the project's own leaderboard for each of its tables


def table(text, clock, title="#### by `{}`"):
    """The rows of the first table by a clock, as lists of cells."""
    _, _, below = text.partition(title.format(clock))
    lines = below.strip("\n").split("\n\n")[0].splitlines() if below.startswith("\n\n|") else []
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in lines[2:]]


def render(runs, **parts):
    return render_leaderboard(FiledResults(runs, **parts), group_by_track(runs))


# -----------------------------------------------------------------------------
# the ranking


def test_batches_are_ranked_by_expected_time_to_success():
    fast_but_unsure = batch_runs("unsure", [6.0] * 10, outcome=lambda i: "solved" if i % 2 else "missed")
    slow_and_sure = batch_runs("sure", [10.0] * 10)
    rows = table(render(fast_but_unsure + slow_and_sure), "train")
    assert [(row[0], row[1], row[2], row[3]) for row in rows] == [
        ("1", "sure", "10.00", "10/10"),
        ("1", "unsure", "12.00", "5/10"),
    ]


def test_rows_that_no_comparison_has_told_apart_share_a_rank():
    plan = example_agenda(clock="train")
    sides: Any = [{"settings": side.settings, "source_sha256": side.source_sha256} for side in (plan.a, plan.b)]
    runs = [*batch_runs("a", [1.0] * 10, **sides[0]), *batch_runs("b", [2.0] * 10, **sides[1])]

    def ranks(*verdicts):
        conclusions = [example_conclusion(plan, verdict) for verdict in verdicts]
        text = render(runs, paired_plans=[plan], conclusions=conclusions)
        return [[(row[0], row[1]) for row in table(text, clock)] for clock in ("train", "total")]

    shared = [("1", "a"), ("1", "b")]
    assert ranks() == ranks("not decided") == ranks("slower") == [shared, shared]
    assert ranks("faster") == [[("1", "a"), ("2", "b")], shared], "the comparison was by train"
    slower = plan.model_copy(update={"machine_class": "Another CPU"})
    text = render(runs, paired_plans=[slower], conclusions=[example_conclusion(plan, "faster")])
    assert [row[0] for row in table(text, "train")] == ["1", "1"]


def test_the_two_clocks_are_ranked_apart():
    runs = batch_runs("a", [10.0] * 10) + [
        example_run(batch=run.batch, config="b", seed=run.seed, seconds=example_seconds(train=9.0, total=30.0))
        for run in batch_runs("b", [9.0] * 10)
    ]
    text = render(runs)
    assert [row[1] for row in table(text, "train")] == ["b", "a"]
    assert [row[1] for row in table(text, "total")] == ["a", "b"]


def test_a_batch_that_solved_nothing_ranks_last_and_small_or_unfinished_ones_are_absent():
    runs = [
        *batch_runs("small", [1.0] * 9),
        *batch_runs("unfinished", [1.0] * 10, planned=11),
        *batch_runs("hopeless", [1.0] * 10, outcome=lambda i: "missed"),
        *batch_runs("good", [20.0] * 10),
    ]
    rows = table(render(runs), "train")
    assert [(row[0], row[1]) for row in rows] == [("1", "good"), ("2", "hopeless")]
    assert rows[1][2] == "∞"


def test_median_and_extremes_are_shown_in_seconds():
    rows = table(render(batch_runs("a", [3.0, 1.0, 2.0, 5.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0])), "train")
    assert rows[0][4] == "5.50 (1.00 … 10.00)"


def test_a_search_or_a_matrix_never_stands_on_the_board():
    text = render(batch_runs("matrix", [1.0] * 10, command="matrix"))
    assert "No attempt yet." in text
    assert "matrix-0" not in text


def test_machine_classes_have_tables_of_their_own_the_fastest_first():
    other = Machine(class_="A slower machine", clean=None, reasons=[])
    text = render(batch_runs("b", [2.0] * 10, machine=other) + batch_runs("a", [1.0] * 10))
    assert re.findall(r"^### (.*)$", text, re.MULTILINE) == ["add3 on Example CPU", "add3 on A slower machine"]
    assert text.count("#### by `train`") == 2


def test_a_machine_class_without_a_ranked_batch_has_no_section():
    other = Machine(class_="Another machine", clean=None, reasons=[])
    text = render([*batch_runs("a", [1.0] * 10), example_run(run_id="single", machine=other)])
    assert "Another machine" not in text
    assert "single" not in text


def test_every_row_leads_to_its_attempts_on_the_page_of_the_track():
    runs = [run for name in ("a", "b") for run in batch_runs(name, [1.0] * 10, config_hash="one")]
    assert table(render(runs), "train")[0][-1] == "[10 seeds, 20 runs in 2 batches](tracks/add3.md#a)"
    assert table(render(runs[:10]), "train")[0][-1] == "[10](tracks/add3.md#a)"


def test_repeated_seeds_and_batches_that_were_broken_off_are_told():
    def solved_and_attempts(*batches):
        (row,) = table(render([run for batch in batches for run in batch]), "train")
        return row[3], row[-1].partition("]")[0].removeprefix("[")

    one: Any = {"config_hash": "one"}
    whole = batch_runs("whole", [1.0] * 10, **one)
    again = batch_runs("again", [1.0] * 3, outcome=lambda i: "missed" if i else "solved", **one)
    cut = batch_runs("cut", [1.0] * 3, planned=20, **one)
    other = [run.model_copy(update={"seed": 100 + i}) for i, run in enumerate(cut)]
    assert solved_and_attempts(whole) == ("10/10", "10")
    assert solved_and_attempts(whole, again) == ("9/10", "10 seeds, 13 runs in 2 batches")
    assert solved_and_attempts(whole, again[:2]) == ("9.5/10", "10 seeds, 13 planned, 12 run in 2 batches")
    assert solved_and_attempts(whole, cut) == ("10/10", "10 seeds, 30 planned, 13 run in 2 batches")
    assert solved_and_attempts(whole, other) == ("13/13", "30 planned, 13 run in 2 batches")


def test_what_was_warm_and_the_newest_cold_start_of_each_class_are_told():
    text = render([])
    assert "- `total` is **warm**: " in text
    assert "No cold start has been measured yet." in text
    starts = [example_cold_start(cold_total_seconds=seconds) for seconds in (9.0, 4.0)]
    text = render([], cold_starts=[*starts, example_cold_start(machine_class="Another CPU", cold_total_seconds=7.0)])
    assert "measured yet" not in text
    assert re.findall(r"add3-cpu takes (.*) s, not (.*) s, on (.*) \((.*)\)", text) == [
        (seconds, "1.50", name, "medians of 3 attempts each; 2026-01-31")
        for seconds, name in (("4.00", "Example CPU, 2 cores"), ("7.00", "Another CPU"))
    ]


def test_the_index_has_tracks_with_a_ranked_batch_first_the_others_in_order_of_their_digits():
    singles = [example_run(run_id=name, batch=None, track=name) for name in ("add10", "add2", "add4-reversed")]
    text = render([*singles, *batch_runs("a", [1.0] * 10)])
    assert re.findall(r"^- (.*\(tracks/add.*)$", text, re.MULTILINE) == [
        "[add3](#add3): best ERT by `total` 6.00 s, a; 10 attempts in batches, 10 solved "
        "([all attempts](tracks/add3.md))",
        "Without a ranked batch: [add2](tracks/add2.md), [add4-reversed](tracks/add4-reversed.md), "
        "[add10](tracks/add10.md)",
    ]
    assert re.findall(r"^## (add.*)$", text, re.MULTILINE) == ["add3"]
    few = render([*batch_runs("few", [1.0] * 3)])
    assert "- Without a ranked batch: [add3](tracks/add3.md)\n" in few


def test_old_rows_are_marked_and_disputed_batches_are_listed_without_a_rank():
    old = [run.with_status(is_old=True) for run in batch_runs("old", [2.0] * 10)]
    forged = [run.with_status(("by hand: a|b",)) for run in batch_runs("forged", [0.1] * 10)]
    text = render([*batch_runs("new", [3.0] * 10), *old, *forged])
    rows = table(text, "train")
    assert [(row[0], row[1], row[-2]) for row in rows] == [("1", "old", "not rechecked"), ("1", "new", "passed")]
    assert "\n- add3: [forged](tracks/add3.md#forged) of 2026-01-31: by hand: a\\|b\n" in text
    assert "20 attempts in batches, 20 solved" in text
    assert "## Disputed" not in render(old)


def test_the_page_says_what_no_check_sees():
    assert "No check sees invented seconds" in render([])


def test_lines_that_could_not_be_read_are_shown():
    assert "runs.jsonl:3: skipped" in render([], faults=["runs.jsonl:3: skipped, it is torn"])


# -----------------------------------------------------------------------------
# the records


def test_a_record_without_predecessor_stands_apart_from_those_that_won():
    first = example_record()
    won = example_record(name="won", predecessor=first.record.name, ert_ratio=0.9, ert_ratio_95=(0.8, 1.0))
    text = render(batch_runs("a", [1.0] * 10), records=[first, won])
    (beaten,) = table(text, "train", "Records by `{}` that won in pairs, newest first:")
    assert beaten[:4] == ["[won](records/won/README.md)", "20.00", "0.900 [0.800, 1.000]", first.record.name]
    (alone,) = table(text, "train", "Record by `{}`, first of its class, compared with nothing:")
    assert alone[:2] == [f"[{first.record.name}](records/{first.record.name}/README.md)", "20.00"]


def test_the_record_of_today_stands_at_the_top():
    record = example_record(name="fast", clock="total", predecessor="slow")
    lines = render(batch_runs("a", [1.0] * 10), records=[record]).splitlines()
    assert lines[2].startswith("**Record today: `add3` in 27.00 s from process start to proof on ")
    assert lines[2].endswith(" ([the record](records/fast/README.md))")
    assert render([]).splitlines()[2] == "No record of `add3` by `total` yet."


# -----------------------------------------------------------------------------
# the figures


def pictures(text):
    """The names of the pictures that a page shows, without folder and suffix."""
    return re.findall(r"!\[[^\]]+\]\(plots/([^)]+)\.svg\)", text)


def test_every_ranking_shows_its_figure_and_leads_to_the_data():
    text = render(batch_runs("a", [1.0] * 10))
    train, total = pictures(text)
    assert train.endswith("-train-solved")
    assert total.endswith("-total-solved")
    assert text.index("#### by `train`") < text.index(train) < text.index("#### by `total`") < text.index(total)
    assert f"(plots/{train}.csv)" in text


def test_no_figure_is_shown_before_a_batch_is_ranked():
    assert not pictures(render(batch_runs("small", [1.0] * 9)))


def test_records_have_figures_of_their_own():
    results_data = FiledResults(batch_runs("a", [1.0] * 10), records=[example_record()])
    shown = pictures(render_leaderboard(results_data, group_by_track(results_data.runs)))
    assert [name.rpartition("-")[2] for name in shown] == ["records", "solved", "records", "solved"]
    assert [figure.name for figure in leaderboard.all_figures(results_data)] == shown


@pytest.mark.parametrize(("num_solved", "count"), [(0, 2), (1, 0)])
def test_each_table_has_the_weaker_targets_of_a_config_that_solved_nothing(num_solved, count):
    def outcome(i):
        return "solved" if i < num_solved else "missed"

    certificates = [example_certificate(3, targets={"low": True, "high*": near}) for near in (True, False)]
    runs = batch_runs("a", [1.0] * 10, outcome, planned=11, certificate=certificates[0])
    runs += batch_runs("a", [1.0] * 11, outcome, certificate=certificates[1])[10:]
    assert render(runs).count("\n- Attempts of a that met a weaker target: low 11/11, high\\* 10/11.\n") == count


# -----------------------------------------------------------------------------
# after an attempt


@pytest.fixture
def results(tmp_path):
    journal = Journal(tmp_path)
    for run in batch_runs("a", [1.0] * 10):
        journal.append(run)
    return tmp_path


def test_updating_after_an_attempt_renders_the_leaderboard_and_the_page_of_its_track(results):
    single = example_run(run_id="single", batch=None, track="add2")
    Journal(results).append(single)
    leaderboard.update(results, single)
    assert "[add2](tracks/add2.md)" in (results / "LEADERBOARD.md").read_text("utf-8")
    assert "single" in (results / "tracks" / "add2.md").read_text("utf-8")
    assert (results / "tracks" / "add3.md").exists()


def test_updating_writes_no_page_that_stays_as_it_was(results):
    leaderboard.refresh(results)
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*.md")}
    single = example_run(run_id="single", batch=None, track="add2")
    Journal(results).append(single)
    leaderboard.update(results, single)
    changed = {path.name for path in results.rglob("*.md") if before.get(path) != path.stat().st_mtime_ns}
    assert changed == {"LEADERBOARD.md", "add2.md"}


def test_a_single_attempt_updates_the_page_of_its_track_alone_and_as_a_full_rendering_would(results):
    journal = Journal(results)
    for run in batch_runs("other", [2.0] * 3):
        journal.append(run.model_copy(update={"machine": run.machine.model_copy(update={"class_": "Other CPU"})}))
    older = example_run(run_id="1", batch=None)
    journal.append(older)
    leaderboard.refresh(results)
    single = example_run(run_id="2-newer", batch=None, started_at=older.started_at + timedelta(seconds=9))
    journal.append(single)
    standing = update_page(results, single)
    assert "best ERT by train: 1.00 s, a" in standing
    pages = {path: path.read_text("utf-8") for path in results.rglob("*.md")}
    assert "newer" in pages[results / "tracks" / "add3.md"]
    assert "Other CPU" in pages[results / "tracks" / "add3.md"]
    leaderboard.refresh(results)
    assert pages == {path: path.read_text("utf-8") for path in results.rglob("*.md")}


def test_a_single_attempt_beside_a_run_of_a_peer_updates_all_pages(results):
    Journal(results).append(example_run(run_id="1", batch=None))
    leaderboard.refresh(results)
    peer = example_run(run_id="peer", batch=None, config="mingpt", track="add3-mingpt")
    single = example_run(run_id="2", batch=None)
    for run in (peer, single):
        Journal(results).append(run)
    assert update_page(results, single) is None
    later = single.model_copy(update={"started_at": single.started_at + timedelta(days=1)})
    assert update_page(results, later) is not None


def test_a_page_that_lacks_an_attempt_is_rendered_as_a_whole(results):
    """An earlier process may have been killed between its line and the page."""
    leaderboard.refresh(results)
    first, second, third = (example_run(run_id=f"run-{i}", batch=None) for i in range(3))
    for run in (first, second):
        Journal(results).append(run)
    assert update_page(results, second) is None
    leaderboard.update(results, second)
    Journal(results).append(third)
    assert update_page(results, third) is not None
    page = (results / "tracks" / "add3.md").read_text("utf-8")
    assert re.findall(r'<a id="(run-\d)">', page) == ["run-2", "run-1", "run-0"]
    assert update_page(results, first) is None, "it is not the newest"
    other = example_run(run_id="run-9", batch=None, machine={"class": "Other CPU", "clean": None, "reasons": []})
    Journal(results).append(other)
    assert update_page(results, other) is None, "the page has no table for this machine class yet"


def test_a_new_attempt_is_added_to_the_project_s_page_as_a_full_rendering_would(own, tmp_path):
    shutil.copytree(ROOT / "results", tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("weights*", "*.svg"))
    singles = [run for run in own.runs if run.track == "add3" and run.batch is None]
    at = singles[-1].started_at + timedelta(days=30)
    today = singles[-1].model_copy(update={"run_id": "today", "started_at": at})
    Journal(tmp_path).append(today)
    assert update_page(tmp_path, today) is not None
    path = tmp_path / "tracks" / "add3.md"
    assert path.read_text("utf-8") == leaderboard.rendered_pages(read_results(tmp_path), tmp_path)[path]


def test_after_an_attempt_nothing_is_drawn_and_nothing_heavy_is_imported(results):
    code = (
        "import sys; from pathlib import Path; from bench.report import leaderboard;"
        "from bench.storage.journal import Journal;"
        "results = Path(sys.argv[1]); leaderboard.update(results, Journal(results).read()[0][0]);"
        "print([name for name in ('matplotlib', 'scipy') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(results)]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
    assert pictures((results / "LEADERBOARD.md").read_text("utf-8"))
    assert not (results / "plots").exists()


# -----------------------------------------------------------------------------
# the project's own journal


@pytest.fixture(scope="module")
def own():
    return read_results(ROOT / "results")


def test_the_project_s_leaderboard_stays_small(own):
    text = render_leaderboard(own, group_by_track(own.runs))
    assert len(text.encode()) <= MOST_BYTES * text.count("#### by")


def test_every_link_of_the_project_s_leaderboard_leads_to_an_anchor(own):
    pages = leaderboard.rendered_pages(own, ROOT / "results")
    text = pages[ROOT / "results" / "LEADERBOARD.md"]
    links = re.findall(r"\((tracks/[^)#]+)#?([^)]*)\)", text)
    assert links
    for path, anchor in links:
        page = pages[ROOT / "results" / path]
        assert not anchor or f'<a id="{anchor}"></a>' in page


def test_the_project_s_pages_are_rendered_in_a_fraction_of_a_second(own):
    seconds = []
    for _ in range(3):  # the first one imports and compiles the templates; other processes slow every one down
        began = time.process_time()
        leaderboard.rendered_pages(own, ROOT / "results")
        seconds.append(time.process_time() - began)
    assert min(seconds) < 0.3


def test_the_board_says_where_equal_settings_have_several_hashes_and_what_was_overridden():
    settings = {"track": "add3", "max_seconds": 600}
    runs = batch_runs("one", [1.0] * 10, settings=settings, overrides={"batch_size": 192, "compile": True})
    runs += batch_runs("two", [2.0] * 10, settings={"track": "add3", "max_seconds": 600.0})
    page = render(runs)
    assert "| 1 | one + batch_size=192 compile=true |" in page
    assert "its batches have the config hashes `one`, `two`" in page
    assert "config hashes" not in render(runs[:10])
    runs = [run.model_copy(update={"overrides": {"text": "a\n# b|c"}}) for run in runs]
    assert render(runs).count("one + text=a \\# b\\|c") == 5


def test_batches_that_looked_at_the_test_problems_are_neither_ranked_nor_counted():
    runs = batch_runs("curves", [1.0] * 10, settings={"track": "add3", "curves": True})
    text = render([*runs, *batch_runs("honest", [2.0] * 10)])
    assert "10 attempts in batches, 10 solved" in text
    assert "| 1 | honest |" in text
    assert "| curves |" not in text
