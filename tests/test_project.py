"""The project as a whole: its lists agree, and its floors hold."""

import ast
import dataclasses
import hashlib
import re
import subprocess
import sys
import tomllib

from examples import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench.archive import read_records
from bench.config import read_config
from bench.record import RESOLVED_BY_MACHINE
from speedrun import Settings

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME = [Requirement(text) for text in PYPROJECT["project"]["dependencies"]]
TESTING = [Requirement(text) for text in PYPROJECT["dependency-groups"]["test"]]
EXTRAS = [Requirement(text) for name in ("tune", "ray") for text in PYPROJECT["project"]["optional-dependencies"][name]]


def listed(name):
    lines = (ROOT / name).read_text().splitlines()
    return {canonicalize_name(line) for line in lines if line and not line.startswith(("#", "-"))}


def test_the_requirement_files_list_what_pyproject_lists():
    assert listed("requirements.txt") == {canonicalize_name(requirement.name) for requirement in RUNTIME}
    assert listed("requirements-test.txt") == {canonicalize_name(requirement.name) for requirement in TESTING}
    assert listed("requirements-extras.txt") == {canonicalize_name(requirement.name) for requirement in EXTRAS}


def test_constraints_are_exact_versions_within_the_ranges():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9.]+(post[0-9]+)?", line) for line in lines)
    assert not any(word in line.lower() for line in lines for word in ("nvidia-c", "triton", "+cpu"))
    versions = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    for requirement in RUNTIME + TESTING + EXTRAS:
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


FLOORS = [
    {"kernel", "model_config", "pair_table", "startup"},
    {"model", "optim", "tracks.base", "tracks.descriptions"},
    {"tracks.sampling", "tracks.tokenizer"},
    {"tracks.controls"},
    {"tracks.addition"},
    {"tracks.addition_stream"},
    {"data"},
    {"settings"},
    {"bench.clock", "bench.ear", "bench.provenance", "bench.config", "bench.lines", "bench.team"},
    {"bench.hardware", "curriculum"},
    {"bench.journal", "bench.quiet", "bench.meter"},
    {"bench.stats", "bench.display", "bench.weights", "bench.plan", "bench.lookup", "bench.archive"},
    {"bench.certify", "bench.run", "bench.probe", "bench.batches", "bench.paired", "bench.pages", "bench.growth"},
    {"bench.cluster", "bench.follower"},
    {"bench.places"},
    {"bench.agenda", "bench.recheck", "bench.plots", "bench.grid"},
    {"bench.comparison", "bench.scaling_plot", "bench.cells", "bench.space"},
    {"bench.negative", "bench.peers", "bench.engines", "bench.matrix_plot", "bench.evidence"},
    {"bench.front"},
    {"bench.board", "bench.ask", "bench.export", "bench.show", "bench.tracks", "bench.scaling"},
    {"bench.attempt", "bench.compare", "bench.record", "bench.replay", "bench.audit", "bench.matrix", "bench.tune"},
    {"speedrun", "bench.__main__"},
]


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_nothing_imports_upward():
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    files = {path.stem: path for path in ROOT.glob("*.py")}
    for package in ("bench", "tracks"):
        files |= {f"{package}.{path.stem}": path for path in (ROOT / package).glob("*.py") if path.stem != "__init__"}
    assert set(files) == set(floor), "every module has its floor"
    for name, path in files.items():
        ours = {imported for imported in imports_of(path) if imported in floor}
        assert all(floor[imported] < floor[name] for imported in ours), (name, ours)


def test_starting_an_attempt_imports_nothing_heavy():
    heavy = ["torch._dynamo", "scipy", "matplotlib", "jinja2.compiler", "sympy"]
    code = f"import sys, speedrun; print([name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_nothing_runs_at_import():
    """Every top-level statement of the trainer's files defines something."""
    definitions = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for path in [path for pattern in ("*.py", "bench/*.py", "tracks/*.py") for path in ROOT.glob(pattern)]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            guard = isinstance(node, ast.If) and ast.unparse(node.test) in ("__name__ == '__main__'", "TYPE_CHECKING")
            assert isinstance(node, definitions) or docstring or guard, f"{path.name}:{node.lineno}"


def test_the_yardstick_is_frozen():
    """Another workload under this name would make all earlier readings useless."""
    content = (ROOT / "bench" / "configs" / "yardstick.toml").read_bytes()
    assert hashlib.sha256(content).hexdigest() == "b352aab8619bf7d304507a0b261fdf40f0d89c1f1a7a8c785e40baf0c1db21cb"


def test_a_default_config_is_the_latest_record_by_total():
    """No other way leads to a new default."""
    latest = {}
    for filed in read_records(ROOT / "results")[0]:  # the oldest first
        if filed.record.clock == "total":
            latest[filed.record.track, filed.record.device] = filed.record
    for (track, device), record in latest.items():
        values = read_config(ROOT / "bench" / "configs" / f"{track}-{device}.toml", Settings)
        settings = dataclasses.asdict(Settings(**values))
        kept = record.settings.keys() - {*RESOLVED_BY_MACHINE, "kernel"}
        assert settings["kernel"] in ("auto", record.settings.get("kernel", "torch")), record.name
        assert {key: settings.get(key) for key in kept} == {key: record.settings[key] for key in kept}, record.name
