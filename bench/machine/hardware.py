"""What an attempt ran on: hardware, software, and the machine class that boards are kept by."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from bench.storage.schema import Gpu, Hardware, Software

# -----------------------------------------------------------------------------
# reading it


def cpuinfo() -> dict[str, str]:
    """The first processor's entry of /proc/cpuinfo; empty where there is no such file."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_name(info: dict[str, str]) -> str | None:
    if "model name" in info:
        return info["model name"]
    if sys.platform == "darwin":
        answer = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        return answer.stdout.strip() or None
    return platform.processor() or None


def cores_usable() -> int | None:
    """Cores that the scheduler may give to this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return psutil.cpu_count()


def nvml_handle(device: torch.device) -> Any:
    """NVML's handle of a CUDA device; found by UUID, as CUDA_VISIBLE_DEVICES renumbers."""
    import pynvml

    pynvml.nvmlInit()
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")


def ask_nvml(question: Callable[[], Any]) -> Any:
    """The answer of one NVML query, or None where NVML or that counter is missing."""
    try:
        return question()
    except Exception as problem:  # pynvml makes its error classes at run time, one a return code
        if type(problem).__name__.startswith("NVMLError") or isinstance(problem, ImportError):
            return None
        raise


def throttle_reasons(mask: int) -> list[str]:
    """The names of the bits set in NVML's clock event reasons, other than idle."""
    import pynvml

    prefix = "nvmlClocksEventReason"
    bits = {name.removeprefix(prefix): getattr(pynvml, name) for name in dir(pynvml) if name.startswith(prefix)}
    single = {name: bit for name, bit in bits.items() if isinstance(bit, int) and bit.bit_count() == 1}
    aliases = {"GpuIdle", "UserDefinedClocks"}  # no throttling, and an old name of ApplicationsClocksSetting
    return sorted(name for name, bit in single.items() if bit & mask and name not in aliases)


def gpu_record(device: torch.device) -> Gpu:
    if device.type == "mps":
        unknown = dict.fromkeys(Gpu.model_fields)
        return Gpu(**unknown | {"name": f"{cpu_name(cpuinfo())} MPS"})
    properties = torch.cuda.get_device_properties(device)
    handle = ask_nvml(lambda: nvml_handle(device))
    if handle is None:
        unknown = dict.fromkeys(Gpu.model_fields)
        return Gpu(**unknown | {"name": properties.name, "memory_bytes": properties.total_memory})
    import pynvml

    milliwatts = ask_nvml(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle))
    mask = ask_nvml(lambda: pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    return Gpu(
        name=properties.name,
        memory_bytes=properties.total_memory,
        driver=ask_nvml(pynvml.nvmlSystemGetDriverVersion),
        power_limit_watts=None if milliwatts is None else milliwatts / 1e3,
        sm_clock_mhz=ask_nvml(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
        memory_clock_mhz=ask_nvml(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM)),
        temperature_celsius=ask_nvml(
            lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        ),
        throttle_reasons=None if mask is None else throttle_reasons(mask),
        energy_joules=gpu_joules(handle),
    )


def gpu_joules(handle: Any) -> float | None:
    """NVML's running energy counter; None where there is none."""
    import pynvml

    millijoules = ask_nvml(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    return None if millijoules is None else millijoules / 1e3


def hardware_record(device: torch.device) -> Hardware:
    info = cpuinfo()
    flags = info["flags"].split() if "flags" in info else None

    def number(key: str) -> int | None:
        return int(info[key]) if info.get(key, "").isdecimal() else None

    return Hardware(
        cpu=cpu_name(info),
        cpu_family=number("cpu family"),
        cpu_model=number("model"),
        cpu_stepping=number("stepping"),
        amx_bf16=None if flags is None else "amx_bf16" in flags,
        avx512_bf16=None if flags is None else "avx512_bf16" in flags,
        cores=cores_usable(),
        cores_physical=psutil.cpu_count(logical=False),
        memory_bytes=psutil.virtual_memory().total,
        gpu=None if device.type == "cpu" else gpu_record(device),
    )


def software_record() -> Software:
    return Software(
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        platform=f"{platform.system()} {platform.machine()}",
    )


def machine_class(hardware: Hardware, software: Software, threads: int | None, processes: int = 1) -> str:
    """The class that attempts are compared within: one line, of the record and of how many processes train together."""
    torch_minor = ".".join(software.torch.split(".")[:2])
    together = f", {processes} processes" if processes > 1 else ""
    if hardware.gpu is not None:
        watts = hardware.gpu.power_limit_watts
        power = "power limit unknown" if watts is None else f"{watts:.0f} W"
        return f"{hardware.gpu.name}, {power}, torch {torch_minor}{together}"
    signature = "/".join(str(n) for n in (hardware.cpu_family, hardware.cpu_model, hardware.cpu_stepping))
    has = {True: "with", False: "no", None: "unknown"}
    return (
        f"{hardware.cpu or 'unknown CPU'} ({signature}), {has[hardware.amx_bf16]} AMX-BF16, "
        f"{has[hardware.avx512_bf16]} AVX512-BF16, {hardware.cores} cores, {threads} threads, torch {torch_minor}"
        f"{together}"
    )


def peak_memory_bytes() -> int | None:
    """The largest resident set of this process so far."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    kibibytes_or_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes_or_bytes if sys.platform == "darwin" else kibibytes_or_bytes * 1024


def peak_device_memory_bytes(device: torch.device) -> int | None:
    """The most that torch has held of a GPU's memory so far, with what CUDA graphs keep; None for other devices."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None
