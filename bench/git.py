"""Asks git about a checkout. Neither the environment nor the configuration of a user decides about the answers."""

import dataclasses
import io
import os
import subprocess
import tarfile
from pathlib import Path

# Options that could hide changes. The rest of the configuration is read, because it may trust the folder.
OPTIONS = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.untrackedCache=false")
STATUS = (
    *("status", "--porcelain=v2", "--branch", "-z", "--no-renames"),
    *("--untracked-files=normal", "--ignore-submodules=none"),
)


class GitProblem(Exception):
    """Git does not answer; the message is what it says, in one line."""


@dataclasses.dataclass(frozen=True)
class Checkout:
    """The state of a working tree."""

    commit: str
    changes: list[str]  # sorted paths, relative to the root, that differ from the commit or are new
    tracked: frozenset[str]  # likewise; a file that is neither here nor among the changes is ignored


def is_checkout(root: Path) -> bool:
    """Whether a folder is the root of a checkout; a downloaded copy of the source is none."""
    return (root / ".git").exists()


def read_checkout(root: Path) -> Checkout:
    """The state of the checkout at `root`; raises GitProblem if git does not answer."""
    head, *entries = decoded(run_git(root, *STATUS))
    commit = head.removeprefix("# branch.oid ")
    if commit == "(initial)":
        raise GitProblem("the repository has no commit yet")
    changes = {path_of(entry) for entry in entries if not entry.startswith("#")}
    listed = decoded(run_git(root, "ls-files", "-v", "-z"))
    # Git was told to skip files with a lower-case tag (assume-unchanged) or S (skip-worktree): they may differ.
    changes.update(line[2:] for line in listed if line[0].islower() or line[0] == "S")
    return Checkout(commit, sorted(changes), frozenset(line[2:] for line in listed))


def path_of(entry: str) -> str:
    """The path in an entry of `git status --porcelain=v2`: an untracked, an unmerged or a changed file."""
    fields = {"?": 1, "u": 10}.get(entry[0], 8)
    return entry.split(" ", fields)[fields]


def run_git(root: Path, *arguments: str) -> bytes:
    """The output of a git command in a checkout; raises GitProblem, also if git is not installed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or is_config(name)}
    # Messages in English, and no search for a repository above `root`.
    environment |= {"LC_ALL": "C", "LANGUAGE": "C", "GIT_CEILING_DIRECTORIES": str(root.parent)}
    try:
        command = ["git", *OPTIONS, "-C", str(root), *arguments]
        process = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True)
    except OSError as problem:
        raise GitProblem(f"git does not start: {problem.strerror}") from None
    if process.returncode:
        message = " ".join(os.fsdecode(process.stderr).split()).removeprefix("fatal: ")
        raise GitProblem(message or f"git {arguments[0]} ended with status {process.returncode}")
    return process.stdout


def commit_time(root: Path, commit: str) -> float:
    """When a commit was made, seconds since 1970; raises GitProblem if the repository lacks the commit."""
    return float(run_git(root, "show", "--no-patch", "--format=%ct", "--end-of-options", f"{commit}^{{commit}}"))


def is_shallow(root: Path) -> bool:
    """Whether the repository lacks older commits; raises GitProblem if git does not answer."""
    return run_git(root, "rev-parse", "--is-shallow-repository").strip() == b"true"


def unpack_commit(root: Path, commit: str, folder: Path) -> None:
    """Write the files of a commit, without its results, into a folder; GitProblem if the repository lacks it."""
    content = run_git(root, "archive", "--format=tar", "--end-of-options", commit, ".", ":(exclude)results")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(folder, filter="data")


def is_config(name: str) -> bool:
    """Whether a variable of git holds configuration, which may trust the folder, instead of naming a repository."""
    return name.startswith("GIT_CONFIG") and name not in ("GIT_CONFIG", "GIT_CONFIG_PARAMETERS")


def decoded(output: bytes) -> list[str]:
    """The entries of an output with `-z`; a path that is not text in this locale keeps its bytes as surrogates."""
    return [entry for entry in os.fsdecode(output).split("\0") if entry]
