"""The page of a track, from journals made by hand."""

from typing import Any

from bench.report import track_page
from bench.report.leaderboard import group_by_track
from bench.report.track_page import NEWEST_SINGLES, render_track_page
from bench.storage.results import FiledResults
from bench.storage.schema import Machine
from tests.support.examples import batch_runs, example_agenda, example_run


def render(runs, **parts):
    ((track, machines),) = group_by_track(runs).items()
    return render_track_page(track, machines, FiledResults(runs, **parts))


def test_single_attempts_stand_newest_first():
    runs = [
        example_run(run_id=f"single-{day}", batch=None, started_at=f"2026-01-{day}T00:00:00Z") for day in (11, 13, 12)
    ]
    part = render(runs).split("### Single attempts")[1]
    positions = [part.index(f"single-{day}") for day in (13, 12, 11)]
    assert positions == sorted(positions)


def test_only_the_newest_single_attempts_are_shown_over_all_machine_classes():
    other = Machine(class_="Another machine", clean=None, reasons=[])
    runs = [
        example_run(
            run_id=f"single-{i:03}",
            batch=None,
            started_at=f"2026-01-31T00:{i // 60:02}:{i % 60:02}Z",
            **({"machine": other} if i % 2 else {}),
        )
        for i in range(NEWEST_SINGLES + 3)
    ]
    text = render(runs)
    assert text.count("| <a id=") == NEWEST_SINGLES
    assert "single-002" not in text
    assert "single-003" in text
    assert f"The newest {NEWEST_SINGLES} of {NEWEST_SINGLES + 3} single attempts are shown." in text


def test_every_attempt_of_a_batch_is_shown_under_the_anchor_of_its_contestant():
    runs = [run for name in ("a", "b") for run in batch_runs(name, [1.0] * 10, config_hash="one")]
    text = render(runs)
    assert text.count('<a id="a"></a>') == 1
    assert text.index('<a id="a"></a>') < text.index("Batch a:") < text.index("Batch b:")
    assert all(f"| {name}-{i} |" in text for name in ("a", "b") for i in range(10))


def test_small_and_unfinished_batches_are_named_as_without_a_rank():
    runs = [*batch_runs("small", [1.0] * 9), *batch_runs("unfinished", [1.0] * 10, planned=11)]
    part = render(runs).split("### Batches without a rank")[1].split("\n###")[0]
    assert "| small | 1.00 | 6.00 | 9/9 |" in part
    assert "| unfinished | 1.00 | 6.00 | 10/10 |" in part
    assert "[9](#small)" in part
    assert "[11 planned, 10 run](#unfinished)" in part
    assert "\nBatch small:\n" in render(runs)
    assert "\nBatch unfinished, 11 planned, 10 run:\n" in render(runs)
    assert "No batch of this track is ranked" in render(runs)


def test_the_page_of_a_ranked_track_leads_to_its_ranking():
    assert "[LEADERBOARD.md](../LEADERBOARD.md#add3)" in render(batch_runs("a", [1.0] * 10))


def test_a_comparison_that_is_not_finished_says_how_far_it_is():
    plan = example_agenda(pairs=10)
    text = render([example_run()], paired_plans=[plan])
    assert "| comparison-1 | train | new (ffffffffff) | now (ffffffffff) | not finished: 0 of 20 attempts |" in text


def test_a_message_with_a_bar_does_not_break_its_row():
    runs = batch_runs("a", [1.0] * 10, message="a | b")
    assert "a \\| b |" in render(runs)


def test_a_text_among_the_overrides_does_not_break_the_page():
    text: Any = {"overrides": {"track_settings.text": "one\n# two | three"}}
    page = render([*batch_runs("a", [1.0] * 10, **text), *batch_runs("b", [1.0], **text), example_run(**text)])
    assert page.count("one \\# two \\| three") == 4  # two headings, a batch without a rank, a single attempt
    assert "\n# two" not in page


def test_pages_lie_in_a_folder_of_their_own(tmp_path):
    assert track_page.page_path(tmp_path, "add3") == tmp_path / "tracks" / "add3.md"


def test_runs_that_looked_at_the_test_problems_are_shown_and_marked():
    settings = {"track": "add3", "curves": True}
    runs = [*batch_runs("a", [1.0] * 10, settings=settings), example_run(run_id="single", settings=settings)]
    text = render(runs)
    assert "| a; never ranks: looked at the test problems during training |" in text
    assert "| solved, never ranks: looked at the test problems during training |" in text
    assert "No batch of this track is ranked" in text


def test_controls_are_not_on_the_page():
    assert group_by_track([example_run(settings={"control": "shuffle"})]) == {}


def test_a_disputed_batch_stands_without_a_rank_and_says_why():
    runs = [run.with_status(("its phases do not add up",)) for run in batch_runs("a", [1.0] * 10)]
    text = render(runs)
    assert "| a; disputed: its phases do not add up |" in text.split("### Batches without a rank")[1]
    assert "No batch of this track is ranked" in text
