"""Inventory of the machine: hardware, software, and the machine class that results are compared within."""

import platform
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from bench.machine.cpu import cpu_name, cpuinfo, usable_cores, value_or_none
from bench.storage.schema import Gpu, Hardware, Software

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def nvml_handle(device: "torch.device") -> Any:
    """The NVML handle of a CUDA device, found by UUID because CUDA_VISIBLE_DEVICES renumbers devices."""
    import pynvml
    import torch

    pynvml.nvmlInit()
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")


def query_nvml(query: Callable[[], T]) -> T | None:
    """The result of an NVML query; None where NVML or that counter is missing."""
    try:
        return query()
    except Exception as problem:  # pynvml creates its error classes at run time, one for each return code
        if type(problem).__name__.startswith("NVMLError") or isinstance(problem, ImportError):
            return None
        raise


def throttle_reasons(mask: int) -> list[str]:
    """The names of the bits set in NVML's mask of clock event reasons, idle excluded."""
    import pynvml

    prefix = "nvmlClocksEventReason"
    bits = {name.removeprefix(prefix): getattr(pynvml, name) for name in dir(pynvml) if name.startswith(prefix)}
    single = {name: bit for name, bit in bits.items() if isinstance(bit, int) and bit.bit_count() == 1}
    ignored = {"GpuIdle", "UserDefinedClocks"}  # no throttling; an old name of ApplicationsClocksSetting
    return sorted(name for name, bit in single.items() if bit & mask and name not in ignored)


def gpu_record(device: "torch.device") -> Gpu:
    """The inventory of a CUDA or MPS device."""
    unknown: dict[str, Any] = dict.fromkeys(Gpu.model_fields)
    if device.type == "mps":
        return Gpu(**unknown | {"name": f"{cpu_name(cpuinfo())} MPS"})
    import torch

    properties = torch.cuda.get_device_properties(device)
    handle = query_nvml(lambda: nvml_handle(device))
    if handle is None:
        return Gpu(**unknown | {"name": properties.name, "memory_bytes": properties.total_memory})
    import pynvml

    milliwatts = query_nvml(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle))
    mask = query_nvml(lambda: pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    return Gpu(
        name=properties.name,
        memory_bytes=properties.total_memory,
        driver=query_nvml(pynvml.nvmlSystemGetDriverVersion),
        power_limit_watts=None if milliwatts is None else milliwatts / 1e3,
        sm_clock_mhz=query_nvml(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
        memory_clock_mhz=query_nvml(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM)),
        temperature_celsius=query_nvml(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
        throttle_reasons=None if mask is None else throttle_reasons(mask),
        energy_joules=gpu_joules(handle),
    )


def gpu_joules(handle: Any) -> float | None:
    """NVML's energy counter, joules since the driver was loaded; None where there is none."""
    import pynvml

    millijoules = query_nvml(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    return None if millijoules is None else millijoules / 1e3


def hardware_record(device: "torch.device") -> Hardware:
    """The inventory of the machine, with the GPU if `device` is one."""
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
        cores=len(usable_cores()) or None,
        cores_physical=value_or_none(lambda: psutil.cpu_count(logical=False)),
        memory_bytes=value_or_none(lambda: psutil.virtual_memory().total),
        gpu=None if device.type == "cpu" else gpu_record(device),
    )


def software_record() -> Software:
    """The versions of the software that times depend on."""
    import torch

    return Software(
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        platform=f"{platform.system()} {platform.machine()}",
    )


def machine_class(hardware: Hardware, software: Software, threads: int | None, processes: int = 1) -> str:
    """One line that identifies all the hardware and software that times depend on; only equal classes are compared."""
    torch_minor = ".".join(software.torch.split(".")[:2])
    together = f", {processes} processes" if processes > 1 else ""
    if hardware.gpu is not None:
        watts = hardware.gpu.power_limit_watts
        power = "power limit unknown" if watts is None else f"{watts:.0f} W"
        return f"{hardware.gpu.name}, {power}, torch {torch_minor}{together}"
    signature = f"{hardware.cpu_family}/{hardware.cpu_model}/{hardware.cpu_stepping}"
    has = {True: "with", False: "no", None: "unknown"}
    return (
        f"{hardware.cpu or 'unknown CPU'} ({signature}), {has[hardware.amx_bf16]} AMX-BF16, "
        f"{has[hardware.avx512_bf16]} AVX512-BF16, {hardware.cores} cores, {threads} threads, "
        f"torch {torch_minor}{together}"
    )
