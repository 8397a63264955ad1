"""What an attempt ran on: hardware, software, and the machine class that boards are kept by."""

import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from filelock import FileLock
from pydantic import BaseModel, ConfigDict

from bench.config import WrongRequest
from bench.provenance import ROOT


class Gpu(BaseModel):
    """One GPU, an NVIDIA one as NVML reports it; a counter that the driver does not offer is null."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None
    memory_bytes: int | None
    driver: str | None
    power_limit_watts: float | None
    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    temperature_celsius: int | None
    throttle_reasons: list[str] | None
    energy_joules: float | None  # since the driver was loaded


class Hardware(BaseModel):
    """The machine; sizes in bytes, what is not known is null."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu: str | None
    cpu_family: int | None
    cpu_model: int | None
    cpu_stepping: int | None
    amx_bf16: bool | None
    avx512_bf16: bool | None
    cores: int | None  # that this process may use
    cores_physical: int | None
    memory_bytes: int | None
    gpu: Gpu | None


class Software(BaseModel):
    """The versions that the figures depend on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    python: str
    torch: str
    cuda: str | None
    platform: str


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


# -----------------------------------------------------------------------------
# using it


class Missing(ValueError):
    """This machine has not got it; another may have."""


def pick_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `mps` to a device that is there; auto takes CUDA, else the CPU.

    MPS has to be asked for: no attempt has shown yet that it pays for models as small as these.

    Raises:
        Missing: the device asked for is not on this machine.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = "cuda" if there["cuda"] else "cpu"
    if not there.get(name):
        raise Missing(f"there is no {name} device on this machine; use --device auto or --device cpu")
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> tuple[torch.dtype, str]:
    """`auto`, `bfloat16` or `float32` to a dtype, and the reason for the choice.

    Raises:
        Missing: bfloat16 was asked for on a GPU that has none.
    """
    native = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else True
    if name == "bfloat16" and not native:
        raise Missing("this GPU has no bfloat16; use --precision float32")
    if name != "auto":
        return getattr(torch, name), "asked for"
    if device.type == "cuda":
        return (torch.bfloat16, "tensor cores") if native else (torch.float32, "this GPU has no bfloat16")
    if device.type == "cpu":
        if torch.cpu._is_amx_tile_supported():
            return torch.bfloat16, "AMX"
        if has_fast_avx512_bf16():
            return torch.bfloat16, "AVX512-BF16"
        return torch.float32, "bfloat16 is no faster on this CPU"
    return torch.float32, f"the safe choice on {device.type}"


# The same for all users and their environments, who may each have a folder of temporary files of their own.
LOCKS = Path(tempfile.gettempdir() if sys.platform == "win32" else "/tmp")


def device_lock(device: torch.device) -> FileLock:
    """The machine-wide advisory lock that a timed attempt holds, so that two never share a device; each GPU has one."""
    name = device.type
    if device.type == "cuda" and torch.cuda.is_available():
        name += f"-{torch.cuda.get_device_properties(device).uuid}"
    return FileLock(LOCKS / f"addition-speedrun-{name}.lock", mode=0o666)


def pick_kernel(name: str, device: torch.device, dtype: torch.dtype, problem: str | None) -> tuple[str, str]:
    """`auto`, `c` or `torch` to what computes the step, and the reason for the choice.

    Args:
        problem: why the C kernel cannot compute such a model, if so.

    Raises:
        ValueError: the C kernel was asked for and cannot be had; Missing where the machine is the reason.
    """
    if name == "torch":
        return name, "asked for"
    fault: type[ValueError] = ValueError
    if device.type != "cpu":
        problem = "it computes on a CPU"
    elif sys.platform == "win32":
        problem, fault = "it is not written for Windows", Missing
    elif dtype == torch.bfloat16 and not has_avx512_bf16():
        problem, fault = "its bfloat16 products take a CPU with AVX512-BF16", Missing
    elif problem is None:
        probe = BFLOAT16_PROBE if dtype == torch.bfloat16 else PROBE
        problem, fault = broken_compiler("CC", "cc", ".c", *probe), Missing
    if name == "c" and problem:
        raise fault(f"--kernel c: {problem}; use --kernel auto")
    if problem:
        return "torch", f"no C kernel: {problem}"
    return "c", "asked for" if name == "c" else "a CPU with a C compiler"


def has_avx512_bf16() -> bool:
    return "avx512_bf16" in cpuinfo().get("flags", "").split()


def has_fast_avx512_bf16() -> bool:
    """Whether this CPU's vectors make products faster in bfloat16 than in float32.

    AMD's processors add up twice as many products of bfloat16 at a time as of float32, Intel's as many.
    """
    return cpuinfo().get("vendor_id") == "AuthenticAMD" and has_avx512_bf16()


def kernel_precisions() -> list[tuple[torch.dtype, str]]:
    """What the C kernel's products may be computed in on this CPU, the fastest first, and the reason for it."""
    plain = torch.float32, "the C kernel's"
    if has_fast_avx512_bf16():
        return [(torch.bfloat16, "AVX512-BF16, the C kernel's"), plain]
    return [plain]


