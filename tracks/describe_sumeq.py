"""The description of the track of sum equalities. Imports neither torch nor NumPy."""

from tracks.description import TrackDescription

LARGEST = 99  # absolute value of a number
NUMBERS = 2 * LARGEST + 1
TRAINING_LINES, VALIDATION_PROMPTS, TEST_PROMPTS = 10_000, 1_024, 5_000
LONGEST_LINE = 14  # characters


def describe_sumeq(*, padded: bool = False) -> TrackDescription:
    """Describe `tracks.sumeq.Sumeq`; `padded` numbers are a sign and two digits."""
    return TrackDescription(
        name="sumeq-padded" if padded else "sumeq",
        implementation="tracks.sumeq:Sumeq",
        batches="tracks.batches.sumeq:SumeqBatches",
        parameters={"padded": padded},
        vocabulary=("<pad>", *"0123456789+-="),
        prompt_length=9,
        answer_length=8,
        num_problems=sum((NUMBERS - abs(total)) ** 2 for total in range(-2 * LARGEST, 2 * LARGEST + 1)),
        num_heldout=TEST_PROMPTS,
        exhaustive=False,
        is_stream=False,
        example_prompt="+93-32==" if padded else "93-32==",
        example_answer="+41+20" if padded else "41+20",
        has_one_answer=False,
        is_one_length=False,
        has_orders=True,
        context=LONGEST_LINE + 2,
        form=f"two numbers from -{LARGEST} to {LARGEST}, "
        + ("each a sign and two digits, then ==" if padded else "with + or - between, then =="),
        target=f"99% of the completions of {TEST_PROMPTS:,} test prompts are true equalities (lower 95% bound)",
        config="sumeq-padded" if padded else "sumeq",
        splits=count_splits,
    )


def count_splits() -> dict[str, int]:
    """The problems of each set of `tracks.sumeq.Sumeq`."""
    return {"train": TRAINING_LINES, "validation": VALIDATION_PROMPTS, "heldout": TEST_PROMPTS}
