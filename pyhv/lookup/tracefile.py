"""The lines of a file that pyhv's tracer wrote, or of standard input; it may be packed by gzip."""

from __future__ import annotations

from ..errors import ConfigError
from .text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader

LINE_LIMIT = 1 << 23  # bytes, with those of packets and of memory; what is longer is no event
GZIP = b"\x1f\x8b"


class Unreadable(ConfigError):
    """The file cannot be read; the text names it."""


def shown(name: str) -> str:
    """Return what to call the file *name*, ``-`` for standard input."""
    return printable("standard input" if name == "-" else name)


def lines(name: str) -> Iterator[str]:
    """Yield the lines of the file *name*.

    :raises Unreadable: it is not there, or what gzip packed is damaged.
    """
    try:
        with open(0 if name == "-" else name, "rb") as raw:
            if raw.peek(2)[:2] == GZIP:
                yield from _unpacked(name, raw)
                return
            while line := raw.readline(LINE_LIMIT):
                yield line.decode(errors="replace")
    except OSError as error:
        raise Unreadable(f"{shown(name)}: {error.strerror or error}") from error


def _unpacked(name: str, raw: BufferedReader) -> Iterator[str]:
    import gzip
    import zlib

    try:
        with gzip.GzipFile(fileobj=raw) as file:
            while line := file.readline(LINE_LIMIT):
                yield line.decode(errors="replace")
    except (EOFError, zlib.error) as error:
        raise Unreadable(f"{shown(name)}: damaged: {error}") from error
