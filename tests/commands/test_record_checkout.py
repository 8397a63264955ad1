"""What `record` asks of the checkout, and what it leaves to be committed."""

from pathlib import Path

import pytest

from bench.commands.record_checkout import check_committed, print_files_to_commit
from bench.errors import UsageError
from tests.support.examples import example_run
from tests.support.repositories import ask, commit_all

CONFIG = "bench/configs/mine.toml"
PLANNED = example_run(dirty=False)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small checkout with one commit."""
    root = tmp_path / "checkout"
    for name in (
        "speedrun.py",
        "bench/clock.py",
        CONFIG,
        "bench/configs/parent.toml",
        "README.md",
        "results/runs.jsonl",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    (root / CONFIG).write_text('base = "parent"\n')
    commit_all(root)
    return root


def test_generated_pages_results_and_other_configs_do_not_block(root: Path) -> None:
    for name in ("README.md", "results/runs.jsonl", "results/new.md", "docs/page.md", "bench/configs/other.toml"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("# changed\n")
    check_committed(PLANNED, root / CONFIG, root)


@pytest.mark.parametrize("name", ["speedrun.py", "bench/clock.py", "new.py", CONFIG, "bench/configs/parent.toml"])
def test_a_change_that_counts_is_named(name: str, root: Path) -> None:
    with open(root / name, "a") as file:
        file.write("# changed\n")
    with pytest.raises(UsageError, match=rf"commit these files first: {name}$"):
        check_committed(PLANNED, root / CONFIG, root)


def test_a_config_that_was_never_committed_is_named(root: Path) -> None:
    (root / "configs").mkdir()
    (root / "configs" / "new.toml").write_text("")
    with pytest.raises(UsageError, match=r"commit these files first: configs/new.toml$"):
        check_committed(PLANNED, root / "configs" / "new.toml", root)


def test_a_config_outside_the_checkout_or_among_the_results_does_not_block(root: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "mine.toml", root / "results" / "tune" / "best.toml"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
        check_committed(PLANNED, path, root)


def test_why_the_commit_is_unknown_is_said(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = example_run(dirty=None, commit=None)
    with pytest.raises(UsageError, match="this source is not a git checkout"):
        check_committed(unknown, root / CONFIG, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="git does not start"):
        check_committed(unknown, root / CONFIG, root)


def test_the_files_to_commit_are_those_that_the_record_wrote(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("README.md", "results/runs.jsonl", "results/records/new/record.json", "notes.txt", CONFIG):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("changed\n")
    print_files_to_commit(root, root / "results", [root / "README.md", root / CONFIG])
    assert capsys.readouterr().out.splitlines() == [
        "please commit these files:",
        "  README.md",
        f"  {CONFIG}",
        "  results/records/",
        "  results/runs.jsonl",
    ]
    ask(root, "add", ".")
    ask(root, "commit", "--quiet", "--no-verify", "-m", "second")
    print_files_to_commit(root, root / "results", [root / "README.md"])
    print_files_to_commit(root, root / "play", [root / "README.md"])
    assert capsys.readouterr().out == ""
