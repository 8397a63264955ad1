"""Attempts as processes: how they end, what is filed, and that no attempt runs twice."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.experiments import launcher
from bench.storage.journal import Journal
from bench.storage.schema import Batch
from tests.support.examples import example_run, example_seconds


def contestant(arena, config="fast"):
    return launcher.resolve_contestant(arena.script, ["--config", config])


def tasks(arena, num_attempts, config="fast", batch_id="batch"):
    resolved = contestant(arena, config)
    batches = [Batch(id=batch_id, command="speedrun", planned=num_attempts, index=i) for i in range(num_attempts)]
    return [launcher.Task(resolved, 30 + batch.index, batch) for batch in batches]


def run(arena, tasks_to_run):
    filed = []
    launcher.run_tasks(tasks_to_run, arena.journal, filed.append)
    return filed


def test_a_contestant_is_resolved_without_running_an_attempt(arena):
    planned = contestant(arena).planned
    assert (planned.config, planned.outcome, planned.settings["behaviour"]) == ("fast", "lost", "fast")
    assert arena.calls() == []


def test_the_message_of_a_contestant_that_refuses_is_the_error(arena):
    with pytest.raises(UsageError, match=r"^there is no such config 'faster'$"):
        contestant(arena, "faster")


def test_a_contestant_that_does_not_start_is_an_error(arena):
    arena.script.write_text("import nothing_of_that_name")
    with pytest.raises(UsageError, match="does not start: ModuleNotFoundError"):
        contestant(arena)


def test_attempts_run_in_order_and_are_filed_by_the_command(arena):
    filed = run(arena, tasks(arena, 3))
    assert [(one.seed, one.batch.index, one.outcome) for one in filed] == [
        (30, 0, "solved"),
        (31, 1, "solved"),
        (32, 2, "solved"),
    ]
    assert arena.attempts() == filed
    assert list(arena.journal.marks.glob("*.json")) == []


@pytest.mark.parametrize(("dies", "steps"), [("early", 700), ("late", 700)])
def test_an_attempt_that_is_killed_counts_as_lost(arena, dies, steps):
    arena.behave(dying={"dies": dies})
    (filed,) = run(arena, tasks(arena, 1, "dying"))
    assert arena.attempts() == [filed]
    assert (filed.outcome, filed.seed, filed.seconds.total) == ("lost", 30, None)


def test_an_attempt_that_fails_before_it_begins_is_an_error(arena):
    planned = tasks(arena, 1)
    arena.script.write_text("raise SystemExit(3)")
    (filed,) = run(arena, planned)
    assert filed.outcome == "error"
    assert filed.message == "the process ended with status 3 before it could begin"
    assert arena.attempts() == [filed]


def test_an_attempt_in_the_journal_is_not_repeated(arena):
    run(arena, tasks(arena, 4)[:2])
    filed = run(arena, tasks(arena, 4))
    assert [one.batch.index for one in filed] == [0, 1, 2, 3]
    assert len(arena.calls()) == len(arena.attempts()) == 4


def test_a_killed_attempt_is_not_repeated(arena):
    arena.behave(fast={"dies": "late"})
    run(arena, tasks(arena, 2)[:1])
    arena.behave(fast={"dies": None})
    assert [one.outcome for one in run(arena, tasks(arena, 2))] == ["lost", "solved"]


def test_an_attempt_that_outlived_its_command_is_collected_not_repeated(arena):
    """The command was killed, the attempt went on, and its start mark holds the finished run."""
    first, second = tasks(arena, 2)
    left = example_run(run_id="orphan", batch=first.batch, seed=first.seed)
    with arena.journal.attempt(left.model_copy(update={"outcome": "lost"})) as mark:
        mark.write(left)
    filed = run(arena, [first, second])
    assert [one.run_id == "orphan" for one in filed] == [True, False]
    assert arena.journal.recover() == []
    assert len(arena.attempts()) == 2


def test_two_commands_do_not_run_the_same_batch(arena):
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
            run(arena, planned)
    finally:
        other.communicate("\n")
    assert len(run(arena, planned)) == 1


def test_an_interrupt_ends_the_batch_and_files_the_current_attempt(arena, monkeypatch):
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
    filed = []
    with pytest.raises(KeyboardInterrupt):
        launcher.run_tasks(tasks(arena, 3), arena.journal, filed.append)
    assert [one.outcome for one in filed] == ["lost"]  # the fake trainer writes no run when it is stopped
    assert arena.attempts() == filed


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_attempt_receives_the_signal_that_interrupted_its_command(name):
    """The attempt files the signal's name: Ctrl-C on a matrix is no SIGTERM."""
    code = "import signal, sys; signal.signal(signal.SIGINT, lambda number, _: sys.exit(number));"
    code += "signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number)); print('on', flush=True); signal.pause()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"on\n"
    assert launcher.stop_process(process, signal.Signals[name]) == signal.Signals[name]


def test_an_attempt_that_is_interrupted_before_it_begins_is_not_filed_and_runs_again(arena):
    planned, script = tasks(arena, 1), arena.script.read_text()
    arena.script.write_text("raise SystemExit(130)")
    filed = []
    with pytest.raises(launcher.NotBegun):
        launcher.run_tasks(planned, arena.journal, filed.append)
    assert filed == arena.attempts() == []
    arena.script.write_text(script)
    (run,) = launcher.run_tasks(planned, arena.journal, filed.append)
    assert [run.outcome for run in arena.attempts()] == [run.outcome] == ["solved"]


