"""The measured limits of machines, for each machine class, and their cold starts; kept in a results folder."""

from pathlib import Path

from bench.storage.jsonl import JsonLines
from bench.storage.schema import ColdStart, MachinePeak


def machine_peaks_file(results: Path) -> JsonLines[MachinePeak]:
    return JsonLines(results / "machines.jsonl", MachinePeak)


def known_peak(results: Path, machine_class: str | None, precision: str) -> MachinePeak | None:
    """The newest measurement of a machine class; None without one."""
    peaks = reversed(machine_peaks_file(results).read()[0])
    return next((peak for peak in peaks if (peak.machine_class, peak.precision) == (machine_class, precision)), None)


def cold_starts_file(results: Path) -> JsonLines[ColdStart]:
    return JsonLines(results / "cold_starts.jsonl", ColdStart)
