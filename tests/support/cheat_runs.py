"""Attempts of changed copies of the project under the judge, as a command starts them, and audits of such attempts."""

import dataclasses
import threading
from collections.abc import Callable, Collection
from pathlib import Path

import tomli_w

from bench.attempt.lifecycle import lost_run
from bench.attempt.plan import make_plan
from bench.audit.checks import CHECKS, CheckResult, run_checks
from bench.audit.session import Audit, assemble
from bench.audit.target import AuditTarget
from bench.experiments.launcher import Contestant, Task, run_attempt
from bench.storage.journal import Journal
from bench.storage.schema import AUDIT, Batch, Run
from settings import Settings
from tests.support import cheats

SEED = 7
PLANNING = threading.Lock()  # tyro parses one command line at a time


@dataclasses.dataclass(frozen=True)
class Contest:
    """A changed copy of the project, and a folder of results of its own."""

    contestant: Contestant
    folder: Path

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def source(self) -> Path:
        return self.contestant.script.parent

    def attempt(self, index: int = 0, relabelling: int | None = None) -> Run:
        """One attempt from the copy; with `relabelling` an altered one, as each record has some."""
        command = "speedrun" if relabelling is None else AUDIT
        batch = Batch(id="contest", command=command, planned=10, index=index)
        task = Task(self.contestant, SEED, batch, relabelling=relabelling)
        return run_attempt(task, Journal(self.results), quietly=True)[0]

    def audit(self, run: Run, checks: Collection[str]) -> dict[str, CheckResult]:
        """Audit a run that has kept its weights."""
        assert run.weights is not None
        assembled = self.folder / "assembled"
        assembled.mkdir()
        target = AuditTarget(run.run_id, run, self.results / run.weights, run.weights_sha256, self.source)
        audit = Audit(target, assembled, self.results, ["--shared"])
        if tuple(checks) != tuple(CHECKS):  # resolving the contestant takes two seconds; the honest one has all checks
            assemble(self.source, assembled)
            script = assembled / "speedrun.py"
            audit.contestant = dataclasses.replace(self.contestant, script=script, planned=run)
        return run_checks(audit, checks)


def make_contest(change: Callable[[Path], None], settings: dict, folder: Path) -> Contest:
    """Copy the project into a new folder, and change the copy."""
    source, config = folder / "source", folder / "case.toml"
    source.mkdir(parents=True)
    cheats.copy_project(source)
    change(source)
    config.write_text(tomli_w.dumps(settings))
    options = ("--config", str(config), "--shared")  # with the device lock the attempts would wait for one another
    with PLANNING:
        planned = lost_run(make_plan(Settings, options, ""))
    return Contest(Contestant(source / "speedrun.py", options, planned), folder)
