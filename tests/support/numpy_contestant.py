"""A contestant of the track `memorize` in plain NumPy, by docs/PROTOCOL.md alone."""

import hashlib
import json
import os
import socket

import numpy as np
from safetensors.numpy import save

TEXT = ["<BOS>", *"I love machine learning", "<EOS>"]
C, T, V = 64, len(TEXT) - 1, len(set(TEXT))
CONFIG = {
    "vocab_size": V,
    "block_size": T,
    "n_layer": 1,
    "n_head": 1,
    "n_embd": C,
    "n_hidden": 4,
    "activation": "gelu",
    "norm": "rms",
    "init": "identity",
    "embedding_std": 1.0,
}
SHAPES = {
    "token": (V, C),
    "position": (T, C),
    "blocks.0.attention.qkv": (3, C, C),
    "blocks.0.attention.out": (C, C),
    "blocks.0.mlp.up": (4, C),
    "blocks.0.mlp.down": (C, 4),
    "head": (V, C),
}


def initial_weights(seed: int) -> dict[str, np.ndarray]:
    """The law of initial weights; what writes to the residual stream, and the head, start at 0."""
    weights = {}
    for name, shape in SHAPES.items():
        digest = hashlib.sha256(f"{seed} 0 {name}".encode()).digest()
        numbers = np.random.RandomState(np.frombuffer(digest, "<u4")).standard_normal(shape).astype(np.float32)
        role = name.rpartition(".")[2]
        std = {"token": 1.0, "position": 1.0, "qkv": C**-0.5, "up": C**-0.5}.get(role, 0.0)
        weights[name] = numbers * np.float32(std) if std else np.zeros(shape, np.float32)
    return weights


def trained(weights: dict[str, np.ndarray], ids: np.ndarray) -> dict[str, np.ndarray]:
    """Fit the head by gradient descent; the layer before it stays the identity."""
    x = weights["token"][ids[:-1]] + weights["position"]
    x /= np.sqrt((x**2).mean(-1, keepdims=True))
    head, targets = weights["head"].astype(np.float64), np.eye(V)[ids[1:]]
    for _ in range(2000):
        shares = np.exp(x @ head.T)
        shares /= shares.sum(-1, keepdims=True)
        head -= 0.1 * (shares - targets).T @ x
    return {**weights, "head": head.astype(np.float32)}


def main() -> None:
    judge = socket.socket(fileno=int(os.environ["ADDITION_SPEEDRUN_JUDGE"]))
    lines = judge.makefile("r")

    def send(kind: str, payload: bytes = b"", **values: object) -> None:
        judge.sendall(json.dumps({kind: values}).encode() + b"\n" + payload)

    send("hello", interface=1, track="memorize")
    send("ready")
    start = json.loads(lines.readline())["start"]
    vocabulary = json.loads(start["vocabulary"])
    weights = initial_weights(start["seed"])
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].tobytes())
    metadata = {
        "track": "memorize",
        "vocabulary": start["vocabulary"],
        "model": json.dumps(CONFIG),
        "settings": json.dumps({"track": "memorize"}),
    }
    content = save(trained(weights, np.array([vocabulary.index(token) for token in TEXT])), metadata)
    send("trained", content, bytes=len(content), initial_sha256=digest.hexdigest())
    print(json.loads(lines.readline())["certified"]["outcome"])


if __name__ == "__main__":
    main()
