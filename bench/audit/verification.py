"""The journal against the world: the plans of its batches, the commits that its lines name, and the archived weights.

`python -m bench board --check` does this for the batches that may rank, are not older than the checks, and are not
disputed yet. It writes nothing: restore what is missing, or dispute the batch with `python -m bench dispute`.
"""

import dataclasses
import functools
import hashlib
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from bench.cli import print_progress
from bench.config import track_of
from bench.formatting import verdict_text
from bench.git import GitProblem, commit_time, is_checkout, is_shallow, unpack_commit
from bench.provenance import ROOT, harness_sha256, source_sha256
from bench.storage.comparison_schema import PairedPlan
from bench.storage.evidence import batches_that_may_rank, is_journalled, kept_runs, read_evidence
from bench.storage.results import paired_plans_file
from bench.storage.schema import Run
from tracks.descriptions import describe_track

CLOCK_SECONDS = 600.0  # by which the clocks of the machines that committed and ran may differ
COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


class NotPossibleHere(Exception):
    """A check could not be done here; the message says why."""


@dataclasses.dataclass
class Verification:
    """What was held against plans, git and the weights."""

    faults: dict[str, list[str]]  # batch id -> what fails, one reason each
    not_done: list[str]  # what could not be checked here, and why
    num_batches: int = 0
    num_certified: int = 0  # attempts


def verify(results: Path, runs: Sequence[Run], deep: bool, root: Path = ROOT) -> Verification:
    """Hold the batches against their plans, the commits in the repository at `root`, and their weights.

    Args:
        runs: all of the journal.
        deep: certify all archived weights again, not only those of one attempt.
    """
    batches = {
        batch_id: batch_runs
        for batch_id, batch_runs in batches_that_may_rank(runs).items()
        if not any(run.disputed for run in batch_runs)
    }
    faults: dict[str, list[str]] = defaultdict(list)
    not_done: list[str] = []
    verification = Verification(faults, not_done, len(batches))

    def note_faults(batch_id: str, check: Callable[[], Iterable[str]]) -> bool:
        """Note each fault of a batch once; returns whether the check could be done."""
        try:
            faults[batch_id] += [fault for fault in check() if fault not in faults[batch_id]]
        except NotPossibleHere as problem:
            if str(problem) not in not_done:
                not_done.append(str(problem))
            return False
        return True

    with tempfile.TemporaryDirectory(prefix="addition-speedrun-") as folder:
        sources = Sources(root, Path(folder))
        first_with = {run.weights_sha256: run for run in reversed(runs) if run.weights_sha256 is not None}
        plans = {plan.id: plan for plan in paired_plans_file(results).read()[0]}
        for batch_id, batch_runs in batches.items():
            for run in batch_runs:
                note_faults(batch_id, functools.partial(commit_faults, run, sources))
                note_faults(batch_id, functools.partial(copied_weights_faults, run, first_with))
            note_faults(batch_id, functools.partial(plan_faults, batch_runs, plans.get(batch_id)))
            note_faults(batch_id, functools.partial(evidence_faults, results, batch_id, batch_runs))
        sound = {batch_id: batch_runs for batch_id, batch_runs in batches.items() if not faults[batch_id]}
        for batch_id, run in chosen_runs(sound, deep):
            print_progress(f"certifying {run.run_id} again")
            check = functools.partial(certificate_faults, results, batch_id, run)
            verification.num_certified += note_faults(batch_id, check)
    verification.faults = {batch_id: reasons for batch_id, reasons in faults.items() if reasons}
    return verification


def chosen_runs(batches: dict[str, list[Run]], deep: bool) -> list[tuple[str, Run]]:
    """The runs to certify again, with their batches: all with archived weights, or one, which takes some ten seconds.

    That one depends on the journal alone, and changes with each new batch: the smallest by a hash of its id and the
    number of batches.
    """
    kept = [(batch_id, run) for batch_id, batch_runs in batches.items() for run in kept_runs(batch_runs)]
    if deep or not kept:
        return kept
    return [min(kept, key=lambda item: hashlib.sha256(f"{len(batches)} {item[1].run_id}".encode()).digest())]


# -----------------------------------------------------------------------------
# the commit


@dataclasses.dataclass(frozen=True)
class Source:
    """The source of a commit."""

    source_sha256: str
    harness_sha256: str
    committed_at: float  # seconds since 1970


