"""Questions to git, in temporary repositories whose users have unusual variables and settings."""

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench import provenance
from bench.git import GitProblem, commit_time, is_shallow, read_checkout, run_git, unpack_commit
from bench.provenance import commit_and_dirty
from tests.support.repositories import ask, commit_all


def make_repository(root: Path) -> str:
    """A checkout with one commit, whose hash is returned."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "model.py").write_text("a\n")
    return commit_all(root)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("GIT_")]:  # set where tests run inside a git hook
        monkeypatch.delenv(name)
    root = tmp_path / "checkout"
    monkeypatch.setattr(provenance, "ROOT", root)
    return root


def test_a_repository_that_the_environment_names_is_not_asked(root, tmp_path, monkeypatch):
    commit = make_repository(root)
    other = tmp_path / "other"
    make_repository(other)
    (other / "model.py").write_text("changed\n")
    ask(other, "commit", "--quiet", "--no-verify", "-a", "-m", "second")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    assert commit_and_dirty() == (commit, False)


def test_every_variable_of_a_repository_is_removed(root, monkeypatch):
    """Those that hold configuration stay: they may say that the folder is trusted."""
    names = subprocess.run(["git", "rev-parse", "--local-env-vars"], capture_output=True, text=True).stdout.split()
    for name in names:
        monkeypatch.setenv(name, "0")
    seen = {}
    answer = subprocess.CompletedProcess([], 0, b"", b"")
    monkeypatch.setattr(subprocess, "run", lambda *_, env, **__: seen.update(env) or answer)
    run_git(root, "status")
    assert set(names) & set(seen) <= {"GIT_CONFIG_COUNT"}


@pytest.mark.parametrize("setting", ["status.showUntrackedFiles no", "core.untrackedCache true", "core.quotePath true"])
def test_no_setting_hides_an_untracked_file(setting, root):
    commit = make_repository(root)
    ask(root, "config", *setting.split())
    (root / "größe.py").write_text("new\n")
    assert commit_and_dirty() == (commit, True)
    assert read_checkout(root).changes == ["größe.py"]


def test_a_source_file_that_git_ignores_counts_as_a_change(root):
    commit = make_repository(root)
    (root / ".git" / "info" / "exclude").write_text("mine*\n.DS_Store\n")
    (root / ".DS_Store").write_text("")
    assert commit_and_dirty() == (commit, False)
    (root / "mine.py").write_text("new\n")
    assert commit_and_dirty() == (commit, True)


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_a_file_that_git_was_told_to_skip_counts_as_a_change(flag, root):
    commit = make_repository(root)
    ask(root, "update-index", flag, "model.py")
    assert commit_and_dirty() == (commit, True)


def test_changed_renamed_and_deleted_files_are_named(root):
    make_repository(root)
    (root / "a b.py").write_text("b\n")
    ask(root, "add", ".")
    ask(root, "mv", "model.py", "net.py")
    assert read_checkout(root).changes == ["a b.py", "model.py", "net.py"]


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes")
def test_paths_need_not_be_text_in_the_locale(tmp_path, root, monkeypatch):
    root = tmp_path / os.fsdecode(b"gr\xf6\xdfe")
    monkeypatch.setattr(provenance, "ROOT", root)
    commit = make_repository(root)
    (root / os.fsdecode(b"\xff.py")).write_text("new\n")
    assert read_checkout(root).changes == [os.fsdecode(b"\xff.py")]
    assert commit_and_dirty() == (commit, True)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give a folder away")
def test_a_checkout_of_another_owner_is_named_with_the_way_out(root, monkeypatch, capsys):
    make_repository(root)
    monkeypatch.setenv("HOME", str(root))  # without an exception in the configuration
    monkeypatch.delenv("SUDO_UID", raising=False)
    for path in (root, root / ".git"):
        os.chown(path, 12345, 12345)
    assert commit_and_dirty() == (None, None)
    (line,) = capsys.readouterr().err.splitlines()
    assert "dubious ownership" in line
    assert f"git config --global --add safe.directory {root}" in line


def test_a_checkout_without_git_is_named(root, monkeypatch, capsys):
    make_repository(root)
    monkeypatch.setenv("PATH", str(root))
    assert commit_and_dirty() == (None, None)
    assert "git does not start" in capsys.readouterr().err


def test_a_downloaded_copy_without_a_repository_is_silent(root, capsys):
    root.mkdir()
    assert commit_and_dirty() == (None, None)
    assert capsys.readouterr().err == ""


def test_a_damaged_repository_inside_another_checkout_is_not_taken_for_that_one(root, capsys):
    make_repository(root.parent)
    (root / ".git").mkdir(parents=True)
    assert commit_and_dirty() == (None, None)
    assert "not a git repository" in capsys.readouterr().err


def test_a_repository_without_a_commit_is_named(root):
    root.mkdir()
    ask(root, "init", "--quiet")
    with pytest.raises(GitProblem, match="no commit yet"):
        read_checkout(root)


def test_a_commit_is_unpacked_without_its_results_and_its_time_is_read(root, tmp_path, monkeypatch):
    (root / "results").mkdir(parents=True)
    (root / "results" / "runs.jsonl").write_text("{}\n")
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2026-01-31T00:00:00Z")
    commit = make_repository(root)
    (root / "model.py").write_text("later\n")
    unpack_commit(root, commit, tmp_path / "unpacked")
    assert [path.name for path in (tmp_path / "unpacked").iterdir()] == ["model.py"]
    assert (tmp_path / "unpacked" / "model.py").read_text() == "a\n"
    assert commit_time(root, commit) == datetime(2026, 1, 31, tzinfo=UTC).timestamp()
    assert not is_shallow(root)


@pytest.mark.parametrize("commit", ["f" * 40, "--output=stolen", "nosuch"])
def test_a_commit_that_does_not_exist_is_a_problem_of_git(commit, root, tmp_path):
    make_repository(root)
    with pytest.raises(GitProblem):
        commit_time(root, commit)
    with pytest.raises(GitProblem):
        unpack_commit(root, commit, tmp_path / "unpacked")
    assert not (root / "stolen").exists()
