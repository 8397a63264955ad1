"""A project of its own in a folder, whose trainer only pretends; commands run in it as they would in ours."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench import config
from bench.commands import record
from bench.experiments import paired_plan as agenda
from bench.machine.noise import Noise, NoiseMonitor
from bench.provenance import source_files
from bench.report import plots
from bench.storage.journal import Journal
from bench.storage.schema import Run
from tests.support.examples import ROOT, example_run


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
        """What the attempts of each config do, see fake_speedrun.py."""
        path = self.root / "behaviours.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(known | configs))
        for name in configs:  # the harness looks the names up, the trainer does not read the files
            (self.root / "bench" / "configs" / f"{name}.toml").write_text(f'track = "add3"\nnote = "{name}"\n')

    def calls(self) -> list[str]:
        """The ids of all attempts that were ever started, in order, the yardstick's left out."""
        path = self.results / "calls.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if "yardstick" not in line]

    def attempts(self) -> list[Run]:
        """The journal without the yardstick's."""
        runs, faults = self.journal.read()
        assert faults == []
        return [run for run in runs if run.config != "yardstick"]

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "bench", *arguments]

    def start(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.root,
            env=os.environ | {"ARENA": str(self.root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def build_arena(folder: Path) -> Arena:
    """The arena, with the configs `fast` and `slow` (a third slower), and `yardstick`."""
    root = folder / "project"
    for package in ("bench", "tracks"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    for path in source_files():
        if path.parent == ROOT:
            shutil.copyfile(path, root / path.name)
    shutil.copyfile(ROOT / "tests" / "support" / "fake_speedrun.py", root / "speedrun.py")
    template = example_run(machine={"class": "Example CPU", "clean": True, "reasons": []})
    (root / "template.json").write_text(template.line())
    arena = Arena(root)
    arena.behave(fast={"train": 9.0}, slow={"train": 12.0}, yardstick={})
    return arena


@pytest.fixture
def arena(tmp_path, monkeypatch):
    """An arena whose trainer the commands of this process start instead of ours."""
    built = build_arena(tmp_path)
    monkeypatch.setenv("ARENA", str(built.root))
    for module in (agenda, record):
        monkeypatch.setattr(module, "SCRIPT", built.script)
    for module in (config, record):
        monkeypatch.setattr(module, "CONFIGS", built.root / "bench" / "configs")
    for draw in ("draw_solved", "draw_records"):  # which takes a second; test_plots.py looks at the pictures
        monkeypatch.setattr(plots, draw, lambda rows, place: "<svg></svg>")
    monkeypatch.setattr(NoiseMonitor, "observe", lambda self, seconds: Noise(0.0, 0.0, []))  # the tests are not quiet
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield built
    for number, handler in kept.items():  # a command heeds interrupts in its own way
        signal.signal(number, handler)
