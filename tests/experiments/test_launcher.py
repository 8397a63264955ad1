"""Attempts as processes: what is heard of them, what becomes of them, and what is not done twice."""

import os
import signal
import subprocess
import sys

import pytest

from bench.cli import without_option
from bench.errors import UsageError
from bench.experiments import launcher
from bench.storage.schema import Batch
from tests.support.examples import example_run, example_seconds


def contestant(arena, config="fast"):
    return launcher.resolve_contestant(arena.script, ["--config", config])


def tasks(arena, num_attempts, config="fast", batch_id="batch"):
    asked = contestant(arena, config)
    batches = [Batch(id=batch_id, command="speedrun", planned=num_attempts, index=i) for i in range(num_attempts)]
    return [launcher.Task(asked, 30 + batch.index, batch) for batch in batches]


def carry_out(arena, planned):
    heard = []
    launcher.run_tasks(planned, arena.journal, heard.append)
    return heard


def test_a_contestant_says_what_it_would_do(arena):
    planned = contestant(arena).planned
    assert (planned.config, planned.outcome, planned.settings["behaviour"]) == ("fast", "lost", "fast")
    assert arena.calls() == []


def test_a_contestant_that_refuses_is_a_wrong_request_in_its_own_words(arena):
    with pytest.raises(UsageError, match=r"^there is no such config 'faster'$"):
        contestant(arena, "faster")


def test_a_contestant_that_does_not_start_is_a_wrong_request(arena):
    arena.script.write_text("import nothing_of_that_name")
    with pytest.raises(UsageError, match="does not start: ModuleNotFoundError"):
        contestant(arena)


def test_attempts_are_made_in_order_and_filed_by_the_command(arena):
    heard = carry_out(arena, tasks(arena, 3))
    assert [(one.seed, one.batch.index, one.outcome) for one in heard] == [
        (30, 0, "solved"),
        (31, 1, "solved"),
        (32, 2, "solved"),
    ]
    assert arena.attempts() == heard
    assert list(arena.journal.marks.glob("*.json")) == []


@pytest.mark.parametrize(("dies", "steps"), [("early", 700), ("late", 700)])
def test_an_attempt_that_is_killed_counts_as_lost(arena, dies, steps):
    arena.behave(dying={"dies": dies})
    (found,) = carry_out(arena, tasks(arena, 1, "dying"))
    assert arena.attempts() == [found]
    assert (found.outcome, found.seed, found.seconds.total) == ("lost", 30, None)


def test_an_attempt_that_fails_before_it_begins_is_an_error(arena):
    planned = tasks(arena, 1)
    arena.script.write_text("raise SystemExit(3)")
    (found,) = carry_out(arena, planned)
    assert found.outcome == "error"
    assert found.message == "the process ended with status 3 before it could begin"
    assert arena.attempts() == [found]


def test_what_the_journal_has_is_not_repeated(arena):
    carry_out(arena, tasks(arena, 4)[:2])
    heard = carry_out(arena, tasks(arena, 4))
    assert [one.batch.index for one in heard] == [0, 1, 2, 3]
    assert len(arena.calls()) == len(arena.attempts()) == 4


def test_a_killed_attempt_is_not_made_again(arena):
    arena.behave(fast={"dies": "late"})
    carry_out(arena, tasks(arena, 2)[:1])
    arena.behave(fast={"dies": None})
    assert [one.outcome for one in carry_out(arena, tasks(arena, 2))] == ["lost", "solved"]


def test_an_attempt_that_its_command_left_behind_is_collected_not_repeated(arena):
    """The command was killed, the attempt went on: its finished line still lies in its mark."""
    first, second = tasks(arena, 2)
    left = example_run(run_id="orphan", batch=first.batch, seed=first.seed)
    with arena.journal.attempt(left.model_copy(update={"outcome": "lost"})) as mark:
        mark.write(left)
    heard = carry_out(arena, [first, second])
    assert [one.run_id == "orphan" for one in heard] == [True, False]
    assert arena.journal.recover() == []
    assert len(arena.attempts()) == 2


def test_two_commands_do_not_carry_out_one_batch(arena):
    planned = tasks(arena, 1)
    code = "import sys; from pathlib import Path; from bench.storage.journal import Journal\n"
    code += "with Journal(Path(sys.argv[1])).supervise('batch'): print('here', flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(arena.results)],
        cwd=arena.root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout.readline() == "here\n"
        with pytest.raises(UsageError, match="another process"):
            carry_out(arena, planned)
    finally:
        other.communicate("\n")
    assert len(carry_out(arena, planned)) == 1


