"""`python -m bench compare`, with a fake trainer."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from bench.commands import board, compare, show
from bench.errors import UsageError
from bench.experiments import launcher
from bench.experiments.comparison import description_lines, evaluate_comparison
from bench.formatting import UNKNOWN
from bench.storage.results import conclusions_file, paired_plans_file
from tests.support.arena import arena_in


def run_compare(arena, a="fast", b="slow", **changes):
    return compare.main(compare.Arguments(a=a, b=b, results=arena.results, **changes))


def plans(arena):
    return paired_plans_file(arena.results).read()[0]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """An arena in which `fast` was compared with `slow` in six pairs, and what was printed."""
    with arena_in(tmp_path_factory.mktemp("compared")) as arena, contextlib.redirect_stdout(io.StringIO()) as printed:
        assert run_compare(arena, pairs=6, why="less work") == 0
    return arena, printed.getvalue()


def test_the_last_line_is_the_verdict(compared, arena, capsys):
    assert compared[1].splitlines()[-1] == "faster"
    assert run_compare(arena, "slow", "fast", pairs=6) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "slower"


def test_the_duration_is_estimated_from_earlier_attempts(arena, capsys):
    run_compare(arena, pairs=1)
    assert "2 attempts and the yardstick, duration unknown" in capsys.readouterr().err
    run_compare(arena, pairs=6)
    assert re.search(r"12 attempts and the yardstick, about \d+ (s|min)\n", capsys.readouterr().err)


def test_equal_sides_are_not_decided(arena, capsys):
    arena.behave(fast={"noise": 0.0}, same={"noise": 0.0})
    assert run_compare(arena, "fast", "same", pairs=6) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "not decided"


def test_a_comparison_is_shown_again_from_the_journal_alone(compared, capsys):
    arena, first_output = compared
    (plan,) = plans(arena)
    assert show.main(show.Arguments(runs=(plan.id,), results=arena.results)) == 0
    assert capsys.readouterr().out == first_output
    comparison = evaluate_comparison(plan, arena.journal.read()[0])
    assert conclusions_file(arena.results).read()[0] == [comparison.conclusion()]


def test_both_sides_of_a_pair_share_a_seed_and_run_in_random_order(arena):
    run_compare(arena, pairs=12)
    (plan,) = plans(arena)
    runs = arena.attempts()
    assert len(runs) == 24
    for index, (first, second) in enumerate(zip(runs[::2], runs[1::2], strict=True)):
        assert first.seed == second.seed == plan.seeds[index]
        assert first.batch.index == index
        assert {first.batch.side, second.batch.side} == {"a", "b"}
        assert {run.config for run in (first, second) if run.batch.side == "a"} == {"fast"}
    assert len(set(plan.seeds)) == 12
    assert {run.batch.side for run in runs[::2]} == {"a", "b"}  # the same for all has a chance of 1 in 2,048
    assert plan.first is None, "nobody can read the order before the pairs are run"


def test_the_yardstick_runs_once(arena):
    run_compare(arena, pairs=2)
    runs, _ = arena.journal.read()
    assert [run.command for run in runs] == ["yardstick", *["compare"] * 4]
    assert len({run.batch.id for run in runs}) == 1


def test_the_plan_is_written_before_the_first_attempt(arena):
    arena.behave(fast={"dies": "early"}, slow={"dies": "early"})
    run_compare(arena, pairs=1)
    (plan,) = plans(arena)
    assert plan.started_at <= min(run.started_at for run in arena.attempts())
    assert plan.pairs == 1


def test_comparisons_against_an_opponent_are_numbered(arena, capsys):
    arena.behave(other={"train": 9.5})
    for a, b in (("fast", "slow"), ("other", "slow"), ("fast", "other"), ("fast", "slow")):
        run_compare(arena, a, b, pairs=1)
    assert [plan.number for plan in plans(arena)] == [1, 2, 1, 3]
    assert "comparison number 3 against this opponent" in capsys.readouterr().out
    assert [plan.level for plan in plans(arena)] == [0.05] * 4
    first, _, _, again = plans(arena)
    assert first.seeds != again.seeds, "a new comparison has seeds of its own"


def test_fewer_than_six_pairs_decide_nothing(arena, capsys):
    run_compare(arena, pairs=5)
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == "not decided"
    assert re.search(r"permutation test over 5 pairs: p = 0\.\d+ \(fewer than 6 cannot decide\)\n", shown)
    assert re.search(r"\na new comparison with --pairs \d+ would decide", shown)
    assert "the last pair took" not in shown


def test_missed_and_killed_attempts_count_against_their_side(arena, capsys):
    arena.behave(unsure={"train": 5.0, "solves": 0.25}, dying={"train": 9.0, "dies": "late"})
    run_compare(arena, "unsure", "slow", pairs=6)
    assert capsys.readouterr().out.splitlines()[-1] != "faster"
    run_compare(arena, "slow", "dying", pairs=6)
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == "not decided"
    assert "6 of 6 attempts of side b have no result of their own" in shown


def test_where_neither_side_solved_there_is_no_ratio(arena, capsys):
    arena.behave(fast={"train": 9.0, "solves": 0.0}, slow={"train": 12.0, "solves": 0.0})
    run_compare(arena, pairs=1)
    assert f"ERT of a to ERT of b by `train`: {UNKNOWN}\n" in capsys.readouterr().out
    assert conclusions_file(arena.results).read()[0][0].ert_ratio is None


def test_a_comparison_whose_output_nobody_reads_is_run_and_filed_to_its_end(arena):
    reader, writer = os.pipe()
    os.close(reader)
    command = arena.command("compare", "fast", "slow", "--pairs", "1", "--why", "x", "--results", str(arena.results))
    environment = os.environ | {"ARENA": str(arena.root)}
    status = subprocess.call(command, cwd=arena.root, env=environment, stdout=writer, stderr=writer)
    os.close(writer)
    assert status == 0
    assert [run.outcome for run in arena.attempts()] == ["solved", "solved"]
    assert len(conclusions_file(arena.results).read()[0]) == 1


def test_the_board_lists_the_comparison_and_does_not_rank_its_attempts(compared):
    arena, _ = compared
    (plan,) = plans(arena)
    text = (arena.results / "tracks" / "add3.md").read_text()
    assert plan.id in text
    assert "faster" in text
    assert "No batch of this track is ranked" in text
    assert "Without a ranked batch: [add3](tracks/add3.md)" in (arena.results / "LEADERBOARD.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": 0}, "--pairs 0"),
        ({"a": "faster"}, "'faster'"),
        ({"b": "no/such/record"}, "'no/such/record'"),
    ],
)
def test_a_usage_error_leaves_no_files(arena, changes, message):
    with pytest.raises(UsageError, match=message):
        run_compare(arena, **changes)
    assert not arena.results.exists()


# -----------------------------------------------------------------------------
# reasons


def history(arena):
    return (arena.results / "NEGATIVE.md").read_text("utf-8")


def test_the_reason_is_in_the_plan_in_the_output_and_in_the_history(arena, capsys):
    run_compare(arena, "slow", "fast", pairs=6, why="  a third more work,\nto see whether | it shows ")
    (plan,) = plans(arena)
    assert plan.why == "a third more work, to see whether | it shows"
    assert "why: a third more work, to see whether | it shows" in capsys.readouterr().out
    others, faster = history(arena).split("## Faster")
    assert r"a third more work, to see whether \| it shows" in others
    assert "`behaviour: fast → slow`" in others
    assert "source changed" not in others
    assert "None yet." in faster
    assert board.main(board.Arguments(results=arena.results, check=True)) == 0


def test_the_check_fails_when_the_history_was_edited(compared, arena, capsys):
    shutil.copytree(compared[0].results, arena.results)
    board.main(board.Arguments(results=arena.results))
    (arena.results / "NEGATIVE.md").write_text(history(arena).replace("less work", "more work"), "utf-8")
    assert board.main(board.Arguments(results=arena.results, check=True)) == 1
    assert "NEGATIVE.md does not agree with the journal" in capsys.readouterr().err


def test_a_faster_contestant_is_listed_with_its_reason(compared):
    others, faster = history(compared[0]).split("## Faster")
    assert "None yet." in others
    assert "less work" in faster


@pytest.mark.parametrize("why", ["", " \n", "\udcff"])
def test_an_empty_or_undecodable_reason_leaves_no_files(arena, why):
    with pytest.raises(UsageError, match="--why"):
        run_compare(arena, why=why)
    assert not arena.results.exists()


# -----------------------------------------------------------------------------
# interruptions


def interrupted(arena, number, at):
    """A comparison whose process gets a signal during attempt `at`; its exit status and standard error."""
    arena.behave(fast={"train": 9.0, "sleep": 1.0}, slow={"train": 12.0, "sleep": 1.0})
    process = arena.start("compare", "fast", "slow", "--pairs", "3", "--why", "a try", "--results", str(arena.results))
    give_up = time.monotonic() + 60
    while len(arena.calls()) < at:
        assert time.monotonic() < give_up
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    stderr = process.communicate(timeout=60)[1]
    arena.behave(fast={"train": 9.0}, slow={"train": 12.0})
    return process.returncode, stderr


@pytest.mark.slow
def test_after_ctrl_c_the_same_command_resumes_and_repeats_nothing(arena, capsys):
    status, stderr = interrupted(arena, signal.SIGINT, 3)
    assert status == 130
    assert "run the same command again to resume" in stderr
    assert len(arena.attempts()) == 3
    (plan,) = plans(arena)
    comparison = evaluate_comparison(plan, arena.journal.read()[0])
    assert (comparison.verdict, comparison.p_value) == ("not decided", None)
    assert "not finished: 3 of 6 attempts" in description_lines(comparison)
    with pytest.raises(UsageError, match="planned with 3 and is not finished"):
        run_compare(arena, pairs=10)
    assert run_compare(arena, pairs=3) == 0
    assert len(arena.calls()) == len(set(arena.calls())) == len(arena.attempts()) == 6
    assert len(plans(arena)) == 1
    assert "resuming" in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupted_comparison_resumes_with_the_reason_that_it_was_filed_with(arena, capsys):
    interrupted(arena, signal.SIGINT, 3)
    assert "no comparison is finished" in history(arena)
    assert run_compare(arena, pairs=3, why="an afterthought") == 0
    (plan,) = plans(arena)
    assert plan.why == "a try", "a line is never rewritten"
    assert "a try" in capsys.readouterr().err
    assert len(arena.calls()) == 6
    assert "an afterthought" not in history(arena)
    assert plan.id in history(arena)


@pytest.mark.slow
def test_after_kill_9_the_killed_attempt_counts_and_nothing_is_repeated(arena):
    status, _ = interrupted(arena, signal.SIGKILL, 3)
    assert status == -9
    run_compare(arena, pairs=3)
    runs = arena.attempts()
    assert len(arena.calls()) == len(set(arena.calls())) == len(runs) == 6
    assert len(plans(arena)) == 1


def test_an_interrupted_attempt_counts_if_it_had_begun_and_runs_again_if_not(arena, capsys, monkeypatch):
    original, ends = launcher.run_attempt, ["", "", "", "interrupted", "", "early"]  # after the yardstick, 2 pairs

    def run_attempt(task, journal, *options):
        end = ends.pop(0)
        if end == "early":
            raise launcher.NotBegun
        run, _ = original(task, journal, *options)
        if end:
            run = run.model_copy(update={"outcome": "interrupted"})
        return run, bool(end)

    monkeypatch.setattr(launcher, "run_attempt", run_attempt)
    resume = "of 4 attempts; run the same command again to resume"
    with pytest.raises(KeyboardInterrupt):
        run_compare(arena, pairs=2)
    charged = "attempt 3 was interrupted; it counts as not solved (charged 100 s by train)"
    assert capsys.readouterr().err.splitlines()[-2:] == [charged, f"interrupted after 3 {resume}"]
    ends[:] = ["early"]
    with pytest.raises(KeyboardInterrupt):
        run_compare(arena, pairs=2)
    assert capsys.readouterr().err.splitlines()[-1] == f"interrupted after 3 {resume}"
    ends[:] = [""]
    assert run_compare(arena, pairs=2) == 0
    assert len(arena.attempts()) == len(arena.calls()) == 4


def test_the_plan_is_a_line_of_json_without_paths(arena):
    run_compare(arena, pairs=1)
    (line,) = (arena.results / "agenda.jsonl").read_text().splitlines()
    assert str(arena.root) not in line
    assert json.loads(line)["schema"] == 1


def test_a_comparison_in_the_project_s_own_results_needs_a_reason(arena):
    with pytest.raises(UsageError, match=r"add --why .*, or --results DIR"):
        compare.main(compare.Arguments(a="fast", b="slow"))
    assert arena.calls() == []


def test_a_comparison_does_not_begin_when_its_result_could_not_be_filed(arena):
    (arena.results / "comparisons.jsonl").mkdir(parents=True)  # as a file that belongs to another user
    with pytest.raises(UsageError, match="cannot be written to"):
        run_compare(arena, "fast", "slow")
    assert arena.calls() == []


def test_a_contestant_against_itself_is_announced_as_a_test_of_the_noise(arena, capsys):
    run_compare(arena, "fast", "fast", pairs=1)
    assert "both sides are the same config and source" in capsys.readouterr().err
    run_compare(arena, "fast", "slow", pairs=1)
    assert "both sides" not in capsys.readouterr().err


def test_a_side_that_looks_at_the_test_problems_is_refused_before_it_starts(arena):
    arena.behave(slow={"train": 12.0, "settings": {"curves": True}})
    with pytest.raises(UsageError, match=r"slow: a run that looked at the test problems .* set curves to false"):
        run_compare(arena, "slow", "fast")
    assert arena.attempts() == []
