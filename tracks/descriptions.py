"""The list of tracks: names, parameters, sizes and one example each. Imports neither torch nor NumPy."""

import functools
import hashlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from bench.errors import nearest_hint

TEST_PROBLEMS = 1_000_000  # size of a test set that is not exhaustive
EXHAUSTIVE_DIGITS = 3  # longest operands for which the certificate decodes every problem
HELDOUT_COUNTS = {1: 0, 2: 996, 3: 99_771}  # by digits, counted; beyond, a tenth of all problems is the expectation

TRUTH = {"true": True, "false": False}
TrackSettings = Mapping[str, bool | int | float | str]


class BatchOptions(NamedTuple):
    """The settings that batches depend on; see `settings.Settings`."""

    level_share: float = 0.0
    loss_on: str = "answer"
    sampling: str = "independent"
    order: str = "left-to-right"
    window: int = 0


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
    is_one_length: bool = True  # whether all training texts have the same number of tokens
    has_orders: bool = False  # whether its texts can be generated in any order, as by the setting `order`
    has_windows: bool = False  # whether training texts can be windows of one long text, as by the setting `window`
    learns_prompts: bool = True  # whether prompts may have a loss, as by the setting `loss_on`
    form: str = ""  # how a problem is written, in words
    target: str = ""  # what solved means, if it is not that all problems are answered rightly
    config: str = ""  # its default config, if it is not named after the track
    splits: Callable[[], Mapping[str, int]] | None = None  # counts the problems of each set, if they are listed

    @property
    def example_text(self) -> str:
        """A problem with its right answer."""
        return self.example_prompt + self.example_answer

    @property
    def has_validation(self) -> bool:
        """Whether the track names a validation set."""
        return self.splits is not None and "validation" in self.splits()

    @property
    def heldout_count(self) -> int:
        """The number of held-out problems: counted where they are listed, which may take 10 ms, else `num_heldout`."""
        return self.num_heldout if self.splits is None else self.splits().get("heldout", self.num_heldout)

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
        return f"0 errors in {TEST_PROBLEMS:,} held-out problems"


def check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless a value is one of the choices."""
    if value not in choices:
        raise ValueError(f"track_settings.{key} must be {' or '.join(choices)}, got {value!r}")


# -----------------------------------------------------------------------------
# addition


def describe_addition(digits: int, reverse: bool = False, signs: bool = True, name: str = "") -> TrackDescription:
    """Describe `tracks.addition.Addition` with these parameters; `signs`: whether the text contains `+` and `=`."""
    a, b = ((pattern * digits)[:digits] for pattern in ("381", "350"))
    answer = f"{int(a) + int(b):0{digits + 1}}"
    return TrackDescription(
        name=name or f"add{digits}" + "-reversed" * reverse,
        implementation="tracks.addition:Addition",
        batches="tracks.addition_batches:AdditionBatches",
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
    batches="tracks.addition_stream:StreamBatches",
    vocabulary="\n+0123456789=",  # nanoGPT's order
    num_problems=810_000,
    num_heldout=624_902,
    is_stream=True,
)


ADDITION_OMNIVAULT = replace(
    describe_addition(2, name="add2-omnivault"),
    implementation="tracks.addition_omnivault:AdditionOmnivault",
    batches="tracks.batches:ListBatches",
    parameters={},
    vocabulary=(*"0123456789+*-=", "<BOS>", "<EOS>", "<PAD>", "<UNK>"),
    prompt_length=7,
    answer_length=4,
    num_heldout=1000,
    config="add2-recipe",
    splits=lambda: {"train": 7000, "validation": 2000, "heldout": 1000},
)


# -----------------------------------------------------------------------------
# modular arithmetic

MODULAR_SIGNS = {"modadd": "+", "modsub": "-", "moddiv": "/"}
MAX_MODULUS = 1009  # its table has a million problems


def describe_modular(
    name: str,
    *,
    p: int = 97,
    tokens: str = "numbers",
    training_share: float = 0.5,
    validation_share: float = 0.1,
) -> TrackDescription:
    """Describe `tracks.modular.Modular`; raises ValueError for parameters that no track can have."""
    if not is_prime(p):
        nearest = min(filter(is_prime, range(3, MAX_MODULUS + 1)), key=lambda prime: abs(prime - p))
        raise ValueError(f"track_settings.p must be a prime from 3 to {MAX_MODULUS}, such as {nearest}; got {p}")
    check_choice("tokens", tokens, ("numbers", "characters"))
    shares = {"training_share": training_share, "validation_share": validation_share}
    for key, share in shares.items():
        if not 0 < share < 1:
            raise ValueError(f"track_settings.{key} must be above 0 and below 1, got {share}")
    if sum(shares.values()) >= 1:
        raise ValueError(
            f"track_settings.training_share ({training_share}) and validation_share ({validation_share}) must leave "
            "a rest for the test; together they must be below 1"
        )
    sign, is_division, test_share = MODULAR_SIGNS[name], name == "moddiv", 1 - sum(shares.values())
    num_problems = p * (p - 1 if is_division else p)
    if num_problems * min(*shares.values(), test_share) < 50 and (
        empty := [key for key, count in count_splits(sign, p, *shares.values()).items() if not count]
    ):  # a larger set is empty with a probability below 1e-21
        raise ValueError(
            f"track_settings: with p = {p}, training_share = {training_share} and validation_share = "
            f"{validation_share} no pair is in the set {empty[0]}; choose larger shares or a larger p"
        )
    digits = len(str(p - 1))
    are_numbers = tokens == "numbers"
    changed = "" if are_numbers else "-characters"
    for key, share, default in (("train", training_share, 0.5), ("validation", validation_share, 0.1)):
        changed += f"-{key}-{share:g}" if share != default else ""
    a, b = 93 % p, 5 % p or 1
    answer = {"+": a + b, "-": a - b, "/": a * pow(b, -1, p)}[sign] % p
    return TrackDescription(
        name=f"{name}-{p}{changed}",
        implementation="tracks.modular:Modular" if are_numbers else "tracks.modular:ModularCharacters",
        batches="tracks.batches:ListBatches",
        parameters={"sign": sign, "p": p, **shares},
        vocabulary=(*map(str, range(p)), sign, "=") if are_numbers else f"0123456789{sign}=;",
        prompt_length=4 if are_numbers else 2 * digits + 2,
        answer_length=1 if are_numbers else digits + 1,
        num_problems=num_problems,
        num_heldout=round(num_problems * test_share),
        exhaustive=True,
        is_stream=False,
        example_prompt=f"{a}{sign}{b}=",
        example_answer=str(answer),
        is_one_length=are_numbers,
        form=f"two numbers below {p} with {sign} between, then =" + "; the second is not 0" * is_division,
        target=f"0 errors in all test pairs, about {test_share:.0%} of {num_problems:,}",
        config=f"{name}-{p}" + "-characters" * (not are_numbers),
        splits=functools.partial(count_splits, sign, p, training_share, validation_share),
    )


@functools.cache
def count_splits(sign: str, p: int, training_share: float, validation_share: float) -> dict[str, int]:
    """Count the pairs of each set of `tracks.modular.Modular`; its docstring has the rule."""
    counts = {"train": 0, "validation": 0, "heldout": 0}
    for a in range(p):
        h = splitmix64(a)
        for b in range(sign == "/", p):
            share = (splitmix64(h ^ b) >> 11) * 2.0**-53
            is_training, is_validation = share < training_share, share < training_share + validation_share
            counts["train" if is_training else "validation" if is_validation else "heldout"] += 1
    return counts


def splitmix64(x: int) -> int:
    """Return the output of SplitMix64 (Steele, Lea and Flood, 2014) for state x; `tracks.hashing` in Python."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def is_prime(p: int) -> bool:
    """Whether p is a prime from 3 to MAX_MODULUS."""
    return 3 <= p <= MAX_MODULUS and all(p % divisor for divisor in range(2, math.isqrt(p) + 1))


