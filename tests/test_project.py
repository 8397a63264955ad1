"""The project as a whole: its lists agree, and its floors hold."""

import ast
import graphlib
import hashlib
import json
import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench.commands.record import RESOLVED_BY_MACHINE
from bench.commands.tracks import default_config
from bench.config import current_settings, find_config, flat_settings, read_config, track_of
from bench.storage.records import read_records
from bench.storage.results import weights_sha256
from bench.storage.samplings import samplings_file
from settings import Settings
from tests.support.examples import ROOT
from tracks.descriptions import describe_track

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


# From the bottom up: a package imports only from those before it. Modules directly in bench/ are `base`, save two.
LAYERS = (
    *("base", "storage", "machine", "stats", "judge", "formatting", "experiments", "report", "attempt", "audit"),
    "commands",
)
MOST_LEVELS = 9
MAY_IMPORT_THE_TRAINER = {"storage", "attempt", "audit", "commands"}  # its model, and what draws batches
MAY_IMPORT_TRACKS = {*MAY_IMPORT_THE_TRAINER, "judge"}  # the part of them that judges


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path):
    """The names of all modules that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def import_graph():
    """Module -> the modules of ours that it imports."""
    paths = [
        path for pattern in ("*.py", "bench/**/*.py", "tracks/**/*.py", "recipes/*.py") for path in ROOT.glob(pattern)
    ]
    files = {module_name(path): path for path in paths}
    return {name: {other for other in imports_of(path) if other in files} for name, path in files.items()}


def package_of(module):
    """`bench.storage.journal` belongs to `storage`, `bench.clock` to `base`, `model` to `trainer`."""
    first, *rest = module.split(".")
    if first != "bench":
        return "trainer"
    if module == "bench.__main__":
        return "commands"
    return rest[0] if len(rest) > 1 or (rest and rest[0] in LAYERS) else "base"


def levels(graph):
    """Node -> the length of the longest chain of imports below it, from 1; raises on a circle."""
    order = graphlib.TopologicalSorter(graph).static_order()
    found = {}
    for node in order:
        found[node] = 1 + max((found[below] for below in graph[node]), default=0)
    return found


def test_no_module_imports_itself_in_a_circle():
    graph = import_graph()
    packages = {name for name in graph if (ROOT / name.replace(".", "/")).is_dir()}  # their faces import what is inside
    assert levels({name: imported - packages for name, imported in graph.items()})


def test_packages_import_one_way():
    between = {layer: set() for layer in LAYERS}
    for module, imported in import_graph().items():
        package = package_of(module)
        for name in imported:
            other = package_of(name)
            if package != "trainer" and other == "trainer":
                is_of_judge = name.startswith("tracks") and not name.startswith("tracks.batches")
                assert package in (MAY_IMPORT_TRACKS if is_of_judge else MAY_IMPORT_THE_TRAINER), module
            elif package != "trainer" and other != package:
                assert LAYERS.index(other) < LAYERS.index(package), f"{module} imports from {other}"
                between[package].add(other)
    assert max(levels(between).values()) <= MOST_LEVELS


def test_the_weights_of_all_sampled_models_are_committed():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "results/weights"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for line in samplings_file(ROOT / "results").read()[0]:
        path = f"results/weights/{line.run_id}.safetensors"
        assert path in listed.stdout.splitlines(), f"git add --force {path}"
        assert weights_sha256(ROOT / path) == line.weights_sha256


def test_the_harness_never_imports_the_trainer_s_script():
    for module, imported in import_graph().items():
        if package_of(module) != "trainer":
            assert not imported & {"speedrun", "curriculum", "optim", "kernel", "settings"}, module


def test_starting_an_attempt_imports_nothing_heavy():
    heavy = ["torch._dynamo", "scipy", "matplotlib", "jinja2.compiler", "sympy"]
    code = f"import sys, speedrun; print([name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_nothing_runs_at_import():
    """Every top-level statement of the trainer's files defines something."""
    definitions = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for path in [
        path for pattern in ("*.py", "bench/**/*.py", "tracks/**/*.py", "recipes/*.py") for path in ROOT.glob(pattern)
    ]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            guard = isinstance(node, ast.If) and ast.unparse(node.test) in ("__name__ == '__main__'", "TYPE_CHECKING")
            assert isinstance(node, definitions) or docstring or guard, f"{path.name}:{node.lineno}"


def test_the_yardstick_is_frozen():
    """Another workload under this name would make all earlier readings useless."""
    settings = tomllib.loads((ROOT / "bench" / "configs" / "yardstick.toml").read_text(encoding="utf-8"))
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    assert digest == "1e7d8d5a549ca658a1a802280b4162ab27aeb3322360a490954592e945d9c0d5"


def test_a_default_config_is_the_latest_record_by_total():
    """No other way leads to a new default."""
    latest = {}
    for filed in read_records(ROOT / "results")[0]:  # the oldest first
        if filed.record.clock == "total":
            latest[filed.record.track, filed.record.device] = filed.record
    for (_, device), record in latest.items():
        default = default_config(describe_track(*track_of(record.settings)), device)
        values = read_config(find_config(default, device)[1], Settings)
        settings = flat_settings(Settings(**values))
        recorded = current_settings(record.settings)
        kept = recorded.keys() - {*RESOLVED_BY_MACHINE, "kernel"}
        assert settings["kernel"] in ("auto", record.settings.get("kernel", "torch")), record.name
        assert {key: settings.get(key) for key in kept} == {key: recorded[key] for key in kept}, record.name
