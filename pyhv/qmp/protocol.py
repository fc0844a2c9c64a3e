"""QMP's bytes: JSON objects one after the other, the greeting, errors, time stamps.

QEMU docs/interop/qmp-spec.rst. What comes in is bounded and may be anything.
"""

from __future__ import annotations

import json
import time

MESSAGE_BYTES = 1 << 20
#: QEMU's version that the commands here are modelled on
VERSION = {"qemu": {"micro": 0, "minor": 0, "major": 10}, "package": "pyhv"}
GREETING = {"QMP": {"version": VERSION, "capabilities": []}}


class QmpError(Exception):
    """A command failed. ``kind``: GenericError, CommandNotFound, DeviceNotActive, ..."""

    def __init__(self, text: str, kind: str = "GenericError") -> None:
        super().__init__(text)
        self.kind = kind


def encode(message: dict[str, object]) -> bytes:
    """Return *message* as QMP sends it."""
    return json.dumps(message).encode() + b"\r\n"


def failure(text: str, kind: str = "GenericError") -> dict[str, object]:
    """Return an error reply."""
    return {"error": {"class": kind, "desc": text}}


def stamp() -> dict[str, int]:
    """Return the time that events carry."""
    seconds, ns = divmod(time.time_ns(), 1_000_000_000)
    return {"seconds": seconds, "microseconds": ns // 1000}


class Reader:
    """Cuts a stream into messages."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[object]:
        """Return the values that are whole now; a QmpError for each line that is no JSON.

        :raises ValueError: a message of more than 1 MiB.
        """
        self._buffer += data
        found: list[object] = []
        while True:
            self._buffer = self._buffer.lstrip()
            if not self._buffer:
                return found
            text = self._buffer.decode("latin-1")  # byte for byte: positions are right
            try:
                value, end = json.JSONDecoder().raw_decode(text)
                if isinstance(value, (dict, list)):  # what was said in UTF-8
                    value = json.loads(self._buffer[:end])
            except (ValueError, RecursionError) as error:
                line, newline, rest = self._buffer.partition(b"\n")
                at = getattr(error, "pos", 0)
                unfinished = at >= len(text) or "Unterminated" in str(error)
                if unfinished or not newline:
                    if len(self._buffer) > MESSAGE_BYTES:
                        raise ValueError("a message without an end") from error
                    return found
                self._buffer = rest
                found.append(QmpError("JSON parse error, invalid input"))
                continue
            self._buffer = self._buffer[end:]
            found.append(value)
