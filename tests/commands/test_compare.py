"""Comparisons as a user asks for them, with a trainer that only pretends; and what an interruption leaves."""

import json
import signal
import time

import pytest

from bench.commands import board, compare, show
from bench.errors import UsageError
from bench.experiments.comparison import description_lines, evaluate_comparison
from bench.report import leaderboard
from bench.storage.results import conclusions_file, paired_plans_file


def ask(arena, a="fast", b="slow", **changes):
    return compare.main(compare.Arguments(a=a, b=b, results=arena.results, **changes))


def agendas(arena):
    return paired_plans_file(arena.results).read()[0]


def test_the_last_line_is_the_verdict(arena, capsys):
    assert ask(arena, pairs=6) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "faster"
    assert ask(arena, "slow", "fast", pairs=6) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "slower"


def test_sides_that_are_alike_are_not_decided(arena, capsys):
    arena.behave(fast={"noise": 0.0}, same={"noise": 0.0})
    assert ask(arena, "fast", "same", pairs=6) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "not decided"


def test_a_comparison_is_shown_again_from_the_journal_alone(arena, capsys):
    ask(arena, pairs=6)
    told = capsys.readouterr().out
    (agenda,) = agendas(arena)
    assert show.main(show.Arguments(run=agenda.id, results=arena.results)) == 0
    assert capsys.readouterr().out == told
    comparison = evaluate_comparison(agenda, arena.journal.read()[0])
    assert conclusions_file(arena.results).read()[0] == [comparison.conclusion()]


def test_both_sides_of_a_pair_have_one_seed_and_the_order_within_it_is_drawn(arena):
    ask(arena, pairs=12)
    (agenda,) = agendas(arena)
    runs = arena.attempts()
    assert len(runs) == 24
    for index, (first, second) in enumerate(zip(runs[::2], runs[1::2], strict=True)):
        assert first.seed == second.seed == agenda.seeds[index]
        assert (first.batch.index, first.batch.side) == (index, agenda.first[index])
        assert {first.batch.side, second.batch.side} == {"a", "b"}
        assert {run.config for run in (first, second) if run.batch.side == "a"} == {"fast"}
    assert len(set(agenda.seeds)) == 12
    assert set(agenda.first) == {"a", "b"}  # the same for all has a chance of 1 in 2,048


def test_the_yardstick_runs_once_beside_it(arena):
    ask(arena, pairs=2)
    runs, _ = arena.journal.read()
    assert [run.command for run in runs] == ["yardstick", *["compare"] * 4]
    assert len({run.batch.id for run in runs}) == 1


def test_the_plan_is_written_before_the_first_attempt(arena):
    arena.behave(fast={"dies": "early"}, slow={"dies": "early"})
    ask(arena, pairs=1)
    (agenda,) = agendas(arena)
    assert agenda.started_at <= min(run.started_at for run in arena.attempts())
    assert agenda.pairs == 1


def test_every_comparison_has_its_number_in_the_series_against_one_opponent(arena, capsys):
    arena.behave(other={"train": 9.5})
    for a, b in (("fast", "slow"), ("other", "slow"), ("fast", "other"), ("fast", "slow")):
        ask(arena, a, b, pairs=1)
    assert [agenda.number for agenda in agendas(arena)] == [1, 2, 1, 3]
    assert "comparison number 3 against this opponent" in capsys.readouterr().out
    first, _, _, again = agendas(arena)
    assert first.seeds != again.seeds, "a new comparison has seeds of its own"


def test_fewer_than_six_pairs_decide_nothing(arena, capsys):
    ask(arena, pairs=5)
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == "not decided"
    assert "fewer than 6 pairs cannot decide anything" in shown
    assert "Undecided. Try --pairs " in shown


def test_misses_and_killed_attempts_count(arena, capsys):
    arena.behave(unsure={"train": 5.0, "solves": 0.25}, dying={"train": 9.0, "dies": "late"})
    ask(arena, "unsure", "slow", pairs=6)
    assert capsys.readouterr().out.splitlines()[-1] != "faster"
    ask(arena, "slow", "dying", pairs=6)
    assert capsys.readouterr().out.splitlines()[-1] == "faster"


def test_the_board_tells_the_comparison_and_does_not_rank_its_attempts(arena):
    ask(arena, pairs=6)
    (agenda,) = agendas(arena)
    text = (arena.results / "LEADERBOARD.md").read_text()
    assert agenda.id in text
    assert "faster" in text
    assert "No batch yet." in text
    assert leaderboard.render(leaderboard.FiledResults(arena.journal.read()[0])).count("10/10") == 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pairs": 0}, "--pairs 0"),
        ({"a": "faster"}, "'faster'"),
        ({"b": "no/such/record"}, "'no/such/record'"),
    ],
)
def test_a_wrong_request_is_refused_and_leaves_nothing(arena, changes, told):
    with pytest.raises(UsageError, match=told):
        ask(arena, **changes)
    assert not arena.results.exists()


