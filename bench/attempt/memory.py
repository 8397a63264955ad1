"""The memory of an attempt, estimated before it begins and compared with what is free. Imports no torch."""

from typing import Any, Protocol

from bench.errors import UnavailableHere
from tracks.description import TrackDescription

# What the process takes beside the tensors: Python with torch and the harness, and torch's libraries once it computes.
# Measured on Linux with torch 2.13 for CPUs.
PROCESS_BYTES, COMPUTING_BYTES = 245 * 2**20, 45 * 2**20
SHAPES_BYTES = 60 * 2**20  # what torch's libraries keep for matrix products of many shapes, if texts have many lengths
COMPILER_BYTES = 250 * 2**20  # what torch.compile imports and keeps
PROBLEM_BYTES = 40  # of a problem of the test set, beside its digits and its completion
HEAP_FACTOR = 1.1  # of the tensors; the heap has gaps

CPU_BATCH_TOKENS = 100_000  # decoded together; the activations of a small model fit into the caches
GPU_BATCH_SIZE = 32_768  # problems; large batches hide the launch times of the kernels
# Decoding takes at most so much for its activations, if that is enough for one problem.
CPU_BATCH_BYTES, GPU_BATCH_BYTES = 2**26, 2**33

ERROR_SHARE = 0.25  # of an estimate
ADVICE = "lower batch_size, n_layer or n_embd, or raise micro_batches"


class ModelShape(Protocol):
    """The model's config; those of older records do not estimate."""

    def forward_bytes(self, T: int, item_bytes: int, is_cached: bool = False) -> int:
        """The memory of the forward pass of a text of T tokens, without gradients."""


def decoding_batch_size(
    description: TrackDescription, device_type: str, config: ModelShape | None, item_bytes: int = 4
) -> int:
    """Number of problems to decode together; with `config`, so few that the activations fit into memory."""
    length = description.prompt_length + description.answer_length
    is_cpu = device_type == "cpu"
    most = CPU_BATCH_TOKENS // length if is_cpu else GPU_BATCH_SIZE
    if config is not None and hasattr(config, "forward_bytes"):
        limit = CPU_BATCH_BYTES if is_cpu else GPU_BATCH_BYTES
        most = min(most, limit // config.forward_bytes(length - 1, item_bytes, is_cached=True))
    return max(1, most)


def estimate_memory_bytes(settings: Any, processes: int = 1) -> int | None:
    """The estimated peak of an attempt: of all its processes together, or of their GPUs; None for older trainers.

    Precision and kernel are resolved. It corresponds to `peak_memory_bytes` of the run, or on CUDA to
    `peak_device_memory_bytes`.
    """
    if not hasattr(settings, "memory_bytes"):
        return None
    description: TrackDescription = settings.track_description
    P, A = description.prompt_length, description.answer_length
    config = settings.model_config(len(description.vocabulary), description.block_size)
    item_bytes = 4 if settings.precision == "float32" else 2
    problems = description.test_count
    decoded = min(problems, decoding_batch_size(description, settings.device, config, item_bytes))
    tensors = settings.memory_bytes(decoded, processes)
    if settings.device == "cuda":
        return processes * int(tensors * HEAP_FACTOR)
    others = PROCESS_BYTES + (settings.kernel != "c") * COMPUTING_BYTES + settings.compile * COMPILER_BYTES
    others += (not description.is_one_length) * SHAPES_BYTES
    return processes * int(others + tensors * HEAP_FACTOR + problems * (PROBLEM_BYTES + 3 * P + 2 * A))


def check_memory(estimate: int | None, free: int) -> str | None:
    """Compare the estimated peak with the free memory of the machine or the GPU, both in bytes.

    Returns a warning if they are close; None if memory is ample, or the estimate is not known. Raises UnavailableHere
    if the attempt needs more than is free, even if the estimate is a quarter too high.
    """
    if estimate is None or estimate * (1 + ERROR_SHARE) <= free:
        return None
    amounts = f"about {memory_text(estimate)} of memory, estimated; {memory_text(free)} are free here"
    if estimate * (1 - ERROR_SHARE) > free:
        raise UnavailableHere(f"this config takes {amounts}; {ADVICE}")
    return f"this attempt may run out of memory: it takes {amounts}; to be safe, {ADVICE}"


def memory_text(size: int) -> str:
    """`950 MiB` or `12.3 GiB`."""
    return f"{size / 2**20:,.0f} MiB" if size < 2**30 else f"{size / 2**30:,.1f} GiB"
