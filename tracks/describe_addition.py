"""Descriptions of the tracks of addition. Imports neither torch nor NumPy."""

from dataclasses import replace

from tracks.description import TrackDescription

EXHAUSTIVE_DIGITS = 3  # longest operands for which the certificate decodes every problem
HELDOUT_COUNTS = {1: 0, 2: 996, 3: 99_771}  # by digits, counted; beyond, a tenth of all problems is the expectation


def describe_addition(digits: int, reverse: bool = False, signs: bool = True, name: str = "") -> TrackDescription:
    """Describe `tracks.addition.Addition` with these parameters; `signs`: whether the text contains `+` and `=`."""
    a, b = ((pattern * digits)[:digits] for pattern in ("381", "350"))
    answer = f"{int(a) + int(b):0{digits + 1}}"
    return TrackDescription(
        name=name or f"add{digits}" + "-reversed" * reverse,
        implementation="tracks.addition:Addition",
        batches="tracks.batches.addition:AdditionBatches",
        parameters={"digits": digits, "reverse": reverse},
        vocabulary="0123456789" + "+=" * signs,
        prompt_length=2 * digits + 2 * signs,
        answer_length=digits + 1,
        num_problems=100**digits,
        num_heldout=HELDOUT_COUNTS.get(digits, 100**digits // 10),
        exhaustive=digits <= EXHAUSTIVE_DIGITS,
        is_stream=False,
        example_prompt=f"{a}+{b}=" if signs else a + b,
        example_answer=answer[::-1] if reverse else answer,
        form=f"{digits} digits each, zero-padded, " + ("with + between, then =" if signs else "without + and ="),
    )


ADDITION_STREAM = replace(
    describe_addition(3, name="add3-report"),
    implementation="tracks.addition_stream:AdditionStream",
    batches="tracks.batches.addition_stream:StreamBatches",
    vocabulary="\n+0123456789=",  # nanoGPT's order
    num_problems=810_000,
    num_heldout=624_902,
    is_stream=True,
    context=16,
)


ADDITION_OMNIVAULT = replace(
    describe_addition(2, name="add2-omnivault"),
    implementation="tracks.addition_omnivault:AdditionOmnivault",
    batches="tracks.batches.problems:ListBatches",
    parameters={},
    vocabulary=(*"0123456789+*-=", "<BOS>", "<EOS>", "<PAD>", "<UNK>"),
    prompt_length=7,
    answer_length=4,
    num_heldout=1000,
    config="add2-recipe",
    splits=lambda: {"train": 7000, "validation": 2000, "heldout": 1000},
)
