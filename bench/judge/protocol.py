"""The protocol between a judge and a contestant: messages over a stream socket, which docs/PROTOCOL.md describes.

A message is a line of JSON, `{"KIND": {…}}`. If its values have the key `bytes`, so many bytes follow the line.
"""

import json
import os
import socket
from typing import Any, NamedTuple

INTERFACE = 1  # version of the protocol
DESCRIPTOR_VARIABLE = "ADDITION_SPEEDRUN_JUDGE"  # the file descriptor of the contestant's end of the socket
MOST_LINE_BYTES, MOST_PAYLOAD_BYTES = 2**24, 2**33


class ProtocolError(Exception):
    """The other side sent what the protocol does not allow, or is gone; the message is one line."""


class Message(NamedTuple):
    """A message as it was received."""

    kind: str
    values: dict[str, Any]
    payload: bytes = b""


class Channel:
    """One end of the socket."""

    def __init__(self, end: socket.socket) -> None:
        self.socket, self.stream = end, end.makefile("rb")

    def send(self, kind: str, payload: bytes | None = None, **values: Any) -> None:
        """Send a message; raises ProtocolError if nobody can receive it."""
        if payload is not None:
            values["bytes"] = len(payload)
        line = json.dumps({kind: values}, allow_nan=False).encode() + b"\n"
        try:
            self.socket.sendall(line + (payload or b""))
        except OSError as problem:
            raise ProtocolError(f"the other side of the protocol is gone ({problem.strerror})") from None

    def receive(self) -> Message | None:
        """Wait for the next message; None if the other side has closed the socket. Raises ProtocolError."""
        try:
            line = self.stream.readline(MOST_LINE_BYTES)
        except TimeoutError:
            raise ProtocolError("the contestant was silent for longer than its limit") from None
        except OSError:
            return None
        if not line:
            return None
        try:
            ((kind, values),) = json.loads(line).items()
            size = values.get("bytes", 0)
        except (ValueError, AttributeError):
            raise ProtocolError(f"not a message of the protocol: {line[:80]!r}") from None
        if type(size) is not int or not 0 <= size <= MOST_PAYLOAD_BYTES:
            raise ProtocolError(f"{kind}: bytes must be a whole number up to {MOST_PAYLOAD_BYTES:,}, got {size!r}")
        payload = self.stream.read(size) if size else b""
        if len(payload) < size:
            raise ProtocolError(f"{kind}: {size:,} bytes were announced, and {len(payload):,} came")
        return Message(kind, values, payload)

    def expect(self, kind: str) -> Message:
        """Receive a message of this kind; raises ProtocolError for any other, or none."""
        message = self.receive()
        if message is None or message.kind != kind:
            raise ProtocolError(f"expected the message {kind}, got {'none' if message is None else message.kind}")
        return message

    @property
    def is_closed(self) -> bool:
        return self.stream.closed

    def close(self) -> None:
        self.stream.close()
        self.socket.close()


def judge_channel() -> Channel | None:
    """The channel to the judge that started this process; None without one. A child process does not inherit it."""
    descriptor = os.environ.pop(DESCRIPTOR_VARIABLE, "")
    if not descriptor.isdecimal():
        return None
    os.set_inheritable(int(descriptor), False)
    return Channel(socket.socket(fileno=int(descriptor)))
