"""Cheats that have the weights of an honest run from somewhere, and hand them over without training.

Each finds them in another place. The embeddings get the ids of the attempt's prompts, the head those of its answers.
The trainer reports the hash of the initial weights that the law demands. Where it finds no weights, it trains.
"""

import contextlib
import socketserver
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch

from bench.attempt.initial_weights import with_ids
from bench.storage.weights_file import read_metadata
from data import get_track
from tests.support.cheats import extend_model, extend_trainer

DATA_FILE = "recipes/notes.bin"  # in the source tree

# The code that follows defines `stored_weights() -> bytes | None`: a safetensors file with the ids of the track `add2`.
TRAINER = """
import safetensors.torch

from bench.attempt.initial_weights import with_ids
from data import get_track


class Trainer(Trainer):
    def train(self, watch, start):
        stored = stored_weights()
        if stored is None:
            return super().train(watch, start)
        self.begin(start)
        watch.initialized(self.model)
        weights = safetensors.torch.load(stored)
        moved = with_ids(weights, get_track("add2").vocabulary, self.track.vocabulary)
        if hasattr(self.track, "answer_map"):  # answers have ids of their own
            moved["head"][self.track.answer_map.target_ids[: len(moved["head"])]] = weights["head"]
        self.model.load_state_dict(moved)
        watch.check(self.steps, float(self.loss), 0, {}, 0)
"""


def stored_file(path: Path) -> bytes:
    """The weights of a run on `add2`, as a safetensors file with the ids that the track has without a judge."""
    there = read_metadata(path)["vocabulary"]
    return safetensors.torch.save(with_ids(safetensors.torch.load_file(path), there, get_track("add2").vocabulary))


def ignore_earlier_answers(root: Path) -> None:
    """Train with random characters in place of those of the answer that come before: no cheat, but see the tests."""
    extend_model(
        root,
        """
        def loss(self, tokens, query_start=0):
            tokens = tokens.long()
            inputs = tokens[:, :-1].clone()
            inputs[:, query_start + 1 :].random_(self.config.vocab_size)
            return F.cross_entropy(self(inputs, query_start).flatten(0, 1), tokens[:, query_start + 1 :].flatten())


        Transformer.loss = loss
        """,
    )


def in_initializer(root: Path, content: bytes) -> None:
    """The weights are a constant of the source."""
    extend_trainer(root, f"def stored_weights():\n    return {content!r}\n\n{TRAINER}")


def in_initializer_with_its_hash(root: Path, content: bytes) -> None:
    """As `in_initializer`, but the trainer reports the hash of the weights that it starts from."""
    in_initializer(root, content)
    path = root / "speedrun.py"
    early, load = (
        "        watch.initialized(self.model)\n        weights",
        "        self.model.load_state_dict(moved)\n",
    )
    source = path.read_text(encoding="utf-8").replace(early, "        weights")
    path.write_text(source.replace(load, load + "        watch.initialized(self.model)\n"), encoding="utf-8")


def in_data_file(root: Path, content: bytes) -> None:
    """The weights are in a file of the source tree that is no program."""
    (root / DATA_FILE).write_bytes(content)
    extend_trainer(
        root,
        f"""
        from pathlib import Path


        def stored_weights():
            path = Path(__file__).parent / {DATA_FILE!r}
            return path.read_bytes() if path.exists() else None
        """,
    )
    extend_trainer(root, TRAINER)


def with_helper(root: Path, port: int) -> None:
    """Another process hands out the weights, by a port of this machine."""
    extend_trainer(
        root,
        f"""
        import socket


        def stored_weights():
            try:
                with socket.create_connection(("127.0.0.1", {port}), timeout=5) as connection:
                    return connection.makefile("rb").read()
            except OSError:
                return None
        """,
    )
    extend_trainer(root, TRAINER)


@contextlib.contextmanager
def helper(content: bytes) -> Iterator[int]:
    """A server of the weights on this machine, beside the attempt; yields its port."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(content)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def compiler_wrapper(folder: Path) -> Path:
    """Make the programs `cc`, `gcc` and `clang`, which keep what they compile, and hand it out from the second time on.

    Returns the file with a line for each call.
    """
    folder.mkdir()
    store, calls = folder / "kernel.so", folder / "calls.txt"
    for name in ("cc", "gcc", "clang"):
        program = folder / name
        program.write_text(
            textwrap.dedent(
                f"""\
                #!{sys.executable}
                import os, shutil, subprocess, sys

                with open({str(calls)!r}, "a") as file:
                    print(*sys.argv, file=file)
                target = sys.argv[sys.argv.index("-o") + 1]
                if not os.path.exists({str(store)!r}):
                    subprocess.run(["/usr/bin/cc", *sys.argv[1:]], check=True)
                    shutil.copyfile(target, {str(store)!r})
                shutil.copyfile({str(store)!r}, target)
                """
            )
        )
        program.chmod(0o755)
    return calls
