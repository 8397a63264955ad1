"""An audit in progress: the attempts, probes and recertification of one target, whose results the checks share."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from bench.audit.target import AuditTarget, track_interface
from bench.cli import print_progress
from bench.config import config_toml, settings_key, track_of
from bench.errors import UsageError
from bench.experiments.launcher import Contestant, Task, resolve_contestant, run_tasks
from bench.formatting import attempt_line
from bench.judge.recertify import Recertification, recertify
from bench.processes import json_lines, last_error_line, run_python
from bench.provenance import ROOT, config_hash, copy_files, first_seed, harness_files, source_files
from bench.storage.journal import Journal
from bench.storage.records import find_record_of_source, unpack_source
from bench.storage.schema import AUDIT, Batch, Run, SchemaModel, new_id
from data import INTERFACE, ControlNotApplicable, check_control
from tracks.descriptions import describe_track

MAX_ATTEMPTS = 8  # of one audit
MIN_LIMIT_SECONDS = 1.0  # for `train` of an attempt whose limit is a share of the run's
ProbeT = TypeVar("ProbeT", bound=SchemaModel)


class CheckSkipped(Exception):
    """A check could not be carried out; the message says why."""


class CheckNotApplicable(CheckSkipped):
    """A check that does not apply to the track of the target; the message says why."""


def assemble(contestant: Path, folder: Path) -> None:
    """Copy the current harness and the contestant's source into an empty folder.

    A contestant that is older than the judge gets the current `data.py` and `tracks/`, too.
    """

    def is_track(path: Path, root: Path) -> bool:
        return path.relative_to(root).parts[0] in ("data.py", "tracks")

    copy_files(harness_files(), ROOT, folder)
    theirs = source_files(contestant)
    if not (contestant / "tracks" / "batches").is_dir():
        theirs = [path for path in theirs if not is_track(path, contestant)]
        copy_files([path for path in source_files() if is_track(path, ROOT)], ROOT, folder)
    copy_files(theirs, contestant, folder)


class Audit:
    """An audit of one target."""

    def __init__(self, target: AuditTarget, folder: Path, results: Path, options: Sequence[str] = ()) -> None:
        """The contestant is assembled in the empty `folder`; `options` are added to each of its command lines."""
        self.target, self.folder, self.results, self.options = target, folder, results, options
        self.batch_id = new_id(f"{target.run.config}-audit")
        self.runs: list[Run] = []  # made by this audit
        self.remarks: list[str] = []  # about how attempts are made, for the report

    @cached_property
    def contestant(self) -> Contestant:
        """The trainer with the settings of the run; CheckSkipped if it does not run on this machine."""
        run = self.target.run
        self.assemble_source()
        config = self.folder / f"{run.config}.toml"
        config.write_text(config_toml(run.settings), encoding="utf-8")
        try:
            contestant = resolve_contestant(self.folder / "speedrun.py", ["--config", str(config), *self.options])
        except UsageError as problem:
            raise CheckSkipped(str(problem)) from None
        if settings_key(contestant.planned.settings) != settings_key(run.settings):
            raise CheckSkipped("on this machine its settings resolve to other settings than the journal's")
        return contestant

    def assemble_source(self) -> None:
        """Copy the trainer into the folder, with the current harness and tracks.

        A trainer for tracks of another interface keeps the harness and the tracks of its record's snapshot. Raises
        CheckSkipped when it is not that of a record.
        """
        run, interface = self.target.run, track_interface(self.target.source)
        if interface == INTERFACE:
            assemble(self.target.source, self.folder)
            return
        record_folder = self.target.record_folder or find_record_of_source(run.source_sha256, self.results)
        if record_folder is None:
            raise CheckSkipped(
                f"its trainer is written for tracks of interface {interface}, the current ones have {INTERFACE}, and "
                "there is no record with this source, whose tracks could be used"
            )
        unpack_source(record_folder, self.folder)  # checks the hashes of source and harness
        self.remarks.append(f"attempts with the tracks and the harness of {record_folder.record.name}")

    def seed(self, purpose: str) -> int:
        """A seed derived from the run's config and source, different for each purpose."""
        return first_seed(self.target.run.config_hash, self.target.run.source_sha256, purpose)

    def attempt(self, control: str, seed: int, time_share: float | None = None, relabelling: int | None = None) -> Run:
        """Run one attempt of the contestant; its outcome may be any.

        Args:
            control: see `data.controlled`.
            relabelling: a secret seed by which the judge gives answers other ids than prompts.
            time_share: limits `train` to this share of the run's seconds; by default the config's limit holds.

        Raises:
            CheckSkipped: the trainer does not know controls, or the track has too many problems for this one.
            CheckNotApplicable: the track has no answers that the control could exchange.
        """
        contestant = self.contestant
        settings = self.control_settings(control, time_share)
        options = [text for key, value in settings.items() for text in (f"--{key.replace('_', '-')}", str(value))]
        changed = contestant.planned.settings | settings
        planned = contestant.planned.model_copy(update={"settings": changed, "config_hash": config_hash(changed)})
        batch = Batch(id=self.batch_id, command=AUDIT, planned=MAX_ATTEMPTS, index=len(self.runs))
        task = Task(dataclasses.replace(contestant, planned=planned), seed, batch, tuple(options), relabelling)
        (run,) = run_tasks([task], Journal(self.results), lambda run: None)
        print_progress(f"  {control if relabelling is None else 'relabelled'}  {attempt_line(run)}")
        self.runs.append(run)
        return run

    def control_settings(self, control: str, time_share: float | None) -> dict[str, str | float]:
        """The settings of a controlled attempt that differ from the run's; raises CheckSkipped: see `attempt`."""
        planned, train_seconds = self.contestant.planned, self.target.run.seconds.train
        if "control" not in planned.settings:
            raise CheckSkipped("its trainer is older than the controls")
        try:
            check_control(describe_track(*track_of(planned.settings)), control)
        except ControlNotApplicable as problem:
            raise CheckNotApplicable(str(problem)) from None
        except ValueError as problem:
            raise CheckSkipped(str(problem)) from None
        if time_share is None:
            return {"control": control}
        if train_seconds is None:
            raise CheckSkipped("the training time of the run is unknown")
        return {"control": control, "max_seconds": max(MIN_LIMIT_SECONDS, round(time_share * train_seconds, 3))}

    def probe(self, name: str, result_type: type[ProbeT]) -> ProbeT:
        """The result of a probe of the contestant; see `bench.attempt.probe`. CheckSkipped if there is no valid one."""
        contestant = self.contestant
        options = ["--seed", str(self.target.run.seed), "--probe", name]
        process = run_python([str(contestant.script), *contestant.arguments, *options])
        if process.returncode:
            raise CheckSkipped(f"the probe failed: {last_error_line(process.stderr)}")
        try:
            return result_type.model_validate_json(*json_lines(process.stdout))
        except ValueError:
            raise CheckSkipped("the probe printed no valid numbers; training may have diverged") from None

    @cached_property
    def recertification(self) -> Recertification:
        """The weights, certified again in another process; raises UnusableWeights if that is impossible."""
        return recertify(self.target.weights, self.target.run.seed)
