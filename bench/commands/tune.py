"""`python -m bench tune SPACE`: a search by Optuna for the settings with the lowest ERT; what it costs is kept.

A trial is one choice of settings. It makes attempts one after the other, on seeds that every trial has and no record
can draw, and is given up as soon as it is out of the race: when even success in all that is left would leave its ERT
above the best one's, or when successive halving says so (Jamieson and Talwalkar, 2016). An attempt is given up at a
check that finds more mistakes than any solved attempt of the search had left after half the time.
"""

import contextlib
import dataclasses
import hashlib
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import filelock
import tyro

from bench.cli import EXIT_INTERRUPTED, check_positive, handle_interrupts, print_progress, reject_unwritable
from bench.clock import ClockName
from bench.config import SEARCH, find_config, merged_values
from bench.errors import UnavailableHere, UsageError
from bench.experiments.executors import (
    EXIT_UNFINISHED,
    EngineName,
    Executor,
    ExecutorLost,
    group_by_machine_class,
    open_executors,
    run_jobs,
)
from bench.experiments.launcher import SCRIPT, Contestant, Refusal, Task, supervised
from bench.experiments.matrix_file import Choice, options_of, settings_text
from bench.experiments.matrix_results import FAILED, UNFINISHED, AttemptKey
from bench.experiments.search_space import SPACES, SearchSpace, read_search_space
from bench.experiments.toml_file import find_file
from bench.formatting import number, search_text
from bench.provenance import ROOT, config_hash
from bench.stats.expected_time import attempt_costs, expected_time_to_success
from bench.storage.journal import Journal
from bench.storage.jsonl import replace_file
from bench.storage.schema import TUNE, Batch, Check, Run, new_id

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

# Optuna is imported where it is used: it is an extra, and takes a second.

FIRST_SEED = 2**31  # a record's seeds lie below
NEVER = 1e9  # seconds: an ERT without a success, for samplers that want a number


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Search a space of settings for the lowest ERT, and write the best as a config with the search's whole cost.

    The same command goes on where it stopped; started several times, its processes share one study, each attempt
    holding its device. `CUDA_VISIBLE_DEVICES` gives each its own GPU.
    """

    space: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SPACE")]
    """A TOML file, or the name of one in bench/spaces."""
    trials: int = 50
    """Choices of settings that the study is to have tried in the end."""
    max_seconds: float | None = None
    """Limit on `train` of each attempt, seconds."""
    max_minutes: float | None = None
    """Begin no trial after so many minutes; the same command goes on."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    engine: EngineName = "local"
    """Where attempts are made: in processes of this machine, or on all nodes of a Ray cluster."""
    address: str | None = None
    """Of a running Ray cluster; without it, one of this machine alone is started."""
    results: Path = ROOT / "results"
    """The folder of the journal and the study."""


def main(arguments: Arguments) -> int:
    space = read_search_space(find_file(arguments.space, SPACES))
    check_positive(arguments, "trials", "max_seconds", "max_minutes")
    handle_interrupts()
    with open_executors(arguments.engine, arguments.address, SCRIPT) as places:
        with reject_unwritable(arguments.results):
            journal = Journal(arguments.results)
            journal.recover()
            journal.collect_left(TUNE)
            searches = find_searches(space, arguments, journal, places)
        classes = {search.place: search.planned.machine.class_ for search in searches}
        studies = {}  # one for each machine class, and the first of its searches speaks for it
        for index, group in enumerate(group_by_machine_class(classes), start=1):
            members = [search for search in searches if search.place in group]
            studies[members[0]] = f"{space.name}-{index}" if len(set(classes.values())) > 1 else space.name
        jobs = {search.place: iter([search]) for search in searches}
        try:
            interrupted = run_jobs(jobs, lambda place, search: search.run(), print_progress)
        finally:
            for search, stem in studies.items():
                search.report(stem)
        if interrupted:
            print_progress("interrupted; the same command goes on")
            return EXIT_INTERRUPTED
        is_cut_short = any(place.is_lost for place in places) and not all(search.is_over() for search in studies)
        return EXIT_UNFINISHED if is_cut_short else 0


def find_searches(
    space: SearchSpace, arguments: Arguments, journal: Journal, places: Sequence[Executor]
) -> "list[Search]":
    """One for each place that can run the base; raises WrongRequest when none can."""
    searches, problems = [], []
    for place in places:
        try:
            searches.append(Search(space, arguments, journal, place))
        except (UnavailableHere, ExecutorLost) as problem:
            problems.append(f"{place.name} is left out: {problem or 'it was lost'}")
    if not searches:
        raise UsageError("; ".join(problems))
    for line in problems:
        print_progress(line)
    return searches


# -----------------------------------------------------------------------------
# the race


def lowest_ert(runs: Sequence[Run], left: int, clock: ClockName) -> float:
    """The ERT if every attempt that is left solved the track in no time."""
    solved = left + sum(run.outcome == "solved" for run in runs)
    return sum(attempt_costs(runs, clock)) / solved if solved else float("inf")


