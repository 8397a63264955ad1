"""Hashes against values by hand, and commits in temporary repositories."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import provenance
from bench.git import read_checkout
from bench.provenance import (
    commit_and_dirty,
    config_hash,
    files_sha256,
    first_seed,
    harness_sha256,
    source_changes,
    source_sha256,
)
from tests.support.repositories import commit_all


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small checkout in place of the real one."""
    root = tmp_path / "checkout"
    for name in ("speedrun.py", "model.py", "bench/clock.py", "bench/board.md.jinja", "results/LEADERBOARD.md"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")
    monkeypatch.setattr(provenance, "ROOT", root)
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where tests run inside a git hook
        monkeypatch.delenv(variable, raising=False)
    return root


@pytest.fixture
def commit(root: Path) -> str:
    """The hash of a commit of all files in `root`."""
    return commit_all(root)


# -----------------------------------------------------------------------------
# settings and seeds


def test_the_config_hash_is_the_sha256_of_canonical_json() -> None:
    expected = hashlib.sha256(b'{"compile":false,"n_layer":1,"rate":0.04,"track":"add3"}').hexdigest()
    assert config_hash({"track": "add3", "rate": 0.04, "n_layer": 1, "compile": False}) == expected


@given(st.dictionaries(st.text(), st.integers() | st.booleans() | st.text(), min_size=1))
def test_the_config_hash_depends_on_values_and_not_on_their_order(settings: dict) -> None:
    assert config_hash(dict(reversed(settings.items()))) == config_hash(settings)
    assert config_hash(json.loads(json.dumps(settings))) == config_hash(settings)
    key = next(iter(settings))
    assert config_hash(settings | {key: [settings[key]]}) != config_hash(settings)


@given(st.text("0123456789abcdef", min_size=64, max_size=64), st.text("0123456789abcdef", min_size=64, max_size=64))
def test_the_first_seed_is_the_first_31_bits(config: str, source: str) -> None:
    bits = f"{int(hashlib.sha256((config + source).encode()).hexdigest(), 16):0256b}"
    assert first_seed(config, source) == int(bits[:31], 2)


# -----------------------------------------------------------------------------
# source


def test_line_ends_of_windows_make_no_difference(root: Path) -> None:
    before = source_sha256(root)
    (root / "model.py").write_bytes(b"# model.py\r\n")
    assert source_sha256(root) == before


def test_the_order_of_the_files_makes_no_difference(root: Path) -> None:
    paths = list(root.rglob("*.py"))
    assert files_sha256(paths, root) == files_sha256(reversed(paths), root)
    assert files_sha256(paths, root) != files_sha256(paths[:-1], root)


@pytest.mark.parametrize(
    ("name", "changes_source", "changes_harness"),
    [
        ("speedrun.py", True, False),
        ("model.py", True, False),
        ("a_new_module.py", True, False),
        ("bench/clock.py", False, True),
        ("bench/board.md.jinja", False, True),
        ("bench/a_new_command.py", False, True),
        ("bench/deep/down.py", False, True),
        ("bench/configs/add3-cpu.toml", False, False),
        ("tests/test_model.py", False, False),
        ("results/LEADERBOARD.md", False, False),
        ("README.md", False, False),
    ],
)
def test_a_file_changes_only_the_hash_that_covers_it(
    name: str, changes_source: bool, changes_harness: bool, root: Path
) -> None:
    source, harness = source_sha256(root), harness_sha256(root)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("changed = 1\n")
    assert (source_sha256(root) != source, harness_sha256(root) != harness) == (changes_source, changes_harness)


def test_renaming_a_file_changes_the_hash(root: Path) -> None:
    before = source_sha256(root)
    (root / "model.py").rename(root / "net.py")
    assert source_sha256(root) != before


def test_moving_text_between_files_changes_the_hash(root: Path) -> None:
    (root / "model.py").write_text("ab")
    (root / "speedrun.py").write_text("c")
    before = source_sha256(root)
    (root / "model.py").write_text("a")
    (root / "speedrun.py").write_text("bc")
    assert source_sha256(root) != before


# -----------------------------------------------------------------------------
# commits


def test_a_fresh_commit_is_clean(root: Path, commit: str) -> None:
    assert commit_and_dirty() == (commit, False)


@pytest.mark.parametrize("name", ["model.py", "bench/clock.py", "a_new_module.py"])
def test_a_change_of_the_source_is_dirty(name: str, root: Path, commit: str) -> None:
    (root / name).write_text("changed\n")
    assert commit_and_dirty() == (commit, True)


def test_a_deleted_source_file_is_dirty(root: Path, commit: str) -> None:
    (root / "model.py").unlink()
    assert commit_and_dirty() == (commit, True)
    assert source_changes(read_checkout(root)) == ["model.py"]


@pytest.mark.parametrize(
    "name",
    [
        "results/LEADERBOARD.md",
        "results/runs.jsonl",
        "results/records/new/run.json",
        "README.md",
        "docs/COMMANDS.md",
        "bench/configs/mine.toml",
        "notes.txt",
    ],
)
def test_a_change_of_a_file_that_no_attempt_reads_is_not_dirty(name: str, root: Path, commit: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("changed\n")
    assert commit_and_dirty() == (commit, False)


def test_a_folder_outside_a_checkout_has_no_commit(root: Path) -> None:
    assert commit_and_dirty() == (None, None)


def test_a_folder_inside_another_checkout_has_no_commit(root: Path) -> None:
    commit_all(root.parent)
    assert commit_and_dirty() == (None, None)


def test_without_git_there_is_no_commit(root: Path, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(root))
    assert commit_and_dirty() == (None, None)
