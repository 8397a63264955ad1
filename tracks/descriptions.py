"""The list of tracks: names, parameters, sizes and one example each. Imports neither torch nor NumPy."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

TEST_PROBLEMS = 1_000_000  # size of a test set that is not exhaustive
EXHAUSTIVE_DIGITS = 3  # longest operands for which the certificate decodes every problem
HELDOUT_COUNTS = {1: 0, 2: 996, 3: 99_771}  # by digits, counted; beyond, a tenth of all problems is the expectation


@dataclass(frozen=True)
class TrackDescription:
    """A track without its data. `data.get_track` builds the track itself."""

    name: str
    implementation: str  # "module:class"
    parameters: Mapping[str, Any]  # keyword arguments of the class, in addition to this description
    vocabulary: str  # character i has token id i
    prompt_length: int  # characters
    answer_length: int  # characters
    num_problems: int
    num_heldout: int  # the expected number unless `exhaustive`
    exhaustive: bool  # whether the test set is the whole problem space
    is_stream: bool  # whether training texts are windows of one long text
    example_text: str  # a problem with its right answer
    form: str = ""  # how a problem is written, in words

    @property
    def solved(self) -> str:
        """What solved means on this track."""
        if self.exhaustive:
            return f"0 errors in all {self.num_problems:,} problems"
        return f"0 errors in {TEST_PROBLEMS:,} held-out problems"


def describe_addition(digits: int, reverse: bool = False, signs: bool = True, name: str = "") -> TrackDescription:
    """Describe `tracks.addition.Addition` with these parameters; `signs`: whether the text contains `+` and `=`."""
    a, b = ((pattern * digits)[:digits] for pattern in ("381", "350"))
    answer = f"{int(a) + int(b):0{digits + 1}}"
    return TrackDescription(
        name=name or f"add{digits}" + "-reversed" * reverse,
        implementation="tracks.addition:Addition",
        parameters={"digits": digits, "reverse": reverse},
        vocabulary="0123456789" + "+=" * signs,
        prompt_length=2 * digits + 2 * signs,
        answer_length=digits + 1,
        num_problems=100**digits,
        num_heldout=HELDOUT_COUNTS.get(digits, 100**digits // 10),
        exhaustive=digits <= EXHAUSTIVE_DIGITS,
        is_stream=False,
        example_text=(f"{a}+{b}=" if signs else a + b) + (answer[::-1] if reverse else answer),
        form=f"{digits} digits each, zero-padded, " + ("with + between, then =" if signs else "without + and ="),
    )


ADDITION_STREAM = replace(
    describe_addition(3, name="add3-report"),
    implementation="tracks.addition_stream:AdditionStream",
    vocabulary="\n+0123456789=",  # nanoGPT's order
    num_problems=810_000,
    num_heldout=624_902,
    is_stream=True,
)

TRACKS: dict[str, TrackDescription] = {
    description.name: description
    for description in (
        *(describe_addition(digits, reverse) for reverse in (False, True) for digits in range(1, 21)),
        describe_addition(3, reverse=True, signs=False, name="add3-mingpt"),
        ADDITION_STREAM,
    )
}