class EarlyChecks:
    """How many mistakes the attempts that solved the track still had, by the seconds of `train`."""

    FROM = 5  # solved attempts; fewer say little
    SLACK = 2.0  # times as long an attempt may take for the same

    def __init__(self) -> None:
        self.solved: list[list[Check]] = []

    def learn(self, run: Run) -> None:
        checks = [check for check in run.checks if check.errors is not None]
        if run.outcome == "solved" and checks:
            self.solved.append(checks)

    def is_hopeless(self, check: Check) -> bool:
        """Whether none of them had as many mistakes left after half the time."""
        if len(self.solved) < self.FROM or check.errors is None:
            return False
        seconds = check.train_seconds / self.SLACK
        for checks in self.solved:
            before = [known.errors for known in checks if known.train_seconds <= seconds]
            if not before or before[-1] >= check.errors:
                return False
        return True


# -----------------------------------------------------------------------------
# the search


class Search:
    """What one place does for a study, which several may share."""

    def __init__(self, space: SearchSpace, arguments: Arguments, journal: Journal, place: Executor) -> None:
        try:
            import optuna
        except ImportError:
            raise UsageError("tune needs Optuna: pip install '.[tune]'") from None
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        self.space, self.arguments, self.journal, self.place = space, arguments, journal, place
        self.common = ["--config", space.base, "--device", arguments.device]
        self.common += [] if arguments.max_seconds is None else ["--max-seconds", str(arguments.max_seconds)]
        self.planned = self.ask({}).planned  # raises what is wrong before anything is begun
        self.seeds = range(FIRST_SEED, FIRST_SEED + space.attempts)
        self.folder = journal.results / TUNE
        self.folder.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of the sampler's `group`
        # What is compared must be comparable: another source, machine, space, base or limit is another study.
        settings = {
            key: value for key, value in self.planned.settings.items() if key != "threads"
        }  # the class has them
        base = config_hash(settings), self.planned.source_sha256[:12]
        clashing = self.planned.machine.class_, *base, space.path.read_text("utf-8-sig")
        self.study_name = f"{space.name} {new_name(*map(str, clashing))}"
        self.study: Study = optuna.create_study(
            study_name=self.study_name,
            storage=JournalStorage(JournalFileBackend(str(self.folder / f"{space.name}.log"))),
            sampler=optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True),
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=3),
            load_if_exists=True,
        )
        self.turn = self.lock("turn")
        self.known: dict[AttemptKey, Run] = {}
        self.checks = EarlyChecks()
        for run in journal.read()[0]:
            self.learn(run)

    def learn(self, run: Run) -> None:
        if run.batch is not None and run.batch.command == TUNE and run.outcome not in UNFINISHED | FAILED:
            self.known[AttemptKey(run.config_hash, run.source_sha256, run.machine.class_, run.seed)] = run
            self.checks.learn(run)

    def ask(self, values: Choice) -> Contestant:
        """Raises UsageError: the trainer refuses these settings; ExecutorLost: nobody answered."""
        try:
            (answer,) = self.place.resolve_all(SCRIPT, [[*self.common, *options_of(values)]])
        except UsageError:
            if self.place.is_lost:
                raise ExecutorLost from None
            raise
        if isinstance(answer, Refusal):
            raise (UnavailableHere if answer.not_here else UsageError)(
                f"{self.space.path}: {settings_text(values)}: {answer.reason}"
            )
        return answer

    # -------------------------------------------------------------------------
    # trials

    def run(self) -> None:
        """Try what the study suggests until it has as many trials as asked for, or time is up.

        Raises:
            KeyboardInterrupt: this process was interrupted.
            ExecutorLost: in the middle of a trial, which somebody else goes on with.
        """
        import optuna

        self.take_over()
        began, limit = time.monotonic(), self.arguments.max_minutes
        while not self.is_over():
            if limit is not None and time.monotonic() - began > 60 * limit:
                print_progress(f"{limit:g} minutes are over")
                return
            with contextlib.ExitStack() as stack:
                with self.turn:
                    trial = self.study.ask()
                    stack.enter_context(self.alive(trial.number))
                try:
                    ert = self.attempt_all(trial)
                    self.study.tell(trial, ert)
                except optuna.TrialPruned:
                    self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                except UsageError as problem:  # settings that do not go together
                    print_progress(f"trial {trial.number}  {problem}")
                    self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                except BaseException:
                    self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
                    self.study.enqueue_trial(trial.params)  # somebody goes on with it
                    raise

    def is_over(self) -> bool:
        return len(self.ended()) >= self.arguments.trials

    def ended(self) -> "list[FrozenTrial]":
        from optuna.trial import TrialState

        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))

    @contextlib.contextmanager
    def alive(self, trial: int) -> Iterator[None]:
        """Hold what shows the other processes that a trial has somebody."""
        lock = self.lock(trial)
        with lock:
            yield
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink(missing_ok=True)

    def lock(self, what: int | str) -> filelock.FileLock:
        """Of a trial by its number, or of whose turn it is to begin one."""
        return filelock.FileLock(self.folder / f"{self.study_name.replace(' ', '-')}-{what}.lock")

    def take_over(self) -> None:
        """Try again what a process that died was at; its finished attempts are in the journal."""
        from optuna.trial import TrialState

        with self.turn:  # in which no trial is without its lock
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                with contextlib.suppress(filelock.Timeout), self.lock(trial.number).acquire(timeout=0):
                    self.study.tell(trial.number, state=TrialState.FAIL)
                    self.study.enqueue_trial(trial.params)

    def attempt_all(self, trial: "Trial") -> float:
        """The ERT of the settings that a trial suggests.

        Raises:
            TrialPruned: they are out of the race.
        """
        import optuna

        values = self.space.suggest(trial)
        contestant, runs, batch_id = self.ask(values), [], new_id(f"tune-{self.space.name}")
        print_progress(f"trial {trial.number}  {settings_text(values)}")
        with supervised(self.journal, batch_id):
            for index, seed in enumerate(self.seeds):
                batch = Batch(id=batch_id, command=TUNE, planned=len(self.seeds), index=index)
                runs.append(self.attempt(Task(contestant, seed, batch)))
                trial.report(min(NEVER, expected_time_to_success(runs, self.space.clock)), step=index + 1)
                left, best = len(self.seeds) - index - 1, self.best_ert()
                if left and (lowest_ert(runs, left, self.space.clock) > best or trial.should_prune()):
                    self.say(trial.number, runs, "out of the race")
                    raise optuna.TrialPruned
        self.say(trial.number, runs, "")
        return min(NEVER, expected_time_to_success(runs, self.space.clock))

    def best_ert(self) -> float:
        from optuna.trial import TrialState

        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return min((trial.value for trial in complete), default=float("inf"))

    def attempt(self, task: Task) -> Run:
        """One attempt, or what the journal has of the same.

        Raises:
            KeyboardInterrupt: this process was interrupted.
            ExecutorLost: which says nothing of the settings.
        """
        planned = task.contestant.planned
        key = AttemptKey(planned.config_hash, planned.source_sha256, planned.machine.class_, task.seed)
        if key in self.known:
            return self.known[key]
        run, interrupted = self.place.run_attempt(task, self.journal, is_hopeless=self.checks.is_hopeless)
        self.learn(run)
        if interrupted:
            raise KeyboardInterrupt
        if self.place.is_lost:
            raise ExecutorLost
        return run

    def say(self, trial: int, runs: Sequence[Run], remark: str) -> None:
        solved, ert = sum(run.outcome == "solved" for run in runs), expected_time_to_success(runs, self.space.clock)
        line = f"trial {trial}  solved {solved}/{len(runs)}  ERT {self.space.clock} {number(ert, '.2f')} s  {remark}"
        print_progress(line.rstrip())

    # -------------------------------------------------------------------------
    # what it has come to

    def cost(self) -> dict[str, Any]:
        """All that the study's attempts took, whatever became of them; by every process, also those that died."""
        hashes = {self.planned.source_sha256}
        runs = [
            run
            for run in self.journal.read()[0]
            if run.batch is not None
            and run.batch.command == TUNE
            and run.batch.id.split("-", 2)[2].rpartition("-")[0] == f"tune-{self.space.name}"
            and run.source_sha256 in hashes
            and run.machine.class_ == self.planned.machine.class_
        ]
        known = [run.seconds.total for run in runs if run.seconds.total is not None]
        return {
            "study": self.study_name,
            "clock": self.space.clock,
            "trials": len(self.ended()),
            "attempts": len(runs),
            "seconds": round(sum(known), 1),
            "flops": float(sum(run.train_flops or 0.0 for run in runs)),
            "first_seed": FIRST_SEED,
            "seeds": self.space.attempts,
        }

    def report(self, stem: str) -> None:
        """The best trial on standard output, and as a config of this name with what it took to find it."""
        from optuna.trial import TrialState

        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        solved = [trial for trial in complete if trial.value < NEVER]
        cost = self.cost()
        print(search_text(cost))
        if not solved:
            print("no trial has solved the track yet")
            return
        best = min(solved, key=lambda trial: trial.value)
        path = self.folder / f"{stem}.toml"
        replace_file(path, self.config_text(best, cost))
        print(f"best: trial {best.number}, ERT {self.space.clock} {best.value:.2f} s: {settings_text(best.params)}")
        print(path)

    def config_text(self, best: "FrozenTrial", cost: Mapping[str, Any]) -> str:
        """The base's values with the trial's over them, and the search as a table that every run of it carries."""
        import tomli_w

        values = merged_values(find_config(self.space.base, self.planned.device)[1]) | best.params
        values.pop(SEARCH, None)
        head = (
            f"# Found by a search of {self.space.path.name} from {self.space.base}: trial {best.number} of "
            f"{cost['trials']}, ERT {self.space.clock} {best.value:.2f} s\n"
            f"# over {self.space.attempts} seeds on {self.planned.machine.class_}.\n"
        )
        return head + tomli_w.dumps({**values, SEARCH: dict(cost)})


def new_name(*parts: str) -> str:
    """A short name that follows from the parts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