def pick_means(precision: str, kernel: str, device: torch.device, problem: str | None) -> tuple[torch.dtype, str, str]:
    """What the products are computed in, what computes the step, and a remark with the reasons; see those above.

    On a CPU the kernel goes before AMX, which torch would use: it takes a step in a fraction of the time that torch
    needs between its operations alone.
    """

    def means(dtype: torch.dtype, reason: str, name: str, why: str) -> tuple[torch.dtype, str, str]:
        return dtype, name, f"{str(dtype).removeprefix('torch.')} ({reason}), kernel {name} ({why})"

    if precision == "auto" and kernel != "torch" and device.type == "cpu":
        for own in kernel_precisions():
            name, why = pick_kernel("auto", device, own[0], problem)
            if name == "c":
                return means(*own, name, "asked for" if kernel == "c" else why)
    picked = pick_precision(precision, device)
    return means(*picked, *pick_kernel(kernel, device, picked[0], problem))


def compiler_problem(device: torch.device) -> str | None:
    """Why torch.compile cannot work here, or None: tries the C++ compiler that inductor would call."""
    if device.type == "cuda":
        try:
            import triton  # noqa: F401
        except ImportError:
            return "triton is not installed"
        return broken_compiler("CC", "cc", ".c", *PROBE)  # which triton calls for what launches its kernels
    return broken_compiler("CXX", "cl" if sys.platform == "win32" else "g++", ".cpp", *PROBE)


# A source for a compiler to prove itself with, and options for it.
PROBE = "#include <math.h>\nint main(void) { return 0; }\n", ""
BFLOAT16_PROBE = "#include <math.h>\n#ifndef __AVX512BF16__\n#error no AVX512-BF16\n#endif\n", "-march=native"


def broken_compiler(variable: str, usual: str, suffix: str, probe: str, options: str) -> str | None:
    """What is wrong with the compiler that an environment variable names, or with the usual one; None: it works."""
    language = {".c": "C", ".cpp": "C++"}[suffix]
    compiler = os.environ.get(variable, "").strip() or usual
    if shutil.which(compiler.split()[0]) is None:
        return f"the {language} compiler {compiler!r} was not found (install one, or set {variable})"
    if sys.platform == "win32":
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "probe" + suffix), Path(folder, "probe.o")
        source.write_text(probe)
        command = [*compiler.split(), *options.split(), "-c", source, "-o", target]
        answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        message = (answer.stderr.splitlines() or ["no message"])[0]
        return f"the {language} compiler {compiler!r} does not work: {message}"
    return None


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


# -----------------------------------------------------------------------------
# `python -m bench hardware`


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Print what this machine is, the class that its attempts are ranked in and what computes a layer, as JSON."""

    device: str = "auto"
    """auto, cpu, cuda or mps."""
    results: Path = ROOT / "results"
    """Not used: the record is of the machine."""


def main(arguments: Arguments) -> int:
    try:
        device = pick_device(arguments.device)
    except ValueError as problem:
        raise WrongRequest(str(problem)) from None
    hardware, software = hardware_record(device), software_record()
    _, _, means = pick_means("auto", "auto", device, None)
    record = {
        "class": machine_class(hardware, software, cores_usable()),
        "precision": means,
        "hardware": hardware.model_dump(),
        "software": software.model_dump(),
    }
    print(json.dumps(record, indent=2, ensure_ascii=False))
    return 0
