"""`python -m bench hardware`: what this machine is, what it can and cannot do for an attempt, and the ways out."""

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from bench.commands.options import DEFAULT_RESULTS, DeviceOption, ResultsOption
from bench.errors import UsageError, describe_os_error
from bench.experiments.cold_start import measure_cold_start
from bench.git import GitProblem, is_checkout, read_checkout
from bench.judge.isolation import isolation_problem
from bench.machine.compilers import torch_compile_problem
from bench.machine.cpu import quota, usable_cores
from bench.machine.device_lock import check_device_lock
from bench.machine.devices import pick_device
from bench.machine.hardware import hardware_record, machine_class, software_record
from bench.processes import json_lines, last_error_line, run_python
from bench.provenance import ROOT
from bench.storage.machines import cold_starts_file, known_peak, machine_peaks_file
from bench.storage.schema import MachineUse
from bench.streams import print_data

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Print this machine's class, hardware and software, and what it can and cannot do, as JSON."""

    device: DeviceOption = "auto"
    results: ResultsOption = DEFAULT_RESULTS
    measure: bool = False
    """Measure the peak of matrix products and the cost of an operation again, and keep them in the results folder."""
    measure_cold: bool = False
    """Time attempts with and without Python's files in the page cache, and keep the medians in the results folder."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that an attempt needs or can use."""

    works: bool
    found: str
    what_to_do: str | None = None  # where it does not work


def main(arguments: Arguments) -> int:
    if arguments.measure_cold:  # before torch is imported here, because mapped files stay in the page cache
        cold_starts_file(arguments.results).append(measure_cold_start(arguments.device))
    device = pick_device(arguments.device)
    hardware, software = hardware_record(device), software_record()
    machine = probe_machine(device.type)
    name = machine_class(hardware, software, machine.threads)
    peak = known_peak(arguments.results, name, machine.precision)
    if arguments.measure:
        import torch

        from bench.machine.peaks import measure_peak

        peak = measure_peak(name, device, getattr(torch, machine.precision), machine.threads)
        machine_peaks_file(arguments.results).append(peak)
    cold_starts = [start for start in cold_starts_file(arguments.results).read()[0] if start.machine_class == name]
    has_kernel = machine.kernel == "c"
    checks = {
        "precision": Check(True, f"{machine.precision}: {machine.precision_reason}"),
        "kernel": Check(
            has_kernel or device.type != "cpu",
            f"{machine.kernel}: {machine.kernel_reason}"
            + (f"; compiled, loaded and run in {machine.compiler_seconds:.1f} s" if machine.compiler_seconds else ""),
            None if has_kernel else "attempts work without it, and take several times as long",
        ),
        "torch.compile": check_torch_compile(device.type),
        "threads": check_threads(machine.threads),
        "device lock": check_lock(device),
        "isolation": check_isolation(),
        "results folder": check_results(arguments.results),
        "git": check_git(ROOT),
        "terminal": check_terminal(),
    }
    record = {
        "class": name,
        "precision": f"{machine.precision} ({machine.precision_reason}), kernel {machine.kernel} "
        f"({machine.kernel_reason})",
        "checks": {name: dataclasses.asdict(check) for name, check in checks.items()},
        "peak": None if peak is None else peak.model_dump(mode="json"),
        "cold_start": cold_starts[-1].model_dump(mode="json") if cold_starts else None,
        "hardware": hardware.model_dump(),
        "software": software.model_dump(),
    }
    print_data(json.dumps(record, indent=2, ensure_ascii=False))
    return 0


def probe_machine(device_type: str) -> MachineUse:
    """Ask the trainer how its default config uses this machine; UsageError if it does not start."""
    options = "--device", device_type, "--shared", "--probe", "machine"
    process = run_python([str(ROOT / "speedrun.py"), *options])
    if process.returncode:
        raise UsageError(last_error_line(process.stderr))
    return MachineUse.model_validate_json(*json_lines(process.stdout))


def check_torch_compile(device_type: str) -> Check:
    problem = torch_compile_problem(device_type)
    if problem is None:
        return Check(True, "its compiler compiles, links and loads")
    return Check(False, problem, "use --no-compile, which is the default")


def check_threads(threads: int) -> Check:
    cores, limit = len(usable_cores()), quota()
    if limit is None or limit >= cores:
        return Check(True, f"{threads} threads for {cores} usable cores; no control group limits their time")
    return Check(
        False,
        f"{threads} threads: the control group allows the time of {limit:g} of {cores} cores",
        "raise the limit, for example docker run --cpus",
    )


def check_lock(device: "torch.device") -> Check:
    try:
        check_device_lock(device)
    except UsageError as problem:
        return Check(False, str(problem), "use --shared; such attempts are not clean")
    return Check(True, "the lock of the device can be taken")


def check_isolation() -> Check:
    if (problem := isolation_problem()) is not None:
        return Check(False, problem, "attempts work without it; allow user namespaces to this user")
    return Check(True, "a judged attempt gets namespaces of its own")


def check_results(results: Path) -> Check:
    folder = next(folder for folder in (results.resolve(), *results.resolve().parents) if folder.exists())
    if not os.access(folder, os.W_OK):
        return Check(False, f"{folder} cannot be written to", "use --results DIR")
    try:
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    except (AttributeError, OSError):  # Windows
        return Check(True, f"{results} can be written to")
    return Check(True, f"{results} can be written to; {free / 2**30:.1f} GiB are free")


def check_git(root: Path) -> Check:
    way_out = "attempts work without it; a record needs a commit"
    if not is_checkout(root):
        return Check(False, "this is no checkout", f"clone the repository; {way_out}")
    try:
        checkout = read_checkout(root)
    except (GitProblem, OSError) as problem:
        return Check(False, describe_os_error(problem) if isinstance(problem, OSError) else str(problem), way_out)
    return Check(True, f"commit {checkout.commit}")


def check_terminal() -> Check:
    if not os.isatty(2):
        return Check(True, "standard error is no terminal: progress is printed in plain lines")
    kind = os.environ.get("TERM", "")
    if kind in ("", "dumb"):
        return Check(False, f"TERM is {kind!r}: progress is printed in plain lines", "set TERM, for example to xterm")
    return Check(True, f"TERM is {kind!r}: progress is one line, updated in place")
