"""A copy of the project with a fake trainer, in which commands run as they do in the real one."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench import config
from bench.audit.verification import Verification
from bench.commands import board, record
from bench.experiments import paired_plan
from bench.judge.recertify import Recertification
from bench.machine.noise import Noise, NoiseMonitor
from bench.provenance import source_files
from bench.report.plot_style import Figure
from bench.storage import line_checks
from bench.storage.journal import Journal
from bench.storage.line_checks import CHECKS, judge_faults
from bench.storage.schema import Certificate, Run
from tests.support.examples import ROOT, example_certificate, example_run
from tests.support.signals import signal_handlers_kept


@dataclass(frozen=True)
class Arena:
    root: Path

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def script(self) -> Path:
        return self.root / "speedrun.py"

    @property
    def journal(self) -> Journal:
        return Journal(self.results)

    def behave(self, **configs: dict[str, Any]) -> None:
        """Set the behaviour of the attempts of each config; see fake_speedrun.py."""
        path = self.root / "behaviours.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(known | configs))
        for name in configs:  # for the harness, which looks up the names; the fake trainer does not read them
            (self.root / "bench" / "configs" / f"{name}.toml").write_text(f'track = "add3"\nbehaviour = "{name}"\n')

    def calls(self) -> list[str]:
        """The ids of all attempts that were started, in order, without the yardstick."""
        path = self.results / "calls.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if "yardstick" not in line]

    def attempts(self) -> list[Run]:
        """The runs of the journal, without the yardstick."""
        runs, faults = self.journal.read()
        assert faults == []
        return [run for run in runs if run.config != "yardstick"]

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "bench", *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.root,
            env=os.environ | {"ARENA": str(self.root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def build_arena(folder: Path) -> Arena:
    """An arena with the configs `fast`, `slow` (a third slower) and `yardstick`."""
    root = folder / "project"
    for package in ("bench", "tracks"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    for path in source_files():
        if path.parent == ROOT:
            shutil.copyfile(path, root / path.name)
    shutil.copyfile(ROOT / "tests" / "support" / "fake_speedrun.py", root / "speedrun.py")
    template = example_run(judge=None, machine={"class": "Example CPU", "clean": True, "reasons": []})
    (root / "template.json").write_text(template.model_dump_json())
    arena = Arena(root)
    arena.behave(fast={"train": 9.0}, slow={"train": 12.0}, yardstick={})
    return arena


def recertification(errors: int) -> Recertification:
    """The result of certifying a weights file again."""
    certificate = Certificate.model_validate(example_certificate(errors))
    return Recertification(certificate=certificate, sentences=[], parameters=1)


@contextlib.contextmanager
def entered(built: Arena, monkeypatch: pytest.MonkeyPatch) -> Iterator[Arena]:
    """Let the commands of this process start the arena's fake trainer."""
    monkeypatch.setenv("ARENA", str(built.root))
    for module in (paired_plan, record):
        monkeypatch.setattr(module, "SCRIPT", built.script)
    for module in (config, record):
        monkeypatch.setattr(module, "CONFIGS", built.root / "bench" / "configs")
    monkeypatch.setattr(Figure, "svg", lambda figure: "<svg></svg>")  # drawing takes a second; test_plots.py tests it
    # The fake trainer knows no judge; commands in processes of their own see its batches as disputed.
    monkeypatch.setattr(line_checks, "CHECKS", [check for check in CHECKS if check is not judge_faults])
    monkeypatch.setattr("bench.judge.recertify.recertify", lambda path, seed: recertification(0))
    monkeypatch.setattr(board, "verify", lambda *_: Verification({}, []))  # the example's commit is nobody's
    monkeypatch.setattr(NoiseMonitor, "observe", lambda self, seconds: Noise(0.0, 0.0, []))  # the tests are load
    with signal_handlers_kept():
        yield built


@contextlib.contextmanager
def arena_in(folder: Path) -> Iterator[Arena]:
    """A new arena that is entered for the `with` block, for a fixture that several tests share."""
    with pytest.MonkeyPatch.context() as patch, entered(build_arena(folder), patch) as built:
        yield built


@pytest.fixture
def arena(tmp_path, monkeypatch):
    """An arena whose fake trainer the commands of this process start."""
    with entered(build_arena(tmp_path), monkeypatch) as built:
        yield built


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """An arena with a record of `fast` by `train`; tests that change it take a copy."""
    with arena_in(tmp_path_factory.mktemp("recorded")) as built:
        assert record.main(record.Arguments(config="fast", clock="train", results=built.results)) == 0
    return built


@pytest.fixture
def recorded_arena(recorded, tmp_path, monkeypatch):
    """A copy of `recorded` whose fake trainer the commands of this process start."""
    shutil.copytree(recorded.root, tmp_path / "project")
    with entered(Arena(tmp_path / "project"), monkeypatch) as built:
        yield built
