"""The guest's page tables: what a guest-virtual address is in guest-physical memory, and why.

Intel SDM vol. 3, ch. 4 (AMD APM vol. 2, ch. 5): no paging, 32-bit, PAE, 4 and 5 levels. Only the
tables in RAM are looked at, never a TLB, and no accessed or dirty bit is set.
"""

from __future__ import annotations

from .errors import BadGpa
from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .memory import GuestMemory

CR0_PG, CR4_PSE, CR4_PAE, CR4_LA57, EFER_LMA = 1 << 31, 1 << 4, 1 << 5, 1 << 12, 1 << 10
PRESENT, WRITABLE, USER, LARGE, NO_EXECUTE = 1 << 0, 1 << 1, 1 << 2, 1 << 7, 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000
PAGE = 4096


class Entry(Record):
    """A step of a walk: the table's *name*, where the entry lies, and its value."""

    name: str
    gpa: int
    value: int


class Walk(Record):
    """What a walk found.

    ``gpa``: where the byte is, None when nothing is mapped; then ``why`` says where it ended.
    ``size``: of the page in bytes. ``writable``, ``user`` and ``executable``: by all its entries.
    """

    gpa: int | None
    entries: tuple[Entry, ...]
    why: str = ""
    size: int = PAGE
    writable: bool = True
    user: bool = True
    executable: bool = True


class Mode(Record):
    """A paging mode: the tables' names from the top, bits of index each, bytes of an entry."""

    name: str
    tables: tuple[str, ...]
    index_bits: int
    entry_bytes: int
    address_bits: int


MODES = {
    "none": Mode("no paging", (), 0, 0, 64),
    "32": Mode("32-bit", ("PDE", "PTE"), 10, 4, 32),
    "pae": Mode("PAE", ("PDPTE", "PDE", "PTE"), 9, 8, 32),
    "4": Mode("4 levels", ("PML4E", "PDPTE", "PDE", "PTE"), 9, 8, 48),
    "5": Mode("5 levels", ("PML5E", "PML4E", "PDPTE", "PDE", "PTE"), 9, 8, 57),
}


def mode(cr0: int, cr4: int, efer: int) -> str:
    """Return the key in MODES that these registers choose."""
    if not cr0 & CR0_PG:
        return "none"
    if not cr4 & CR4_PAE:
        return "32"
    if not efer & EFER_LMA:
        return "pae"
    return "5" if cr4 & CR4_LA57 else "4"


def walk(memory: GuestMemory, registers: dict[str, int], gva: int) -> Walk:
    """Walk the tables of a vCPU for the address *gva*.

    :param registers: cr0, cr3, cr4 and efer are read (cpustate.snapshot has them).
    """
    cr4 = registers["cr4"]
    chosen = mode(registers["cr0"], cr4, registers["efer"])
    how = MODES[chosen]
    if chosen == "none":
        return Walk(gva, (), size=1 << 32)
    if how.address_bits == 32:
        gva &= 0xFFFFFFFF
    elif gva >> how.address_bits - 1 not in (0, (1 << 65 - how.address_bits) - 1):
        return Walk(None, (), f"{gva:#x} is not canonical")
    table = registers["cr3"] & (0xFFFFFFE0 if chosen == "pae" else ADDRESS)
    shift = 12 + how.index_bits * len(how.tables)
    entries: list[Entry] = []
    rights, no_execute = WRITABLE | USER, 0
    for name in how.tables:
        shift -= how.index_bits
        index = gva >> shift & (1 << how.index_bits) - 1
        at = table + index * how.entry_bytes
        try:
            value = int.from_bytes(memory.read(at, how.entry_bytes), "little")
        except BadGpa:
            return Walk(None, tuple(entries), f"the {name} at {at:#x} is outside RAM")
        entries.append(Entry(name, at, value))
        if not value & PRESENT:
            return Walk(None, tuple(entries), f"the {name} at {at:#x} is not present")
        if not (chosen == "pae" and name == "PDPTE"):  # a PAE PDPTE has no rights
            rights &= value
            no_execute |= value & NO_EXECUTE if how.entry_bytes == 8 else 0
        large = value & LARGE and (name == "PDE" or (name == "PDPTE" and chosen in "45"))
        if large and (chosen != "32" or cr4 & CR4_PSE) or name == "PTE":
            size = 1 << shift
            base = value & ADDRESS & ~(size - 1)
            if large and chosen == "32":  # PSE-36: bits 20:13 are bits 39:32
                base = value & 0xFFC00000 | (value >> 13 & 0xFF) << 32
            return Walk(
                base | gva & size - 1, tuple(entries), "", size,
                bool(rights & WRITABLE), bool(rights & USER), not no_execute,
            )  # fmt: skip
        table = value & ADDRESS if how.entry_bytes == 8 else value & 0xFFFFF000
    raise AssertionError("a walk ends in its last table")


def read_virtual(memory: GuestMemory, registers: dict[str, int], gva: int, length: int) -> bytes:
    """Return up to *length* bytes from *gva* on: as many as are mapped to RAM without a gap."""
    found = bytearray()
    while len(found) < length:
        at = gva + len(found)
        part = min(length - len(found), PAGE - at % PAGE)
        gpa = walk(memory, registers, at).gpa
        try:
            if gpa is None:
                break
            found += memory.read(gpa, part)
        except BadGpa:
            break
    return bytes(found)


def write_virtual(memory: GuestMemory, registers: dict[str, int], gva: int, data: bytes) -> bool:
    """Write *data* to *gva*, whatever the page's rights; False, and nothing, if a page lacks."""
    parts, done = [], 0
    while done < len(data):
        part = min(len(data) - done, PAGE - (gva + done) % PAGE)
        gpa = walk(memory, registers, gva + done).gpa
        try:
            if gpa is None:
                return False
            memory.offset(gpa, part)
        except BadGpa:
            return False
        parts.append((gpa, data[done : done + part]))
        done += part
    for gpa, piece in parts:
        memory.write(gpa, piece)
    return True
