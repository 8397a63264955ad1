"""The target of an audit: the run, its solve rate, and its source."""

import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.audit import target
from bench.errors import UsageError
from bench.provenance import source_sha256
from bench.storage.journal import Journal
from bench.storage.schema import Batch, Run
from tests.support.examples import example_run


def test_the_latest_run_is_not_one_of_an_audit(tmp_path) -> None:
    weights = tmp_path / "weights" / "w.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"")
    filed = example_run(weights="weights/w.safetensors", weights_sha256="9" * 64, source_sha256=source_sha256())
    Journal(tmp_path).append(filed)
    later = filed.started_at.replace(year=2027)
    batch = Batch(id="x", command="audit", planned=9, index=0)
    Journal(tmp_path).append(example_run(run_id="later", batch=batch, started_at=later))
    with ExitStack() as stack:
        assert target.find_target("latest", tmp_path, stack).run == filed


@pytest.fixture
def checkout(tmp_path) -> tuple[Path, Run]:
    """A repository with one commit, and a run of it."""
    root = tmp_path / "checkout"
    root.mkdir()

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
        return subprocess.run(
            ["git", "-C", root, *identity, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    (root / "speedrun.py").write_text("# before\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "before")
    run = example_run(source_sha256=source_sha256(root), commit=git("rev-parse", "HEAD"))
    return root, run


def test_a_run_of_the_current_source_is_audited_in_the_checkout(checkout, tmp_path) -> None:
    root, run = checkout
    assert target.find_source(run, tmp_path / "unused", root) == root


def test_a_run_of_a_different_source_is_audited_from_its_commit(checkout, tmp_path) -> None:
    root, run = checkout
    (root / "speedrun.py").write_text("# after\n")
    folder = tmp_path / "empty"
    folder.mkdir()
    assert target.find_source(run, folder, root) == folder
    assert (folder / "speedrun.py").read_text() == "# before\n"


def test_a_run_of_uncommitted_source_cannot_be_audited(checkout, tmp_path) -> None:
    root, run = checkout
    changed = run.model_copy(update={"source_sha256": "a" * 64})
    with pytest.raises(UsageError, match="changes that the commit"):
        target.find_source(changed, tmp_path / "empty", root)


def test_a_run_that_looked_at_the_test_problems_can_be_audited(tmp_path) -> None:
    weights = tmp_path / "weights" / "w.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"")
    digest, settings = source_sha256(), {"track": "add3", "curves": True}
    run = example_run(weights="weights/w.safetensors", source_sha256=digest, settings=settings, weights_sha256="9" * 64)
    Journal(tmp_path).append(run)
    with ExitStack() as stack:
        assert target.find_target("latest", tmp_path, stack).run == run
        assert target.find_target(run.run_id, tmp_path, stack).run == run
