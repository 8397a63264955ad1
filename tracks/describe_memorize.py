"""The description of the track of one text. Imports neither torch nor NumPy."""

import hashlib

from tracks.description import TrackDescription

DEFAULT_TEXT = "I love machine learning"
MAX_TEXT = 4096  # characters


def describe_memorize(*, text: str = DEFAULT_TEXT, masked: int = 0) -> TrackDescription:
    """Describe `tracks.memorize.Memorize`; `masked` is the number of first characters without a loss."""
    if not 0 < len(text) <= MAX_TEXT:
        raise ValueError(f"track_settings.text must have 1 to {MAX_TEXT:,} characters, got {len(text):,}")
    try:
        digest = hashlib.sha256(text.encode()).hexdigest()
    except UnicodeEncodeError:
        raise ValueError("track_settings.text is not UTF-8; write it in UTF-8") from None
    if not 0 <= masked < len(text):
        raise ValueError(
            f"track_settings.masked must be from 0 to {len(text) - 1}, below the text's length; got {masked}"
        )
    name = "memorize" + f"-masked-{masked}" * (masked > 0)
    if text != DEFAULT_TEXT:
        name += f"-{digest[:12]}"
    return TrackDescription(
        name=name,
        implementation="tracks.memorize:Memorize",
        batches="tracks.batches.problems:ListBatches",
        parameters={"text": text},
        vocabulary=("<BOS>", "<EOS>", *sorted(set(text))),
        prompt_length=1 + masked,
        answer_length=len(text) - masked + 1,
        num_problems=1,
        num_heldout=0,
        exhaustive=True,
        is_stream=False,
        example_prompt=text[:masked],
        example_answer=text[masked:],
        form="the first characters of the text" if masked else "an empty text",
        learns_prompts=not masked,
        target="recited exactly, with a loss of at most 0.001 nats",
        config="memorize-masked" if masked else "memorize",
    )
