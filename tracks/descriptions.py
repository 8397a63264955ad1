"""The list of tracks: names, parameters, sizes and one example each. Imports neither torch nor NumPy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EXHAUSTIVE_DIGITS = 3  # longest operands for which the certificate decodes every problem
HELDOUT_COUNTS = {1: 0, 2: 996, 3: 99_771}  # by digits, counted; beyond, a tenth of all problems is the expectation


@dataclass(frozen=True)
class TrackDescription:
    """A track without its data. `data.get_track` builds the track itself."""

    name: str
    implementation: str  # "module:class"
    parameters: Mapping[str, Any]  # keyword arguments of the class
    vocabulary: str  # character i has token id i
    prompt_length: int  # characters
    answer_length: int  # characters
    num_problems: int
    num_heldout: int  # the expected number unless `exhaustive`
    exhaustive: bool  # whether the test set is the whole problem space
    is_stream: bool  # whether training texts are windows of one long text
    example_text: str  # a problem with its right answer
    solved: str  # the condition under which a run has solved the track


def solved_exhaustive(num_problems: int) -> str:
    return f"Greedy decoding answers all {num_problems:,} problems correctly."


def describe_addition(digits: int, reverse: bool = False, **options: Any) -> TrackDescription:
    """Describe the track of `tracks.addition.Addition` with these parameters; `options` are `signs` and `name`."""
    signs, exhaustive, num_problems = options.get("signs", True), digits <= EXHAUSTIVE_DIGITS, 100**digits
    a, b = ((pattern * digits)[:digits] for pattern in ("381", "350"))
    answer = f"{int(a) + int(b):0{digits + 1}}"
    return TrackDescription(
        name=options.get("name") or f"add{digits}" + "-reversed" * reverse,
        implementation="tracks.addition:Addition",
        parameters={"digits": digits, "reverse": reverse, **options},
        vocabulary="0123456789+=" if signs else "0123456789",
        prompt_length=2 * digits + 2 * signs,
        answer_length=digits + 1,
        num_problems=num_problems,
        num_heldout=HELDOUT_COUNTS.get(digits, num_problems // 10),
        exhaustive=exhaustive,
        is_stream=False,
        example_text=(f"{a}+{b}=" if signs else a + b) + (answer[::-1] if reverse else answer),
        solved=solved_exhaustive(num_problems)
        if exhaustive
        else "Greedy decoding answers 1,000,000 held-out problems, drawn from the run's seed, correctly.",
    )


ADDITION_STREAM = TrackDescription(
    name="add3-report",
    implementation="tracks.addition_stream:AdditionStream",
    parameters={},
    vocabulary="\n+0123456789=",
    prompt_length=8,
    answer_length=4,
    num_problems=810_000,
    num_heldout=624_902,
    exhaustive=True,
    is_stream=True,
    example_text="381+350=0731",
    solved=solved_exhaustive(810_000),
)

TRACKS: dict[str, TrackDescription] = {
    description.name: description
    for description in (
        *(describe_addition(digits, reverse) for reverse in (False, True) for digits in range(1, 21)),
        describe_addition(3, reverse=True, signs=False, name="add3-mingpt"),
        ADDITION_STREAM,
    )
}
