"""Small ELF files made field by field, for the ELF and multiboot tests."""

from __future__ import annotations

import struct


def note(kind: int = 18, value: bytes = b"\0\0\x20\0", name: bytes = b"Xen\0") -> bytes:
    """Return one ELF note; by default the PVH entry 0x200000."""
    pad = -len(value) % 4
    return struct.pack("<III", len(name), len(value), kind) + name + value + bytes(pad)


def elf(
    segments: list[dict[str, object]],
    entry: int = 0x200000,
    bits: int = 64,
    machine: int | None = None,
    **overrides: int,
) -> bytes:
    """Return an ELF file.

    :param segments: dicts of ``data`` (bytes) and any of type, offset, vaddr, paddr, filesz, memsz;
        what is not given follows from the data. A paddr is needed.
    :param overrides: phoff, phentsize, phnum.
    """
    head_size, entry_size = (64, 56) if bits == 64 else (52, 32)
    at = head_size + entry_size * len(segments)
    table, body = b"", b""
    for one in segments:
        data = one.get("data", b"")
        assert isinstance(data, bytes)
        offset = one.get("offset", at + len(body))
        paddr = one.get("paddr", 0)
        filesz, memsz = one.get("filesz", len(data)), one.get("memsz", len(data))
        kind, vaddr = one.get("type", 1), one.get("vaddr", paddr)
        if bits == 64:
            table += struct.pack("<IIQQQQQQ", kind, 5, offset, vaddr, paddr, filesz, memsz, 4096)
        else:
            table += struct.pack("<8I", kind, offset, vaddr, paddr, filesz, memsz, 5, 4096)
        body += data
    machine = machine if machine is not None else (62 if bits == 64 else 3)
    ident = b"\x7fELF" + bytes((2 if bits == 64 else 1, 1, 1)) + bytes(9)
    phoff, phentsize, phnum = (
        overrides.get("phoff", head_size),
        overrides.get("phentsize", entry_size),
        overrides.get("phnum", len(segments)),
    )
    form = "<16sHHIQQQIHHHHHH" if bits == 64 else "<16sHHIIIIIHHHHHH"
    head = struct.pack(
        form, ident, 2, machine, 1, entry, phoff, 0, 0, head_size, phentsize, phnum, 0, 0, 0
    )
    return head + table + body
