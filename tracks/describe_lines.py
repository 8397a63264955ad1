"""Descriptions of the tracks of lines, each of which ends with `;`. Imports neither torch nor NumPy."""

from tracks.description import TrackDescription

CONTEXT = 64  # of the published models, tokens
LARGEST_OPERAND = 100
LETTERS = sum(6**length for length in range(4, 9))  # sequences of 4 to 8 letters a..f

ADDTEXT = TrackDescription(
    name="addtext",
    implementation="tracks.addtext:AddText",
    batches="tracks.batches.addtext:AddTextBatches",
    parameters={},
    vocabulary="0123456789 +=;\n",
    prompt_length=len("100 + 100 = 200;\n100 + 100 = "),
    answer_length=len("200;"),
    num_problems=2 * (LARGEST_OPERAND + 1) ** 2,
    num_heldout=2_008,
    exhaustive=True,
    is_stream=False,
    example_prompt="13 + 29 = ",
    example_answer="42",
    is_one_length=False,
    has_windows=True,
    context=CONTEXT,
    training_tokens=32,
    form=f"two numbers up to {LARGEST_OPERAND}, alone or after a line such as '1 + 2 = 3;\\n'",
)

ACTIONS = TrackDescription(
    name="actions",
    implementation="tracks.actions:Actions",
    batches="tracks.batches.actions:ActionBatches",
    parameters={},
    vocabulary="abcdefghijklz0123456789;\n",
    prompt_length=60,
    answer_length=len("abc;"),
    num_problems=10 * LETTERS**2,
    num_heldout=LETTERS**2,
    exhaustive=False,
    is_stream=False,
    example_prompt="fedcba0;\nabcdef1",
    example_answer="abc",
    is_one_length=False,
    has_windows=True,
    num_test=20_000,
    context=CONTEXT,
    training_tokens=40,
    form="4 to 8 letters a..f and a digit, after lines of them with their results, in 60 characters",
    target="at least 99.5% right of 1,000 held-out prompts of each action, for both ways of asking",
)
