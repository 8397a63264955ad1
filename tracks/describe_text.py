"""The description of the track of a text in a file. Imports neither torch nor NumPy."""

import math
import re

from tracks.description import TrackDescription, check_choice
from tracks.text_file import characters_of, file_problem, find_file, size_and_example

TOKENS = ("bytes", "characters", "bpe")
BYTES = 256
DEFAULT_VOCABULARY, MAX_VOCABULARY = 1024, 65_536  # tokens of byte-pair encoding
MAX_CONTEXT = 4096  # tokens
TEST_PLACES = 1_000  # of the held-out part at which the next token is asked
NO_TARGET = "no target: the bits per byte of its last tenth are measured"


def describe_text(
    *,
    file: str = "",
    tokens: str = "bytes",
    vocabulary: int = 0,
    merges: str = "",
    context: int = 64,
    bits_per_byte: float = 0.0,
) -> TrackDescription:
    """Describe `tracks.text.Text`.

    `file` is a path, or the hash by which settings are filed. The description of a text that cannot be read here has
    one token in place of unknown characters; `problem` says why it cannot be read. The tokens of byte-pair encoding
    are known when the track is prepared, and so is `merges`, their hash; here their number counts.
    """
    check_choice("tokens", tokens, TOKENS)
    if tokens == "bpe":
        vocabulary = vocabulary or DEFAULT_VOCABULARY
        if not BYTES < vocabulary <= MAX_VOCABULARY:
            raise ValueError(
                f"track_settings.vocabulary must be from {BYTES + 1} to {MAX_VOCABULARY}, got {vocabulary}"
            )
    elif vocabulary:
        raise ValueError(f"track_settings.vocabulary is the size of tokens = bpe; leave it 0 with {tokens}")
    if merges and (tokens != "bpe" or not re.fullmatch("[0-9a-f]{64}", merges)):
        raise ValueError(
            "track_settings.merges is the hash of the merges of tokens = bpe, found in setup; leave it out"
        )
    if not 2 <= context <= MAX_CONTEXT:
        raise ValueError(f"track_settings.context must be from 2 to {MAX_CONTEXT} tokens, got {context}")
    if not 0 <= bits_per_byte < math.inf:
        raise ValueError(f"track_settings.bits_per_byte must be at least 0 (0: no target), got {bits_per_byte:g}")
    digest = find_file(file)
    problem = file_problem(digest)
    size, example = (0, "any text") if problem else size_and_example(digest)
    kind = {"bytes": "-bytes" * bool(digest), "characters": "-characters", "bpe": f"-bpe-{vocabulary}"}[tokens]
    name = "text" + f"-{digest[7:19]}" * bool(digest) + kind + f"-{merges[:8]}" * bool(merges)
    return TrackDescription(
        name=name + f"-{bits_per_byte:g}-bits" * bool(bits_per_byte),
        implementation="tracks.text:Text",
        batches="tracks.batches.text:TextBatches",
        parameters={"digest": digest, "tokens": tokens, "merges": merges, "bits_per_byte": float(bits_per_byte)},
        vocabulary=vocabulary_of(tokens, vocabulary, "" if problem else digest),
        prompt_length=context,
        answer_length=1,
        num_problems=size,
        num_heldout=size - size * 9 // 10,
        exhaustive=False,
        is_stream=True,
        example_prompt=example,
        example_answer="",
        has_windows=True,
        num_test=TEST_PLACES,
        has_target=bool(bits_per_byte),
        form=f"a text of at most {context:,} tokens",
        target=f"at most {bits_per_byte:g} bits per byte on its last tenth" if bits_per_byte else NO_TARGET,
        config="text",
        settings={"file": digest, "vocabulary": vocabulary},
        problem=problem,
    )


def vocabulary_of(tokens: str, size: int, digest: str) -> tuple[str, ...]:
    """Return the tokens as far as they are known before the track is prepared, at least one."""
    if tokens == "bytes":
        return byte_alphabet()
    if tokens == "characters":
        return characters_of(digest) if digest else ("<unknown>",)
    return tuple(f"<{token}>" for token in range(size))


def byte_alphabet() -> tuple[str, ...]:
    """Return a printable character for each byte, as byte-level encodings write them (GPT-2; Radford et al., 2019)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(BYTES) if byte not in printable]
    return tuple(chr(byte if byte in printable else BYTES + others.index(byte)) for byte in range(BYTES))
