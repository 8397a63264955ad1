"""The description of a track, without its data. Imports neither torch nor NumPy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

TEST_PROBLEMS = 1_000_000  # size of a test set that is not exhaustive, unless the track has another


class BatchOptions(NamedTuple):
    """The settings that batches depend on; see `settings.Settings`."""

    level_share: float = 0.0
    loss_on: str = "answer"
    sampling: str = "independent"
    order: str = "left-to-right"
    window: int = 0
    earlier_loss: float = 0.0


@dataclass(frozen=True)
class TrackDescription:
    """A track without its data. `data.get_track` builds the track itself."""

    name: str  # with the parameters that distinguish it, such as moddiv-97
    implementation: str  # "module:class" of what judges
    batches: str  # "module:class" of what makes training batches
    parameters: Mapping[str, Any]  # keyword arguments of `implementation`, in addition to this description
    vocabulary: Sequence[str]  # token i has id i
    prompt_length: int  # tokens, of the longest prompt
    answer_length: int  # tokens, of the longest answer
    num_problems: int
    num_heldout: int  # the expected number unless `exhaustive`, or where `splits` counts them
    exhaustive: bool  # whether the certificate decodes every problem that counts
    is_stream: bool  # whether training texts are windows of one long text
    example_prompt: str
    example_answer: str  # the right answer to `example_prompt`
    has_one_answer: bool = True  # whether each problem has exactly one right completion
    is_sampled: bool = False  # whether the certificate samples completions, rather than decode greedily
    is_one_length: bool = True  # whether all problems have the same number of tokens
    has_uniform_texts: bool = False  # whether training texts have one length although problems have not
    has_orders: bool = False  # whether its texts can be generated in any order, as by the setting `order`
    has_windows: bool = False  # whether training texts can be windows of one long text, as by the setting `window`
    num_test: int = TEST_PROBLEMS  # largest number of problems of a test set that is not exhaustive
    context: int = 0  # positions of the model; 0: as many as the longest prompt with its answer needs
    training_tokens: int = 0  # T of the longest training text; 0: as many as the model has positions
    has_validation_set: bool = False  # whether the track names a validation set, if `splits` does not tell
    learns_prompts: bool = True  # whether prompts may have a loss, as by the setting `loss_on`
    has_target: bool = True  # whether the track can be solved; else its measures are the result, and it never ranks
    form: str = ""  # how a problem is written, in words
    target: str = ""  # what solved means, if it is not that all problems are answered rightly
    config: str = ""  # its default config, if it is not named after the track
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the track as they are filed, where not as given
    problem: str = ""  # why the problems cannot be asked here, such as a missing file, and what to do
    splits: Callable[[], Mapping[str, int]] | None = None  # counts the problems of each set, if they are listed

    @property
    def block_size(self) -> int:
        """The number of positions of the model."""
        return self.context or self.prompt_length + self.answer_length - 1

    @property
    def example_text(self) -> str:
        """A problem with its right answer."""
        return self.example_prompt + self.example_answer

    @property
    def has_validation(self) -> bool:
        """Whether the track names a validation set."""
        return self.has_validation_set or (self.splits is not None and "validation" in self.splits())

    @property
    def heldout_count(self) -> int:
        """The number of held-out problems: counted where they are listed, which may take 10 ms, else `num_heldout`."""
        return self.num_heldout if self.splits is None else self.splits().get("heldout", self.num_heldout)

    @property
    def test_count(self) -> int:
        """The number of problems of the test set."""
        return self.num_problems if self.exhaustive else min(self.heldout_count, self.num_test)

    @property
    def num_training(self) -> int | None:
        """The number of training problems; None if they are not listed."""
        if self.splits is not None:
            return self.splits().get("train")
        return self.num_problems - self.num_heldout if self.exhaustive else None

    @property
    def solved(self) -> str:
        """What solved means on this track."""
        if self.target:
            return self.target
        if self.exhaustive:
            return f"0 errors in all {self.num_problems:,} problems"
        return f"0 errors in {self.num_test:,} held-out problems"


def check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless a value is one of the choices."""
    if value not in choices:
        raise ValueError(f"track_settings.{key} must be {' or '.join(choices)}, got {value!r}")