def test_a_site_that_prints_does_not_disturb_the_answers_of_a_trainer(arena, tmp_path, monkeypatch):
    (tmp_path / "usercustomize.py").write_text("print('welcome')")
    (tmp_path / "sitecustomize.py").write_text("print('welcome')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    answers = launcher.resolve_contestants(arena.script, [["--config", "fast"], ["--config", "nosuch"]])
    assert [type(answer) for answer in answers] == [launcher.Contestant, launcher.Refusal]
    assert launcher.resolve_contestant(arena.script, ["--config", "fast"]).planned.config == "fast"


def test_an_attempt_that_ignores_interrupts_is_killed(monkeypatch):
    monkeypatch.setattr(launcher, "PATIENCE_SECONDS", 0.2)
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); print('on', flush=True); signal.pause()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"on\n"
    assert launcher.stop_process(process) == -signal.SIGKILL


def test_a_judged_attempt_gets_neither_results_nor_batch_but_the_weights_that_it_starts_from(tmp_path, monkeypatch):
    journal = Journal(tmp_path)
    first = example_run(run_id="first", weights="weights/first.safetensors")
    journal.append(first)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "first.safetensors").touch()
    commands = []
    monkeypatch.setattr("bench.experiments.judged.run_judged", lambda arguments, *_: commands.append(arguments))
    for init_from in (None, "first"):
        planned = example_run(judge="self", init_from=init_from)
        one = launcher.Contestant(Path("speedrun.py"), ("--init-from", "first"), planned)
        launcher.run_attempt(
            launcher.Task(one, 1, Batch(id="b", command="audit", planned=1, index=0), ("--x",)), journal
        )
    fresh = ["speedrun.py", "--init-from", "first", "--x"]
    assert commands == [fresh, [*fresh, "--init-from", str(tmp_path / "weights" / "first.safetensors")]]


# -----------------------------------------------------------------------------
# the outer clock

ANNOUNCING = """
import json, os, runpy, sys, time
pipe, written = os.environ.get("ADDITION_SPEEDRUN_PIPE"), {}
if pipe:
    for edge, seconds in (("setup", 0.1), ("warmup", 0.1), ("train", 0.3), ("certify", 0.1), ("stop", 0)):
        before = time.perf_counter()
        os.write(int(pipe), f"{edge}\\n".encode())
        written[edge] = before, time.perf_counter()
        time.sleep(seconds)
    with open(__file__.replace("speedrun.py", "written.json"), "w") as file:
        json.dump(written, file)
runpy.run_path(__file__.replace("speedrun.py", "fake.py"), run_name="__main__")
"""


def announcing(arena):
    """An attempt that notes the times before and after it announces each edge, and reports other seconds."""
    arena.script.rename(arena.root / "fake.py")
    arena.script.write_text(ANNOUNCING)
    (filed,) = run(arena, tasks(arena, 1))
    return filed


def test_each_edge_is_timed_by_the_clock_of_the_command(arena):
    filed = announcing(arena)
    outer, written = filed.outer_seconds, json.loads((arena.root / "written.json").read_text())
    late = 0.02 if sys.platform == "linux" else 1.0  # other systems stamp no messages
    for phase, following in (("setup", "warmup"), ("train", "certify")):
        least, most = written[following][0] - written[phase][1], written[following][1] - written[phase][0]
        assert least - late <= getattr(outer, phase) <= most + late
    assert outer.total == pytest.approx(
        sum(value for key, value in outer.model_dump().items() if key not in ("total", "wall"))
    )
    assert filed.seconds.wall >= outer.total


def test_a_run_whose_clock_disagrees_with_the_outer_clock_is_not_clean(arena):
    """The fake trainer reports about 9 s of `train`."""
    filed = announcing(arena)
    assert filed.machine.clean is False
    seconds = f"{filed.seconds.train:.3f} s inside, {filed.outer_seconds.train:.3f} s outside"
    assert f"the clocks disagree about train: {seconds}" in filed.machine.reasons


def test_a_run_whose_clocks_agree_stays_clean():
    inner = example_run().seconds.model_dump()
    left = example_run(machine={"class": "Example CPU", "clean": True, "reasons": []})
    task = launcher.Task(launcher.Contestant(Path(), (), left), 1, None)
    assert launcher.complete_run(task, inner, left).machine == left.machine
    outer = inner | {"train": inner["train"] * 1.05, "total": inner["total"] + inner["train"] * 0.05}
    assert launcher.complete_run(task, outer, left).machine.clean is False


def test_the_clocks_of_a_lost_attempt_are_not_compared():
    left = example_run(outcome="lost", seconds=dict.fromkeys(example_seconds()))
    outer = dict.fromkeys(example_seconds()) | {"import": 2.0}
    assert (
        launcher.complete_run(launcher.Task(launcher.Contestant(Path(), (), left), 1, None), outer, left).machine
        == left.machine
    )


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        ({"control": "permute"}, "set control to none"),
        ({"curves": True}, "set curves to false"),
        ({"track_settings.bits_per_byte": 0.0}, "(track_settings.bits_per_byte) never ranks; set it above 0"),
    ],
)
def test_settings_that_never_rank_are_refused_with_the_setting_to_change(settings, fix):
    with pytest.raises(UsageError) as refused:
        launcher.check_may_rank(example_run(settings=settings), "mine")
    assert str(refused.value).startswith("mine: ")
    assert str(refused.value).endswith(fix)
