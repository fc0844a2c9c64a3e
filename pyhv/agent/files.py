"""Files to and from the guest, in pieces: descriptors 4 and 3 of its shell are open on them."""

from __future__ import annotations

import os

from ..errors import ConfigError, HostError
from . import script

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .shell import Cancelled, GuestShell, Turn

READ_BYTES = 65536
PATH_BYTES = 4096  # PATH_MAX


def write(turn: Turn, path: str, data: bytes) -> None:
    """Make the file *path*, a word of the shell, of *data*."""
    _open_for_writing(turn, path)
    _append(turn, data)
    turn.check(["exec 4>&-"], "close")


def _open_for_writing(turn: Turn, path: str) -> None:
    turn.check([f"command exec 4>{path}"], "open")


def _append(turn: Turn, data: bytes) -> None:
    shell = turn.shell
    while data:
        lines = []
        for _ in range(4 if shell.line == script.SHORT_LINE else 1):
            line, size = script.append(data, shell.base64, shell.line)
            lines.append(line)
            data = data[size:]
            if not data:
                break
        turn.check(lines, "write")


def _path(turn: Turn, remote: str | bytes | os.PathLike) -> None:
    data = os.fsencode(remote)
    if not data or b"\0" in data or len(data) > PATH_BYTES:
        raise ConfigError(f"{turn.what}: {remote!r}: no path")
    turn.type(script.assign("o", data, turn.shell.line))


def push(
    shell: GuestShell, local: str | os.PathLike | bytes, remote: str, timeout: float,
    cancelled: Cancelled = None,
) -> None:  # fmt: skip
    """See :meth:`pyhv.commands.Commands.push`."""
    what = f"push {remote}"
    if isinstance(local, (bytes, bytearray, memoryview)):
        _push(shell.turn(what, timeout, cancelled), iter((bytes(local),)), False, remote)
        return
    try:
        with open(local, "rb") as file:
            runs = bool(os.fstat(file.fileno()).st_mode & 0o100)
            pieces = iter(lambda: file.read(READ_BYTES), b"")
            _push(shell.turn(what, timeout, cancelled), pieces, runs, remote)
    except OSError as error:
        if isinstance(error, HostError):
            raise
        raise ConfigError(f"push {os.fspath(local)}: {error.strerror or error}") from error


def _push(turn: Turn, pieces: Iterator[bytes], runs: bool, remote: str) -> None:
    with turn:
        _path(turn, remote)
        _open_for_writing(turn, '"$o"')
        for piece in pieces:
            _append(turn, piece)
        turn.check(["exec 4>&-"], "close")
        if runs:
            turn.check(['chmod +x "$o"'], "chmod")


def pull(
    shell: GuestShell, remote: str, take: Callable[[bytes], object], timeout: float,
    cancelled: Cancelled = None,
) -> None:  # fmt: skip
    """See :meth:`pyhv.commands.Commands.pull`; *take* gets the file piece by piece."""
    with shell.turn(f"pull {remote}", timeout, cancelled) as turn:
        _path(turn, remote)
        turn.check(['[ ! -p "$o" ] && [ ! -d "$o" ] || ! echo "a pipe or a folder" >&2'], "open")
        turn.check(['command exec 3<"$o"'], "open")
        while True:
            frame = turn.ask(f"dd bs={READ_BYTES} count=1 <&3 2>$E", READ_BYTES)
            if frame.status:
                turn.check(["cat $E >&2; exit 1"], "read")
            if not frame.out.data:
                break
            take(bytes(frame.out.data))
        turn.check(["exec 3<&-"], "close")


def limited(
    take: Callable[[bytes], object], limit: int | None, remote: str
) -> Callable[[bytes], object]:
    """Return *take*, which refuses when there is more than *limit* bytes (None: no limit)."""
    size = 0

    def more(data: bytes) -> None:
        nonlocal size
        size += len(data)
        if limit is not None and size > limit:
            raise HostError(f"pull {remote}: more than {limit} bytes; give a limit=")
        take(data)

    return more