# -----------------------------------------------------------------------------
# what was tried, and why


def tried(arena):
    return (arena.results / "NEGATIVE.md").read_text("utf-8")


def test_the_reason_is_filed_before_the_first_attempt_and_told_again_with_the_verdict(arena, capsys):
    ask(arena, "slow", "fast", pairs=6, why="  a third more work,\nto see whether | it shows ")
    (agenda,) = agendas(arena)
    assert agenda.why == "a third more work, to see whether | it shows"
    assert "why: a third more work, to see whether | it shows" in capsys.readouterr().out
    others, faster = tried(arena).split("## Faster")
    assert r"a third more work, to see whether \| it shows" in others
    assert "`behaviour: fast → slow`" in others
    assert "source changed" not in others
    assert "None yet." in faster
    assert board.main(board.Arguments(results=arena.results, check=True)) == 0


def test_the_check_fails_when_the_history_was_written_by_hand(arena, capsys):
    ask(arena, "slow", "fast", pairs=6, why="more work")
    board.main(board.Arguments(results=arena.results))
    (arena.results / "NEGATIVE.md").write_text(tried(arena).replace("slower", "faster"), "utf-8")
    assert board.main(board.Arguments(results=arena.results, check=True)) == 1
    assert "NEGATIVE.md does not say what the journal says" in capsys.readouterr().err


def test_what_was_faster_is_told_with_its_reason(arena):
    ask(arena, pairs=6, why="less work")
    others, faster = tried(arena).split("## Faster")
    assert "None yet." in others
    assert "less work" in faster


@pytest.mark.parametrize("why", ["", " \n", "\udcff"])
def test_a_reason_that_cannot_be_filed_is_refused_and_leaves_nothing(arena, why):
    with pytest.raises(UsageError, match="--why"):
        ask(arena, why=why)
    assert not arena.results.exists()


# -----------------------------------------------------------------------------
# interruptions


def interrupted(arena, number, at):
    """A comparison whose process gets a signal during attempt `at`; its exit status and standard error."""
    arena.behave(fast={"train": 9.0, "sleep": 0.4}, slow={"train": 12.0, "sleep": 0.4})
    process = arena.start("compare", "fast", "slow", "--pairs", "3", "--results", str(arena.results))
    give_up = time.monotonic() + 60
    while len(arena.calls()) < at:
        assert time.monotonic() < give_up
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    arena.behave(fast={"train": 9.0}, slow={"train": 12.0})
    return process.returncode, said


@pytest.mark.slow
def test_after_ctrl_c_the_same_command_goes_on_and_repeats_nothing(arena, capsys):
    status, said = interrupted(arena, signal.SIGINT, 3)
    assert status == 130
    assert "run the same command again to resume" in said
    assert len(arena.attempts()) == 3
    (agenda,) = agendas(arena)
    comparison = evaluate_comparison(agenda, arena.journal.read()[0])
    assert (comparison.verdict, comparison.p_value) == ("not decided", None)
    assert "not finished: 3 of 6 attempts" in description_lines(comparison)
    with pytest.raises(UsageError, match="planned with 3 and is not finished"):
        ask(arena, pairs=10)
    assert ask(arena, pairs=3) == 0
    assert len(arena.calls()) == len(set(arena.calls())) == len(arena.attempts()) == 6
    assert len(agendas(arena)) == 1
    assert "resuming" in capsys.readouterr().err


@pytest.mark.slow
def test_a_broken_off_comparison_goes_on_whatever_is_said_of_the_reason_now(arena, capsys):
    interrupted(arena, signal.SIGINT, 3)
    assert "no comparison has come to its end" in tried(arena)
    assert ask(arena, pairs=3, why="an afterthought") == 0
    (agenda,) = agendas(arena)
    assert agenda.why is None, "a line is never rewritten"
    assert "was filed with no --why, which is kept" in capsys.readouterr().err
    assert len(arena.calls()) == 6
    assert "an afterthought" not in tried(arena)
    assert agenda.id in tried(arena)


@pytest.mark.slow
def test_after_kill_9_the_attempt_under_way_counts_and_nothing_is_repeated(arena):
    status, _ = interrupted(arena, signal.SIGKILL, 3)
    assert status == -9
    ask(arena, pairs=3)
    runs = arena.attempts()
    assert len(arena.calls()) == len(set(arena.calls())) == len(runs) == 6
    assert len(agendas(arena)) == 1


def test_the_agenda_is_a_line_of_json_with_units_and_no_paths(arena):
    ask(arena, pairs=1)
    (line,) = (arena.results / "agenda.jsonl").read_text().splitlines()
    assert str(arena.root) not in line
    assert json.loads(line)["schema"] == 1
