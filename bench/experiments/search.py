"""A hyperparameter search by Optuna: one executor's part of a study, which several executors and processes may share.

A trial is one choice of settings. Its attempts run one after the other, on seeds that are the same for all trials and
that no record can draw. A trial is pruned when its ERT would exceed the best one even if all remaining attempts solved
the track at once, or by successive halving (Jamieson and Talwalkar, 2016). An attempt is given up at a check with more
errors than any solved attempt of the study had after half the time.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from bench.cli import print_progress
from bench.clock import ClockName
from bench.config import settings_text
from bench.errors import UsageError
from bench.experiments.executors import Executor, ExecutorLost
from bench.experiments.launcher import Contestant, Refusal, Task, supervised
from bench.experiments.matrix_file import Choice, options_of
from bench.experiments.matrix_results import FAILED, UNFINISHED, AttemptKey, attempt_key
from bench.experiments.search_log import SearchLog, held
from bench.experiments.search_space import SearchSpace, accepted, check_space
from bench.process_identity import ProcessIdentity, current_process, has_ended
from bench.provenance import config_hash
from bench.stats.expected_time import attempt_costs, expected_time_to_success
from bench.storage.journal import Journal, patience_seconds, remove_lock_file
from bench.storage.jsonl import file_lock, hold
from bench.storage.schema import TUNE, Batch, Check, Run, new_id

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

# Optuna is imported where it is used: it is an extra, and its import takes a second.

FIRST_SEED = 2**31  # the seeds of records are smaller
PROCESS = "process"  # attribute of a trial: the identity of the process that runs it
NEVER = 1e9  # seconds: the ERT reported to Optuna, which needs a finite value, when no attempt solved the track


def lowest_ert(runs: Sequence[Run], num_left: int, clock: ClockName) -> float:
    """The ERT if each of the remaining attempts solved the track in no time."""
    num_solved = num_left + sum(run.outcome == "solved" for run in runs)
    return sum(attempt_costs(runs, clock)) / num_solved if num_solved else float("inf")


class EarlyChecks:
    """The checks of the solved attempts, to recognise attempts that fall far behind them."""

    MIN_ATTEMPTS = 5  # solved ones; with fewer, no attempt is given up
    SLACK = 2.0  # an attempt may take this many times as long to the same number of errors

    def __init__(self) -> None:
        self.solved: list[list[tuple[float, int]]] = []  # of each attempt, (seconds of `train`, errors) of its checks

    def add(self, run: Run) -> None:
        checks = [(check.train_seconds, check.errors) for check in run.checks if check.errors is not None]
        if run.outcome == "solved" and checks:
            self.solved.append(checks)

    def is_hopeless(self, check: Check) -> bool:
        """Whether every solved attempt had fewer errors after half the time."""
        if len(self.solved) < self.MIN_ATTEMPTS or check.errors is None:
            return False
        limit = check.train_seconds / self.SLACK
        errors_then = [[errors for seconds, errors in checks if seconds <= limit] for checks in self.solved]
        return all(errors and errors[-1] < check.errors for errors in errors_then)


@dataclasses.dataclass(eq=False)
class Search:
    """Runs the trials of a study on one executor."""

    space: SearchSpace
    journal: Journal
    executor: Executor
    script: Path  # the trainer's
    options: list[str]  # of the trainer, for all trials: base config, device, limits
    num_trials: int  # finished ones, at which the study ends

    def __post_init__(self) -> None:
        if importlib.util.find_spec("optuna") is None:
            raise UsageError("tune needs Optuna: pip install '.[tune]'")
        self.space, self.planned = check_space(self.space, self.ask)
        self.seeds = range(FIRST_SEED, FIRST_SEED + self.space.attempts)
        self.folder = self.journal.results / TUNE
        self.folder.mkdir(parents=True, exist_ok=True)
        self.machine_class = self.planned.machine.class_
        self.study_name = self.make_study_name()
        self.study = self.open_study()
        self.start_lock = self.lock("turn")  # held while a process starts a trial
        self.known: dict[AttemptKey, Run] = {}
        self.early_checks = EarlyChecks()
        for run in self.journal.read()[0]:
            self.add_run(run)

    def make_study_name(self) -> str:
        """Trials are comparable, and belong to one study, only with the same source, machine, space, base and limit."""
        settings = {key: value for key, value in self.planned.settings.items() if key != "threads"}  # in the class
        space_text = self.space.path.read_text("utf-8-sig")
        parts = self.machine_class, config_hash(settings), self.planned.source_sha256[:12], space_text
        digest = hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()
        return f"{self.space.name} {digest[:8]}"

    def open_study(self) -> "Study":
        import optuna
        from optuna.storages import JournalStorage

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the sampler's `group` is experimental
        return optuna.create_study(
            study_name=self.study_name,
            storage=JournalStorage(SearchLog(self.folder / f"{self.space.name}.log")),
            sampler=optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True),
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=3),
            load_if_exists=True,
        )

    def resolve(self, values: Choice) -> Contestant:
        """The base with some settings changed; raises UsageError, UnavailableHere or ExecutorLost."""
        (answer,) = self.ask([values])
        return accepted(answer, self.space, values)

    def ask(self, choices: Sequence[Choice]) -> list[Contestant | Refusal]:
        """The trainer's answer for each choice of settings; raises UsageError or ExecutorLost."""
        try:
            return self.executor.resolve_all(self.script, [[*self.options, *options_of(values)] for values in choices])
        except UsageError:
            if self.executor.is_lost:
                raise ExecutorLost from None
            raise

    # -------------------------------------------------------------------------
    # trials

    def run(self, max_minutes: float | None) -> None:
        """Run trials until the study has enough of them, or the time is over.

        A trial that ends with KeyboardInterrupt or ExecutorLost is queued again.
        """
        import optuna

        self.requeue_abandoned_trials()
        process = current_process()
        end = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes
        while not self.is_over():
            if time.monotonic() > end:
                print_progress(f"{max_minutes:g} minutes are over")
                return
            with contextlib.ExitStack() as stack:
                with held(self.start_lock):
                    trial = self.study.ask()
                    trial.set_user_attr(PROCESS, process and dataclasses.asdict(process))
                    stack.enter_context(self.trial_lock(trial.number))
                try:
                    self.study.tell(trial, self.run_trial(trial))
                except (optuna.TrialPruned, UsageError) as problem:
                    if isinstance(problem, UsageError):  # a combination of settings that the trainer refuses
                        print_progress(f"trial {trial.number}  {problem}")
                    self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                except BaseException:
                    self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
                    self.study.enqueue_trial(trial.params)
                    raise

    def run_trial(self, trial: "Trial") -> float:
        """The ERT of the settings that a trial suggests; raises TrialPruned when they cannot be the best."""
        import optuna

        values, clock = self.space.suggest(trial), self.space.clock
        contestant, batch_id = self.resolve(values), new_id(f"{TUNE}-{self.space.name}")
        runs, ert, num_left = [], NEVER, len(self.seeds)
        print_progress(f"trial {trial.number}  {settings_text(values)}")
        with supervised(self.journal, batch_id):
            for index, seed in enumerate(self.seeds):
                batch = Batch(id=batch_id, command=TUNE, planned=len(self.seeds), index=index)
                runs.append(self.run_attempt(Task(contestant, seed, batch)))
                ert = min(NEVER, expected_time_to_success(runs, clock))
                trial.report(ert, step=index + 1)
                num_left = len(self.seeds) - index - 1
                if num_left and (lowest_ert(runs, num_left, clock) > self.best_ert() or trial.should_prune()):
                    break
        num_solved, ert_text = sum(run.outcome == "solved" for run in runs), "∞" if ert == NEVER else f"{ert:.2f} s"
        remark = "  pruned" if num_left else ""
        print_progress(f"trial {trial.number}  solved {num_solved}/{len(runs)}  ERT {clock} {ert_text}{remark}")
        if num_left:
            raise optuna.TrialPruned
        return ert

    def run_attempt(self, task: Task) -> Run:
        """Run an attempt, or return the same attempt's run from the journal."""
        key = attempt_key(task.contestant.planned)._replace(seed=task.seed)
        if key in self.known:
            return self.known[key]
        run, interrupted = self.executor.run_attempt(task, self.journal, is_hopeless=self.early_checks.is_hopeless)
        self.add_run(run)
        if interrupted:
            raise KeyboardInterrupt
        if self.executor.is_lost:  # the outcome says nothing about the settings
            raise ExecutorLost
        return run

    def add_run(self, run: Run) -> None:
        if run.command == TUNE and run.outcome not in UNFINISHED | FAILED:
            self.known[attempt_key(run)] = run
            self.early_checks.add(run)

    # -------------------------------------------------------------------------
    # the study

    def trials(self, *states: str) -> "list[FrozenTrial]":
        """The trials in these states; a trial is COMPLETE when it ran all of its attempts."""
        from optuna.trial import TrialState

        return self.study.get_trials(deepcopy=False, states=[TrialState[state] for state in states])

    def num_finished(self) -> int:
        return len(self.trials("COMPLETE", "PRUNED"))

    def is_over(self) -> bool:
        return self.num_finished() >= self.num_trials

    def best_ert(self) -> float:
        return min((trial.value for trial in self.trials("COMPLETE")), default=float("inf"))

    def lock(self, name: int | str) -> filelock.FileLock:
        return file_lock(self.folder / f"{self.study_name.replace(' ', '-')}-{name}.lock")

    @contextlib.contextmanager
    def trial_lock(self, trial_number: int) -> Iterator[None]:
        """Hold the lock that shows other processes that a trial is running."""
        lock = self.lock(trial_number)
        with hold(lock):
            yield
        remove_lock_file(lock)

    def requeue_abandoned_trials(self) -> None:
        """Queue the trials of processes that died; their finished attempts are in the journal.

        A free lock alone proves nothing; see `StartMark.final_line`.
        """
        from optuna.trial import TrialState

        with held(self.start_lock):  # so that every running trial holds its lock
            for trial in self.trials("RUNNING"):
                with contextlib.suppress(filelock.Timeout), hold(self.lock(trial.number), timeout=0):
                    if self.is_abandoned(trial):
                        self.study.tell(trial.number, state=TrialState.FAIL)
                        self.study.enqueue_trial(trial.params)

    def is_abandoned(self, trial: "FrozenTrial") -> bool:
        """Whether the process of a trial has ended; one that cannot be checked has its attempts' limits to finish."""
        process = trial.user_attrs.get(PROCESS)
        ended = None if process is None else has_ended(ProcessIdentity(**process))
        if ended is None and trial.datetime_start is not None:
            seconds = (datetime.now() - trial.datetime_start).total_seconds()
            return seconds > len(self.seeds) * patience_seconds(self.planned)
        return ended is not False

    def cost(self) -> dict[str, Any]:
        """The cost of all attempts of the study, whatever their outcome and process; filed with the best config."""
        runs = [
            run
            for run in self.journal.read()[0]
            if (run.source_sha256, run.machine.class_) == (self.planned.source_sha256, self.machine_class)
            and (batch := run.batch_of(TUNE)) is not None
            and batch.id.split("-", 2)[2].rpartition("-")[0] == f"{TUNE}-{self.space.name}"
        ]
        return {
            "study": self.study_name,
            "clock": self.space.clock,
            "trials": self.num_finished(),
            "attempts": len(runs),
            "seconds": round(sum(run.seconds.total or 0.0 for run in runs), 1),
            "flops": sum(run.train_flops or 0.0 for run in runs),
            "first_seed": FIRST_SEED,
            "seeds": self.space.attempts,
        }
