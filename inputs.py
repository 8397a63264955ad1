"""The inputs of a training step: drawn texts in tensors at fixed addresses, as a CUDA graph requires."""

from collections.abc import Iterable

import torch
from torch import Tensor

from data import Batch, Batches
from memory_estimate import MAX_SMALL_VOCABULARY
from settings import Settings


class StepInputs:
    """The texts of `draw_steps` steps, by the name of the argument of the model's loss.

    The fast path takes whole texts, `tokens` (steps, B, T + 1). It needs texts of one length with a target at every
    position from the first target on. The plain path takes the fields of `data.Batch` that the batches have, each
    (steps, B, T); positions are kept as int16.
    """

    def __init__(self, settings: Settings, batches: Batches) -> None:
        self.is_fast = batches.is_uniform
        self.vocab_size = len(batches.track.vocabulary)
        shape = settings.draw_steps, settings.batch_size, batches.training_length - 1 + self.is_fast
        dtype = torch.uint8 if self.vocab_size <= MAX_SMALL_VOCABULARY else torch.int32
        tokens = torch.zeros(shape, dtype=dtype, device=batches.device)
        self.tensors = {"tokens": tokens}
        if not self.is_fast:
            positions = torch.arange(shape[-1], dtype=torch.int16, device=batches.device).repeat(*shape[:2], 1)
            of_random_tokens = {
                "targets": torch.zeros_like(tokens),
                "loss_mask": torch.ones_like(tokens, dtype=torch.bool),
                "positions": positions,
                "next_positions": positions + 1,
            }
            self.tensors |= {name: of_random_tokens[name] for name in batches.fields}

    def fill(self, batches: Iterable[Batch]) -> None:
        """Copy drawn texts into the tensors; each batch has those of the next steps, (steps, B, T)."""
        start = 0
        for batch in batches:
            end = start + len(batch.tokens)
            if self.is_fast:
                self.tensors["tokens"][start:end, :, :-1].copy_(batch.tokens)
                self.tensors["tokens"][start:end, :, -1].copy_(batch.targets[..., -1])
            else:
                fields = batch._asdict()
                for name, tensor in self.tensors.items():
                    tensor[start:end].copy_(fields[name])
            start = end

    def randomize(self, generator: torch.Generator) -> None:
        """Replace all tokens by random ones, for the warm-up; the generator is on the CPU."""
        for name in ("tokens", "targets"):
            if name in self.tensors:
                ids = self.tensors[name]
                ids.copy_(torch.randint(self.vocab_size, ids.shape, generator=generator, dtype=ids.dtype))

    def of_step(self, step_index: Tensor) -> dict[str, Tensor]:
        """Return the inputs (B, ...) of a step, whose index (1,) int64 is modulo the number of steps."""
        index = step_index % len(self.tensors["tokens"])
        inputs = {name: tensor.index_select(0, index).squeeze(0) for name, tensor in self.tensors.items()}
        return inputs | {name: inputs[name].long() for name in ("positions", "next_positions") if name in inputs}