def test_an_interrupt_ends_the_batch_and_files_the_attempt_under_way(arena, monkeypatch):
    arena.behave(fast={"sleep": 30.0})
    wait, waits = subprocess.Popen.wait, []

    def interrupted(self, timeout=None):
        if self.args[0] == sys.executable and "--seed" in self.args and not waits:
            waits.append(timeout)
            while not arena.calls():
                pass
            raise KeyboardInterrupt
        return wait(self, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    heard = []
    with pytest.raises(KeyboardInterrupt):
        launcher.run_tasks(tasks(arena, 3), arena.journal, heard.append)
    assert [one.outcome for one in heard] == ["lost"]  # the pretender does not file itself when told to stop
    assert arena.attempts() == heard


def test_an_attempt_that_does_not_stop_when_told_to_is_killed(monkeypatch):
    monkeypatch.setattr(launcher, "PATIENCE_SECONDS", 0.2)
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); signal.pause()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "on\n"
    assert launcher.stop_process(process) == -signal.SIGKILL


# -----------------------------------------------------------------------------
# the outer clock

ANNOUNCING = """
import os, runpy, sys, time
pipe = os.environ.get("ADDITION_SPEEDRUN_PIPE")
if pipe:
    for edge, seconds in (("setup", 0.1), ("warmup", 0.1), ("train", 0.3), ("certify", 0.1), ("stop", 0)):
        os.write(int(pipe), f"{edge}\\n".encode())
        time.sleep(seconds)
runpy.run_path(__file__.replace("speedrun.py", "pretender.py"), run_name="__main__")
"""


def announcing(arena):
    """The one attempt of a trainer that crosses its edges in a known time, and tells other seconds of itself."""
    arena.script.rename(arena.root / "pretender.py")
    arena.script.write_text(ANNOUNCING)
    (found,) = carry_out(arena, tasks(arena, 1))
    return found


def test_the_command_stamps_each_edge_with_its_own_clock(arena):
    outer = announcing(arena).outer_seconds
    assert 0.1 <= outer.setup < 0.3
    assert 0.3 <= outer.train < 0.5
    assert outer.total == pytest.approx(sum(value for key, value in outer.model_dump().items() if key != "total"))


def test_a_run_whose_clock_disagrees_with_the_command_s_is_marked(arena):
    """The pretender claims about 9 s of `train`."""
    found = announcing(arena)
    assert found.machine.clean is False
    claimed = f"the clocks disagree about train: {found.seconds.train:.3f} s inside, 0.3"
    assert any(reason.startswith(claimed) for reason in found.machine.reasons)


def test_a_run_is_marked_for_the_clocks_only_when_they_disagree():
    inner = example_run().seconds.model_dump()
    left = example_run(machine={"class": "Example CPU", "clean": True, "reasons": []})
    task = launcher.Task(launcher.Contestant("", (), left), 1, None)
    assert launcher.complete_run(left, task, inner).machine == left.machine
    outer = inner | {"train": inner["train"] * 1.05, "total": inner["total"] + inner["train"] * 0.05}
    assert launcher.complete_run(left, task, outer).machine.clean is False


def test_a_lost_attempt_is_not_blamed_for_its_clock():
    left = example_run(outcome="lost", seconds=dict.fromkeys(example_seconds()))
    outer = dict.fromkeys(example_seconds()) | {"import": 2.0}
    assert (
        launcher.complete_run(left, launcher.Task(launcher.Contestant("", (), left), 1, None), outer).machine
        == left.machine
    )


def test_an_attempt_does_not_inherit_what_its_command_was_told_as_an_attempt(monkeypatch):
    monkeypatch.setenv(launcher.BATCH_VARIABLE, "mine")
    assert launcher.BATCH_VARIABLE not in launcher.child_environment({})
    assert launcher.child_environment({launcher.BATCH_VARIABLE: "theirs"})[launcher.BATCH_VARIABLE] == "theirs"
    assert launcher.child_environment({})["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize("given", [["--a", "1", "--attempts", "3", "--b"], ["--a", "1", "--attempts=3", "--b"]])
def test_an_attempt_is_not_asked_for_a_batch(given):
    assert without_option(given, "--attempts") == ["--a", "1", "--b"]
