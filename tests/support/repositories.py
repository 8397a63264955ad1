"""Git repositories in temporary folders."""

import subprocess
from pathlib import Path


def ask(root: Path, *arguments: str) -> str:
    """The output of a git command in a folder."""
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    answer = subprocess.run(["git", "-C", root, *identity, *arguments], capture_output=True, text=True, check=True)
    return answer.stdout.strip()


def commit_all(root: Path) -> str:
    """Make a folder a checkout with one commit of all files in it; returns its hash."""
    ask(root, "init", "--quiet")
    ask(root, "add", ".")
    ask(root, "commit", "--quiet", "--no-verify", "-m", "first")
    return ask(root, "rev-parse", "HEAD")
