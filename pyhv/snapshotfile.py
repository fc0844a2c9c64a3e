"""A snapshot in a file: a header, JSON, and RAM as it lies in memory, so that it can be mapped.

::

    0     header, one page: HEADER below, then zeros
    4096  state: JSON (saving.py), zeros up to a page
    ...   RAM, each byte at its offset from ``ram_at``; pages of zeros are holes of the file
    ...   what snapshot=on drives had written, as the state's "overlays" says

Little-endian. ``state_crc`` and ``header_crc`` are CRC-32 (zlib), the latter of the header up to
itself; the state's "extents" has [offset, bytes, CRC-32] for each run of RAM that is no hole, and
"tail" [bytes, CRC-32] for what is behind RAM.
"""

from __future__ import annotations

import os
import zlib
from struct import Struct

from .errors import ConfigError, HostError
from .record import Record
from .saving import from_json, to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

PAGE = 4096
MAGIC = b"pyhvsnap"
VERSION = 1
# magic, version, state_crc, state_bytes, ram_at, ram_bytes, file_bytes; then header_crc
HEADER, CRC = Struct("<8sIIQQQQ"), Struct("<I")
STATE_LIMIT = 1 << 28
CHUNK = 1 << 20


class Contents(Record):
    """An open file: *state*, and RAM of *ram_bytes* from *ram_at* on in *fd*, which is yours.

    Behind RAM is the rest, *tail* on.
    """

    state: dict[str, Any]
    fd: int
    ram_at: int
    ram_bytes: int

    @property
    def tail(self) -> int:
        """Where in the file RAM ends."""
        return self.ram_at + self.ram_bytes


def write(
    path: str, state: dict[str, Any], fd: int, at: int, size: int,
    extents: list[tuple[int, int]], tail: Iterable[bytes] = (),
) -> None:  # fmt: skip
    """Write the file in one step: whoever has an older one mapped keeps that.

    :param state: what JSON takes, see saving.py.
    :param fd: RAM, *size* bytes from *at* on, of which *extents* (offset, bytes) are not zero.
    :param tail: what comes behind RAM, piece by piece.
    :raises HostError: no room, no permission.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        out = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write(out, state, fd, at, size, extents, tail)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        finally:
            os.close(out)
    except OSError as error:
        raise HostError(f"snapshot {path}: {error.strerror}") from error


def _write(
    out: int, state: dict[str, Any], fd: int, at: int, size: int,
    extents: list[tuple[int, int]], tail: Iterable[bytes],
) -> None:  # fmt: skip
    # the checksums are as long as themselves: RAM's place is known before they are
    room = len(to_json(state)) + 64 * (len(extents) + 2)
    ram_at = PAGE + (room + PAGE - 1) // PAGE * PAGE
    rows = []
    for offset, length in extents:
        crc, done = 0, 0
        while done < length:
            data = os.pread(fd, min(CHUNK, length - done), at + offset + done)
            if not data:
                raise OSError(5, "the snapshot's memory is shorter than it was")
            _pwrite(out, data, ram_at + offset + done)
            crc, done = zlib.crc32(data, crc), done + len(data)
        rows.append([offset, length, crc])
    end, crc = ram_at + size, 0
    for piece in tail:
        _pwrite(out, piece, end)
        end, crc = end + len(piece), zlib.crc32(piece, crc)
    os.ftruncate(out, end)
    rest = [end - ram_at - size, crc]
    text = to_json({**state, "extents": rows, "tail": rest}).encode()
    _pwrite(out, text, PAGE)
    head = HEADER.pack(MAGIC, VERSION, zlib.crc32(text), len(text), ram_at, size, end)
    _pwrite(out, head + CRC.pack(zlib.crc32(head)), 0)


def _pwrite(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, at)
        view, at = view[done:], at + done


def read(path: str) -> Contents:
    """Open and check the file; its RAM, too, is read once.

    :raises ConfigError: it is no snapshot, or not whole. HostError: it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise HostError(f"snapshot {path}: {error.strerror}") from error
    try:
        return _read(path, fd)
    except OSError as error:
        os.close(fd)
        raise HostError(f"snapshot {path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        os.close(fd)
        raise ConfigError(f"snapshot {path}: of another pyhv: {error!r}") from error
    except BaseException:
        os.close(fd)
        raise


def _read(path: str, fd: int) -> Contents:
    head = os.pread(fd, HEADER.size + CRC.size, 0)
    if not head.startswith(MAGIC):
        raise ConfigError(f"snapshot {path}: not a snapshot of pyhv; Snapshot.save() writes one")
    if len(head) < HEADER.size + CRC.size:
        raise ConfigError(f"snapshot {path}: cut short: {len(head)} bytes")
    _, version, state_crc, state_bytes, ram_at, ram_bytes, file_bytes = HEADER.unpack_from(head)
    if version != VERSION:
        raise ConfigError(
            f"snapshot {path}: version {version}, this pyhv has {VERSION}; take it anew"
        )
    if zlib.crc32(head[: HEADER.size]) != CRC.unpack_from(head, HEADER.size)[0]:
        raise ConfigError(f"snapshot {path}: damaged: its header's checksum is wrong")
    there = os.fstat(fd).st_size
    if there != file_bytes:
        raise ConfigError(f"snapshot {path}: cut short: {there} bytes of {file_bytes}")
    text = os.pread(fd, min(state_bytes, STATE_LIMIT), PAGE)
    if len(text) != state_bytes or zlib.crc32(text) != state_crc:
        raise ConfigError(f"snapshot {path}: damaged: its state's checksum is wrong")
    state = from_json(text)
    for offset, length, wanted in [*state["extents"], [ram_bytes, *state["tail"]]]:
        crc, done = 0, 0
        while done < length:
            data = os.pread(fd, min(CHUNK, length - done), ram_at + offset + done)
            if not data:
                break
            crc, done = zlib.crc32(data, crc), done + len(data)
        if crc != wanted:
            raise ConfigError(
                f"snapshot {path}: damaged: the checksum of what is at {offset:#x} is wrong"
            )
    return Contents(state, fd, ram_at, ram_bytes)
