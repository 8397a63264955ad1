"""Training batches of addition problems."""

from functools import cached_property

from torch import Tensor

from tracks.batches.problems import ProblemBatches, list_sampler
from tracks.batches.sampling import DigitSampler, Sampler, one_digit_changed


class AdditionBatches(ProblemBatches):
    """Texts of drawn problems; a problem's level is the number of places whose digits sum to 9.

    Whether such a place carries depends on the places below it: a model that writes the most significant digit first
    must look ahead through them. The units do not count, as they receive no carry.
    """

    @cached_property
    def sampler(self) -> Sampler:
        if self.options.sampling == "epochs":
            return list_sampler(self.track.sets["train"], self.options.sampling, self.device)
        return DigitSampler(self.track.digits, self.is_training, self.options.level_share, self.device)

    def is_training(self, rows: Tensor) -> Tensor:
        """Return which rows (N, W) of any digits are training problems, (N,) bool on the same device."""
        # The rule is applied to the rows, since building the table of all problems takes longer.
        return ~self.track.is_heldout_by_rule(rows)

    def nearby(self, problems: Tensor) -> Tensor:
        """Return problems (N, W) uint8 and all training problems with one digit changed, (M, W), each once."""
        rows = one_digit_changed(problems)
        return rows[self.is_training(rows)]