# -----------------------------------------------------------------------------
# one text

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
        batches="tracks.batches:ListBatches",
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


# -----------------------------------------------------------------------------
# the list

Describe = Callable[..., TrackDescription]
DESCRIBE: dict[str, Describe] = {
    **{name: functools.partial(describe_modular, name) for name in MODULAR_SIGNS},
    "memorize": describe_memorize,
}

TRACKS: dict[str, TrackDescription] = {
    **{
        description.name: description
        for description in (
            *(describe_addition(digits, reverse) for reverse in (False, True) for digits in range(1, 21)),
            describe_addition(3, reverse=True, signs=False, name="add3-mingpt"),
            ADDITION_STREAM,
            ADDITION_OMNIVAULT,
        )
    },
    **{name: describe() for name, describe in DESCRIBE.items()},
}


def default_track_settings(name: str) -> dict[str, Any]:
    """Return the settings of a track with their defaults; empty for a track without settings."""
    if name not in DESCRIBE:
        return {}
    parameters = inspect.signature(DESCRIBE[name]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def read_track_settings(track: str, texts: Mapping[str, str]) -> dict[str, bool | int | float | str]:
    """Return the values of track settings that are written as texts, by the types of their defaults.

    A text that has not the right type stays a text; `describe_track` refuses it.
    """
    defaults, values = default_track_settings(track), {}
    for key, text in texts.items():
        kind = type(defaults.get(key, ""))
        try:
            values[key] = TRUTH.get(text.lower(), text) if kind is bool else kind(text)
        except ValueError:
            values[key] = text
    return values


def describe_track(name: str, settings: TrackSettings | None = None) -> TrackDescription:
    """Describe a track with the given settings, and the defaults of the others.

    Raises KeyError for a track that TRACKS lacks, ValueError for a setting that the track lacks or a wrong value.
    """
    if name not in TRACKS:
        raise KeyError(name)
    defaults = default_track_settings(name)
    for key, value in (settings or {}).items():
        if key not in defaults:
            known = nearest_hint(key, defaults) if defaults else ", as it has none"
            raise ValueError(f"track_settings.{key} is not a setting of the track {name}{known}")
        kind = type(defaults[key])
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ValueError(f"track_settings.{key} must be {KIND_NAMES[kind]}, got {value!r}")
    return DESCRIBE[name](**(settings or {})) if defaults else TRACKS[name]


KIND_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
