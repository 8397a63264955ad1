"""The models that the judge can compute: the keys of their configs, and the names and shapes of their weights."""

import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

SIZES = ("vocab_size", "block_size", "n_layer", "n_head", "n_embd", "n_hidden")
CHOICES: dict[str, tuple[Any, ...]] = {  # the default comes first; older files lack the keys of later options
    "activation": ("gelu", "gelu_tanh", "silu", "relu2", "swiglu"),
    "norm": ("rms", "layer", "layer_gain"),
    "norm_position": ("pre", "post"),
    "bias": ("none", "mlp", "all"),
    "position_encoding": ("learned", "rotary", "relative"),
    "tied": (False, True),
    "bigrams": (False, True),
    "any_order": (False, True),
}
WITHOUT_EFFECT = ("embedding_std", "init", "dropout", "shared_dropout")  # they matter in training only
NEXT_POSITION, PAIR = "next_positions.next_position", "bigrams.pair"  # names of weights


def complete_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config with every key that the forward pass depends on.

    Raises ValueError for a key or a value of a model that the judge cannot compute.
    """
    known: dict[str, Any] = {name: choices[0] for name, choices in CHOICES.items()} | {"attention_window": 0}
    for name, value in config.items():
        if name in WITHOUT_EFFECT:
            continue
        if name in SIZES:
            is_known, form = type(value) is int and value > 0, "a whole number above 0"
        elif name == "attention_window":
            is_known, form = type(value) is int and value >= 0, "a whole number, at least 0"
        elif name in CHOICES:
            is_known, form = value in CHOICES[name], f"one of {', '.join(map(str, CHOICES[name]))}"
        else:
            raise ValueError(f"the judge cannot certify a model with the unknown setting {reprlib.repr(name)}")
        if not is_known:
            raise ValueError(f"the judge cannot certify a model with {name} = {reprlib.repr(value)}; it must be {form}")
        known[name] = value
    missing = [name for name in (*SIZES, "activation") if name not in config]
    if missing:
        raise ValueError(f"the judge cannot certify a model whose config lacks {', '.join(missing)}")
    C, nh = known["n_embd"], known["n_head"]
    if C % nh or (known["position_encoding"] == "rotary" and C // nh % 2):
        even = " into heads of an even width" if known["position_encoding"] == "rotary" else ""
        raise ValueError(f"the judge cannot certify a model with n_embd = {C}: n_head = {nh} must divide it{even}")
    if known["attention_window"] and known["position_encoding"] != "relative":
        raise ValueError("the judge cannot certify a model with attention_window but without relative positions")
    return known


def weight_shapes(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and the shape of every weight of a model with a complete config."""
    V, L, C, H, nh = (config[name] for name in ("vocab_size", "block_size", "n_embd", "n_hidden", "n_head"))
    has_bias, has_gain = config["bias"] != "none", config["norm"] == "layer_gain"
    matrices = {"up": (H, C), "gate": (H, C), "down": (C, H)}
    if config["activation"] != "swiglu":
        del matrices["gate"]

    def of_norm(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        if has_gain:
            yield f"{name}.gain", (C,)
        if has_gain and has_bias:
            yield f"{name}.bias", (C,)

    yield "token", (V, C)
    if config["position_encoding"] == "learned":
        yield "position", (L, C)
    if config["any_order"]:
        yield NEXT_POSITION, (L, C)
    if config["bigrams"]:
        yield PAIR, (V + 1, V, C)
    for i in range(config["n_layer"]):
        block = f"blocks.{i}"
        yield f"{block}.attention.qkv", (3, C, C)
        yield f"{block}.attention.out", (C, C)
        if config["bias"] == "all":
            yield f"{block}.attention.qkv_bias", (3 * C,)
            yield f"{block}.attention.out_bias", (C,)
        if config["position_encoding"] == "relative":  # windows grow with depth in equal steps
            window = -(-config["attention_window"] * (i + 1) // config["n_layer"])
            yield f"{block}.attention.distance_bias", (nh * (window or L),)
        for name, shape in matrices.items():
            yield f"{block}.mlp.{name}", shape
            if has_bias:
                yield f"{block}.mlp.{name}_bias", shape[:1]
        yield from of_norm(f"{block}.attention_norm")
        yield from of_norm(f"{block}.mlp_norm")
    yield from of_norm("norm")
    if not config["tied"]:
        yield "head", (V, C)
    if has_bias:
        yield "head_bias", (V,)


def check_weights(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError if the weights are not those that a complete config describes."""
    described = set()
    for name, shape in weight_shapes(config):
        if name not in weights:
            raise ValueError(f"the weights lack {name}, which the model's config describes")
        if tuple(weights[name].shape) != shape or not weights[name].is_floating_point():
            found = f"{tuple(weights[name].shape)} of {str(weights[name].dtype).removeprefix('torch.')}"
            raise ValueError(f"the weight {name} is {found}; the model's config describes floats of shape {shape}")
        described.add(name)
    others = [name for name in weights if name not in described]
    if others:
        raise ValueError(f"the weights hold {reprlib.repr(others[0])}, which the model's config does not describe")