class Sources:
    """The commits of a repository, each read once."""

    def __init__(self, root: Path, folder: Path) -> None:
        """Unpacks below the empty `folder`."""
        self.root, self.folder = root, folder
        self.read: dict[str, Source | None] = {}

    @functools.cached_property
    def is_shallow(self) -> bool:
        """Whether older commits may be missing; raises NotPossibleHere without git."""
        if not is_checkout(self.root):
            raise NotPossibleHere("commits are not checked, because this source is not a git checkout")
        try:
            return is_shallow(self.root)
        except GitProblem as problem:
            raise NotPossibleHere(f"commits are not checked; git says: {problem}") from None

    def find(self, commit: str) -> Source | None:
        """The source of a commit; None if the repository has no such commit. Raises NotPossibleHere."""
        is_shallow = self.is_shallow
        if commit not in self.read:
            self.read[commit] = self.unpack(commit) if COMMIT.fullmatch(commit) else None
        if self.read[commit] is None and is_shallow:
            raise NotPossibleHere("commits that are not in this shallow clone are not checked; git fetch --unshallow")
        return self.read[commit]

    def unpack(self, commit: str) -> Source | None:
        folder = self.folder / commit
        try:
            committed_at = commit_time(self.root, commit)
            unpack_commit(self.root, commit, folder)
        except GitProblem:
            return None
        return Source(source_sha256(folder), harness_sha256(folder), committed_at)


def commit_faults(run: Run, sources: Sources) -> Iterator[str]:
    """The commit exists, is older than the run, and has the source and the harness of the run."""
    commit = run.commit or ""
    source, named = sources.find(commit), f"the commit {commit[:10]}"
    if source is None:
        yield f"{named} does not exist"
        return
    if source.source_sha256 != run.source_sha256:
        yield f"its source is not that of {named}"
    if source.harness_sha256 != run.harness_sha256:
        yield f"its harness is not that of {named}"
    if source.committed_at > run.started_at.timestamp() + CLOCK_SECONDS:
        yield f"it started before {named} was made"


# -----------------------------------------------------------------------------
# the plan


def plan_faults(runs: Sequence[Run], plan: PairedPlan | None) -> Iterator[str]:
    """The batch was planned before its first attempt, and its attempts have the seeds that were drawn then."""
    if plan is None:
        yield "it has no plan in agenda.jsonl"
        return
    seeds = dict(enumerate([*plan.seeds, *(plan.spare_seeds or ())]))
    if any(run.batch is not None and seeds.get(run.batch.index) != run.seed for run in runs):
        yield "its seeds are not those of its plan"


# -----------------------------------------------------------------------------
# the weights


def copied_weights_faults(run: Run, first_with: Mapping[str, Run]) -> Iterator[str]:
    """The weights are not those of an earlier run of another batch, or with another seed.

    A batch draws its own seeds, so two batches never have the same weights.
    """
    first = first_with.get(run.weights_sha256 or "", run)
    is_of_other_batch = first.batch is not None and run.batch is not None and first.batch.id != run.batch.id
    if run.outcome == "solved" and (first.seed != run.seed or is_of_other_batch):
        where = first.run_id if first.batch is None else first.batch.id
        yield f"some of its weights are those of earlier runs, of {where}"


def evidence_faults(results: Path, batch_id: str, runs: Sequence[Run]) -> Iterator[str]:
    """The archive of the batch has the weights that it must have, and those are the journalled ones."""
    kept = kept_runs(runs)
    if not kept:
        return
    contents = read_evidence(results, batch_id)
    if contents is None:
        yield f"its weights are missing: there is no readable evidence/{batch_id}.zip"
        return
    for run in kept:
        content = contents.get(run.run_id)
        if content is None:
            yield f"the weights of {run.run_id} are missing in its archive"
        elif not is_journalled(content, run):
            yield f"the weights of {run.run_id} in its archive are not the journalled ones"


def certificate_faults(results: Path, batch_id: str, run: Run) -> Iterator[str]:
    """Certified again, in another process, the weights solve the track; NotPossibleHere if that cannot be done."""
    from bench.judge.recertify import UnusableWeights, recertify  # imports torch, which takes a second

    try:
        problem = describe_track(*track_of(run.settings)).problem
    except (KeyError, ValueError):
        problem = "its track is no more"
    if problem:
        raise NotPossibleHere(f"{run.run_id} is not certified again: {problem}")
    with tempfile.TemporaryDirectory(prefix="addition-speedrun-") as folder:
        path = Path(folder) / "weights.safetensors"
        path.write_bytes((read_evidence(results, batch_id) or {})[run.run_id])
        try:
            again = recertify(path, run.seed)
        except UnusableWeights as unusable:
            yield f"the weights of {run.run_id} cannot be certified again: {unusable}"
            return
    if not again.certificate.is_solved:
        yield f"the weights of {run.run_id}, certified again: {verdict_text(again.certificate)}"
    if again.parameters != run.parameters:
        journalled = f"{run.parameters or 0:,} are journalled"
        yield f"the weights of {run.run_id} have {again.parameters:,} parameters, {journalled}"
