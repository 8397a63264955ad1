"""The description of the track of words. Imports neither torch nor NumPy."""

from tracks.description import TrackDescription

CONSONANTS, VOWELS = "bcdfghjk", "aeiou"
END, SEPARATOR = ";", "\n"  # after each word, in this order
MOST_LETTERS = 6
NUM_WORDS = 3  # before the word that is asked for
WORDS_PER_INITIAL = 5 * 7 * 4 + 5 * 7 * 4 * 6 * 3  # of 4 and of 6 letters
NUM_PROMPTS = 8 * 7 * 6 * WORDS_PER_INITIAL**NUM_WORDS
TEST_SHARE = VALIDATION_SHARE = 0.05  # of all prompts
TEST_WORDS, VALIDATION_WORDS = 10_000, 2_000
MAX_INVALID, MAX_DISTANCE = 0.01, 0.03  # of a solved track, upper 95% bounds


WORDS = TrackDescription(
    name="words",
    implementation="tracks.words:Words",
    batches="tracks.batches.words:WordBatches",
    parameters={},
    vocabulary=CONSONANTS + VOWELS + END + SEPARATOR,
    prompt_length=NUM_WORDS * (MOST_LETTERS + 2),
    answer_length=MOST_LETTERS + 1,
    num_problems=NUM_PROMPTS,
    num_heldout=round(NUM_PROMPTS * TEST_SHARE),
    exhaustive=False,
    is_stream=False,
    example_prompt="bidu;\nkefo;\ncuga;\n",
    example_answer="dafibe",
    has_one_answer=False,
    is_sampled=True,
    is_one_length=False,
    has_uniform_texts=True,
    has_windows=True,
    has_validation_set=True,
    num_test=TEST_WORDS,
    context=64,
    training_tokens=30,
    form="three words, each ended by ; and a line break, of 4 or 6 different letters from bcdfghjk and aeiou in turn, "
    "which start with different letters",
    target=f"of {TEST_WORDS:,} sampled words 99% valid, lengths and letters within {MAX_DISTANCE} of the rule's",
)
