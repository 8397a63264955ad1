"""The measured limits of machines: measured once for each machine class and precision, and kept in a results folder."""

from pathlib import Path

from bench.storage.jsonl import JsonLines
from bench.storage.schema import MachinePeak


def machine_peaks_file(results: Path) -> JsonLines[MachinePeak]:
    return JsonLines(results / "machines.jsonl", MachinePeak)


def known_peak(results: Path, machine_class: str | None, precision: str) -> MachinePeak | None:
    """The newest measurement of a machine class; None without one."""
    peaks = reversed(machine_peaks_file(results).read()[0])
    return next((peak for peak in peaks if (peak.machine_class, peak.precision) == (machine_class, precision)), None)
