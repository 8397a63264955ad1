"""Forged batches, held against a repository and archived weights."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bench.audit import verification
from bench.audit.verification import verify
from bench.judge import recertify
from bench.provenance import harness_sha256, source_sha256
from bench.storage.evidence import packed, write_evidence
from bench.storage.journal import Journal
from bench.storage.results import paired_plans_file
from bench.storage.schema import Certificate
from tests.support.examples import batch_runs, example_agenda, example_certificate, example_run
from tests.support.repositories import ask, commit_all

PARAMETERS = 9_000


class World:
    """A repository with one commit, and a results folder with batches of it."""

    def __init__(self, folder):
        self.root, self.results = folder / "checkout", folder / "results"
        (self.root / "bench").mkdir(parents=True)
        files = {"speedrun.py": "# a trainer\n", "bench/clock.py": "# a clock\n"}
        for name, text in files.items():
            (self.root / name).write_text(text)
        self.commit = commit_all(self.root)

    def batch(self, name="a", first_seed=None, trains=(1.0,) * 10, **changes):
        """Ten honest runs with different seeds and weights, and their weights files.

        The seeds are in a row, by default after those of the other batches.
        """
        first_seed = len(self.plans()) * 10 if first_seed is None else first_seed
        made: dict[str, Any] = {
            "commit": self.commit,
            "source_sha256": source_sha256(self.root),
            "harness_sha256": harness_sha256(self.root),
            "started_at": datetime.now(UTC),
            "parameters": PARAMETERS,
        }
        runs = []
        for index, run in enumerate(batch_runs(name, trains, **made | changes)):
            weights = self.results / "weights" / f"{run.run_id}.safetensors"
            weights.parent.mkdir(parents=True, exist_ok=True)
            weights.write_bytes(run.run_id.encode())
            digest = hashlib.sha256(run.run_id.encode()).hexdigest()
            update = {"weights": f"weights/{weights.name}", "weights_sha256": digest, "seed": first_seed + index}
            runs.append(run.model_copy(update=update))
        return runs

    def plans(self):
        return paired_plans_file(self.results).read()[0]

    def file(self, runs, evidence=True, **plan):
        """File the runs of a batch, its plan with changes, and its weights."""
        seeds = [run.seed for run in runs]
        if runs[0].batch is not None:
            made: dict[str, Any] = {"id": runs[0].batch.id, "command": "speedrun", "seeds": seeds, "b": None}
            paired_plans_file(self.results).append(example_agenda(**made | plan))
        for run in runs:
            Journal(self.results).append(run)
        if evidence:
            write_evidence(self.results, runs)

    def verify(self, deep=False):
        return verify(self.results, Journal(self.results).read()[0], deep, self.root)

    def faults(self, deep=False):
        return self.verify(deep).faults


@pytest.fixture
def certified(monkeypatch):
    """The runs that are certified again, in this process without a model; tests change the certificate of some."""
    asked, certificates = [], {}

    def certify_again(path, seed):
        name = path.read_bytes().decode()
        asked.append(name)
        assert name.endswith(f"-{seed % 10}")
        errors, parameters = certificates.get(name, (0, PARAMETERS))
        if errors is None:
            raise recertify.UnusableWeights("not a whole safetensors file")
        return recertify.Recertification(
            certificate=Certificate.model_validate(example_certificate(errors)),
            sentences=[],
            parameters=parameters,
        )

    monkeypatch.setattr(recertify, "recertify", certify_again)
    return asked, certificates


@pytest.fixture
def world(tmp_path, certified):
    return World(tmp_path)


def test_nothing_speaks_against_honest_batches_of_which_one_attempt_is_certified_again(world, certified):
    for name in ("a", "b", "c"):
        world.file(world.batch(name))
    found = world.verify()
    assert (found.faults, found.not_done, found.num_batches, found.num_certified) == ({}, [], 3, 1)
    assert len(certified[0]) == 1


def test_all_archived_weights_are_certified_again_on_request(world, certified):
    world.file(world.batch())
    assert world.verify(deep=True).num_certified == 10
    assert sorted(certified[0]) == [f"a-{index}" for index in range(10)]


def test_the_sample_changes_with_the_number_of_batches_and_nothing_else(world, certified):
    world.file(world.batch())
    samples = [{run.run_id for _, run in verification.chosen_runs({"a": world.batch()}, deep=False)} for _ in range(3)]
    assert samples[0] == samples[1] == samples[2]
    batches = {"a": world.batch()}
    seen = set()
    for count in range(20):
        batches[f"other {count}"] = []
        seen |= {run.run_id for _, run in verification.chosen_runs(batches, deep=False)}
    assert len(seen) > 5


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"commit": "f" * 40}, "the commit ffffffffff does not exist"),
        ({"commit": "HEAD"}, "the commit HEAD does not exist"),
        ({"commit": "--output=x"}, "does not exist"),
        ({"source_sha256": "a" * 64}, "its source is not that of the commit"),
        ({"harness_sha256": "b" * 64}, "its harness is not that of the commit"),
        ({"started_at": datetime.now(UTC) - timedelta(days=1)}, "it started before the commit"),
    ],
)
def test_a_batch_whose_commit_does_not_fit_is_named_once(world, certified, changes, reason):
    world.file(world.batch(**changes))
    (reasons,) = world.faults().values()
    assert len(reasons) == 1
    assert reason in reasons[0]
    assert certified[0] == [], "such weights are not certified again"


def test_a_batch_without_an_archive_has_no_weights(world):
    world.file(world.batch(), evidence=False)
    assert world.faults() == {"a": ["its weights are missing: there is no readable evidence/a.zip"]}


def test_an_archive_must_have_the_weights_of_every_kept_attempt(world):
    runs = world.batch()
    (world.results / runs[4].weights).unlink()
    world.file(runs)
    assert world.faults() == {"a": ["the weights of a-4 are missing in its archive"]}


def test_weights_of_another_run_in_the_archive_are_seen(world):
    runs = world.batch()
    world.file(runs)
    contents = {run.run_id: run.run_id.encode() for run in runs} | {"a-4": b"a-5"}
    (world.results / "evidence" / "a.zip").write_bytes(packed(contents))
    assert world.faults() == {"a": ["the weights of a-4 in its archive are not the journalled ones"]}


@pytest.mark.parametrize("first_seed", [None, 0])
def test_forged_lines_with_the_weights_of_an_honest_batch_are_seen(world, first_seed):
    """Copies in half the time, whose archive holds weights that solve the track; they have the honest seeds, or others.

    Such lines took rank 1 while this check said nothing.
    """
    honest = world.batch("honest")
    world.file(honest)
    forged = [
        run.model_copy(update={"weights": copied.weights, "weights_sha256": copied.weights_sha256})
        for run, copied in zip(world.batch("forged", first_seed, trains=[0.5] * 10), honest, strict=True)
    ]
    world.file(forged)
    assert world.faults() == {"forged": ["some of its weights are those of earlier runs, of honest"]}


def test_forged_lines_of_a_batch_that_nobody_planned_are_seen(world):
    world.file(world.batch(), id="another")
    assert world.faults() == {"a": ["it has no plan in agenda.jsonl"]}


@pytest.mark.parametrize("seeds", [[*range(9), 99], list(range(9))])
def test_attempts_with_other_seeds_than_their_plans_are_seen(world, seeds):
    world.file(world.batch(), seeds=seeds)
    assert world.faults() == {"a": ["its seeds are not those of its plan"]}


def test_a_pair_that_is_run_again_has_a_planned_seed(world):
    world.file(world.batch(), pairs=9, seeds=list(range(9)), spare_seeds=[9, 10, 11, 12])
    assert world.faults() == {}


def test_a_single_run_may_repeat_the_seed_of_a_batch(world):
    """Its line may stand before those of the batch where journals were merged."""
    batch = world.batch()
    Journal(world.results).append(batch[3].model_copy(update={"run_id": "single", "batch": None}))
    world.file(batch)
    assert world.faults() == {}


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        ((7, PARAMETERS), "certified again: 7 errors"),
        ((0, PARAMETERS + 1), "have 9,001 parameters, 9,000 are journalled"),
        ((None, None), "cannot be certified again: not a whole safetensors file"),
    ],
)
def test_weights_that_do_not_solve_the_track_are_seen(world, certified, certificate, reason):
    world.file(world.batch())
    certified[1]["a-6"] = certificate
    (reasons,) = world.faults(deep=True).values()
    assert len(reasons) == 1
    assert reason in reasons[0]
    assert "a-6" in reasons[0]


def test_old_disputed_and_unranked_batches_are_not_verified(world):
    world.file(world.batch("no judge", judge=None), evidence=False)
    world.file(world.batch("curves", settings={"track": "add3", "curves": True}), evidence=False)
    world.file([example_run(commit="0" * 40)], evidence=False)
    assert world.verify().num_batches == 0
    runs = [run.with_status(is_old=True) for run in world.batch("old", commit="0" * 40)]
    assert verify(world.results, runs, deep=False, root=world.root).num_batches == 0


def test_a_line_that_joins_an_old_batch_is_verified(world):
    runs = [run.with_status(is_old=True) for run in world.batch("old")]
    forged = world.batch("old")[0].model_copy(update={"run_id": "forged", "commit": "0" * 40})
    assert list(verify(world.results, [*runs, forged], deep=False, root=world.root).faults) == ["old"]


def test_without_a_repository_commits_are_not_checked_and_nothing_is_disputed(world, tmp_path):
    world.file(world.batch(commit="f" * 40))
    found = verify(world.results, Journal(world.results).read()[0], deep=True, root=tmp_path)
    assert found.faults == {}
    assert found.not_done == ["commits are not checked, because this source is not a git checkout"]


def test_a_commit_that_a_shallow_clone_lacks_is_not_disputed(world, tmp_path):
    world.file(world.batch())
    (world.root / "speedrun.py").write_text("# a trainer\n# of today\n")
    commit_all(world.root)
    clone = tmp_path / "clone"
    ask(tmp_path, "clone", "--quiet", "--depth", "1", world.root.as_uri(), str(clone))
    found = verify(world.results, Journal(world.results).read()[0], deep=False, root=clone)
    assert found.faults == {}
    assert any("shallow clone" in reason for reason in found.not_done)
