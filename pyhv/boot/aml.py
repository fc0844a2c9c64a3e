"""The few AML encodings that our DSDT needs: names, packages, resources, a method that notifies.

Source: ACPI specification, chapter 20 (AML) and 6.4 (resource descriptors). Every
function returns bytes; a table is their concatenation.
"""

from __future__ import annotations

import struct

MEMORY_READ_WRITE = 1
FIXED_WINDOW = 0x0C  # general flags: minimum and maximum fixed, positive decode
PRODUCER = 0  # ... and the device hands the range on to its children


def name_string(path: str) -> bytes:
    r"""Return a NameString: ``\_SB.VMOD``, segments filled with underscores.

    :raises ValueError: a segment of more than four characters, or more than two segments.
    """
    root = path.startswith("\\")
    segments = [s.ljust(4, "_").encode() for s in path.lstrip("\\").split(".")]
    if any(len(s) != 4 for s in segments) or len(segments) > 2:
        raise ValueError(f"AML name {path}")
    prefix = b"\\" if root else b""
    return prefix + (b"." if len(segments) == 2 else b"") + b"".join(segments)


def package_length(size: int) -> bytes:
    """Return PkgLength for *size* bytes after it; the encoding counts itself.

    :raises ValueError: 2**28 bytes or more.
    """
    if size + 1 < 0x40:
        return bytes((size + 1,))
    for more in (1, 2, 3):
        total = size + 1 + more
        if total < 1 << 4 + 8 * more:
            rest = (total >> 4).to_bytes(more, "little")
            return bytes((more << 6 | total & 0x0F,)) + rest
    raise ValueError(f"AML package of {size} bytes")


def _block(opcode: bytes, body: bytes) -> bytes:
    return opcode + package_length(len(body)) + body


def integer(value: int) -> bytes:
    """Return the shortest encoding of 0..2**64-1."""
    if value in (0, 1):
        return bytes((value,))
    for prefix, size in ((0x0A, 1), (0x0B, 2), (0x0C, 4)):
        if value < 1 << 8 * size:
            return bytes((prefix,)) + value.to_bytes(size, "little")
    return b"\x0e" + value.to_bytes(8, "little")


def string(text: str) -> bytes:
    """Return an ASCII string object."""
    return b"\x0d" + text.encode("ascii") + b"\0"


def eisa_id(text: str) -> bytes:
    """Return the compressed integer of an ID such as PNP0501: three letters, four hex digits."""
    letters = [ord(letter) - 0x40 & 0x1F for letter in text[:3]]
    word = letters[0] << 10 | letters[1] << 5 | letters[2]
    return b"\x0c" + struct.pack(">HH", word, int(text[3:], 16))


def scope(path: str, *body: bytes) -> bytes:
    """Return Scope (path) { body }."""
    return _block(b"\x10", name_string(path) + b"".join(body))


def device(name: str, *body: bytes) -> bytes:
    """Return Device (name) { body }."""
    return _block(b"\x5b\x82", name_string(name) + b"".join(body))


def name(path: str, value: bytes) -> bytes:
    """Return Name (path, value)."""
    return b"\x08" + name_string(path) + value


def method(name: str, *body: bytes) -> bytes:
    """Return Method (name) { body }, without arguments."""
    return _block(b"\x14", name_string(name) + b"\0" + b"".join(body))


def notify(path: str, value: int) -> bytes:
    """Return Notify (path, value)."""
    return b"\x86" + name_string(path) + integer(value)


def package(*elements: bytes) -> bytes:
    """Return Package () { elements }; at most 255."""
    return _block(b"\x12", bytes((len(elements),)) + b"".join(elements))


def resources(*descriptors: bytes) -> bytes:
    """Return ResourceTemplate () { descriptors }; the end tag's checksum 0 means unchecked."""
    body = b"".join(descriptors) + b"\x79\0"
    return _block(b"\x11", integer(len(body)) + body)


def io(port: int, count: int) -> bytes:
    """Return IO (Decode16, port, port, 1, count)."""
    return struct.pack("<BBHHBB", 0x47, 1, port, port, 1, count)


def irq(line: int) -> bytes:
    """Return IRQNoFlags () {line}: an ISA interrupt, edge, active high."""
    return struct.pack("<BH", 0x22, 1 << line)


def memory32(base: int, size: int) -> bytes:
    """Return DWordMemory (ResourceProducer, fixed, uncached, read-write): a window below 4 GiB."""
    limit = base + size - 1
    body = struct.pack(
        "<BBB5I", 0, FIXED_WINDOW | PRODUCER, MEMORY_READ_WRITE, 0, base, limit, 0, size
    )
    return struct.pack("<BH", 0x87, len(body)) + body


def memory64(base: int, size: int) -> bytes:
    """Return QWordMemory, as memory32."""
    limit = base + size - 1
    body = struct.pack(
        "<BBB5Q", 0, FIXED_WINDOW | PRODUCER, MEMORY_READ_WRITE, 0, base, limit, 0, size
    )
    return struct.pack("<BH", 0x8A, len(body)) + body
