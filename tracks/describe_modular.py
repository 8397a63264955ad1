"""Descriptions of the tracks of modular arithmetic. Imports neither torch nor NumPy."""

import functools
import math

from tracks.description import TrackDescription, check_choice

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
        batches="tracks.batches.problems:ListBatches",
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
