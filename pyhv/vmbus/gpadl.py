"""GPADLs: lists of guest pages that the guest lends to a channel, and how many it may lend."""

from __future__ import annotations

from array import array

from ..errors import BadGpa
from ..saving import fields, put
from . import protocol as p
from .rules import BrokenRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..memory import GuestMemory

PAGE = 4096
#: netvsc lends 17 MiB, fcopy 47 MiB (measured with Debian's drivers)
MAX_PAGES_PER_CHANNEL = 1 << 16
MAX_PAGES = 1 << 18
MAX_GPADLS = 2048
SAVED = ("relid", "id", "quota", "ranges", "complete", "_data", "_missing")


class Gpadl:
    """One list. ``ranges``: (byte count, offset in its first page, index of that page in *pages*).

    ``pages`` holds, once complete, the offset of each page in ``memory.bytes``.
    """

    __slots__ = ("complete", "id", "pages", "ranges", "relid", "_data", "_missing", "quota")

    def __init__(self, relid: int, gpadl: int, length: int, range_count: int) -> None:
        self.relid, self.id = relid, gpadl
        self.ranges: list[tuple[int, int, int]] = []
        self.pages = array("Q")
        self.complete = False
        self.quota = length // 8 - range_count
        self._data = bytearray()
        self._missing = length

    def add(self, data: bytes) -> bool:
        """Take the next part of the list; True when that was the last.

        :param data: what lies behind the announced bytes is padding of the message.
        :raises BrokenRule: a part that is no whole entries.
        """
        data = data[: self._missing]
        if len(data) % 8 or not data:
            raise BrokenRule("gpadl-ranges", f"{len(data)} bytes of {self._missing} missing")
        self._data += data
        self._missing -= len(data)
        return not self._missing

    def finish(self, memory: GuestMemory, range_count: int) -> None:
        """Check and keep the list.

        :raises BrokenRule: it does not add up, or a page is not RAM.
        """
        words = array("Q", bytes(self._data))
        self._data = bytearray()
        at = 0
        for _ in range(range_count):
            if at >= len(words):
                raise BrokenRule("gpadl-ranges", f"less than {range_count} ranges")
            length, offset = words[at] & 0xFFFFFFFF, words[at] >> 32
            count = (offset + length + PAGE - 1) // PAGE
            pages = words[at + 1 : at + 1 + count]
            if not length or offset >= PAGE or len(pages) != count:
                raise BrokenRule("gpadl-ranges", f"{length:#x} bytes at {offset:#x}: {count} pages")
            self.ranges.append((length, offset, len(self.pages)))
            try:
                self.pages.extend([memory.offset(page * PAGE, PAGE) for page in pages])
            except BadGpa as error:
                raise BrokenRule("gpadl-page", str(error)) from None
            at += 1 + count
        if at != len(words):
            raise BrokenRule("gpadl-ranges", f"{len(words) - at} words too many")
        self.complete = True

    def whole_pages(self) -> bool:
        """Tell whether it is nothing but whole pages, as rings are."""
        return all(offset == 0 and length % PAGE == 0 for length, offset, _ in self.ranges)


class GpadlTable:
    """All GPADLs of the guest, by id; ids are the guest's choice."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self._table: dict[int, Gpadl] = {}
        self._counts: dict[int, int] = {}  # gpadl id -> number of ranges still to be parsed
        self._pages: dict[int, int] = {}  # relid -> pages, announced ones too

    def __len__(self) -> int:
        return len(self._table)

    def get(self, relid: int, gpadl: int) -> Gpadl | None:
        """Return the complete GPADL *gpadl* of *relid*."""
        found = self._table.get(gpadl)
        return found if found is not None and found.complete and found.relid == relid else None

    def header(self, message: bytes) -> Gpadl | None:
        """Take a GPADL_HEADER; return the GPADL if it is complete by that.

        :raises BrokenRule: *gpadl* is refused and forgotten; a duplicate id leaves the old one.
        """
        relid, gpadl, length, count = p.GPADL_HEADER.unpack_from(message)
        if gpadl in self._table:
            raise BrokenRule("gpadl-duplicate", f"{gpadl:#x}")
        # one entry and at least one page per range, 8 bytes each
        if not count or length % 8 or length < 16 * count:
            raise BrokenRule("gpadl-ranges", f"{length} bytes for {count} ranges")
        new = Gpadl(relid, gpadl, length, count)
        total = sum(self._pages.values()) + new.quota
        if (
            len(self._table) >= MAX_GPADLS
            or total > MAX_PAGES
            or self._pages.get(relid, 0) + new.quota > MAX_PAGES_PER_CHANNEL
        ):
            raise BrokenRule("gpadl-quota", f"{len(self._table)} GPADLs, {total} pages")
        self._table[gpadl] = new
        self._counts[gpadl] = count
        self._pages[relid] = self._pages.get(relid, 0) + new.quota
        return self._add(new, message[p.GPADL_HEADER.size :])

    def body(self, message: bytes) -> Gpadl | None:
        """Take a GPADL_BODY; return the GPADL if it is complete by that.

        The message number is not looked at: Linux leaves it 0. Order is the connection's.

        :raises BrokenRule: nothing to continue, or the GPADL is refused and forgotten.
        """
        _, gpadl = p.GPADL_BODY.unpack_from(message)
        found = self._table.get(gpadl)
        if found is None or found.complete:
            raise BrokenRule("gpadl-unknown", f"body for {gpadl:#x}")
        return self._add(found, message[p.GPADL_BODY.size :])

    def pending(self, gpadl: int) -> int | None:
        """Return the relid of a GPADL whose bodies are still coming."""
        found = self._table.get(gpadl)
        return found.relid if found is not None and not found.complete else None

    def _add(self, gpadl: Gpadl, data: bytes) -> Gpadl | None:
        try:
            if not gpadl.add(data):
                return None
            gpadl.finish(self._memory, self._counts.pop(gpadl.id))
        except BrokenRule:
            self.remove(gpadl)
            raise
        return gpadl

    def remove(self, gpadl: Gpadl) -> None:
        """Forget one."""
        del self._table[gpadl.id]
        del gpadl.pages[:]  # who still holds the list can no longer reach the guest's pages by it
        self._counts.pop(gpadl.id, None)
        self._pages[gpadl.relid] -= gpadl.quota
        if not self._pages[gpadl.relid]:
            del self._pages[gpadl.relid]

    def find(self, gpadl: int) -> Gpadl | None:
        """Return the GPADL of any channel, complete or not."""
        return self._table.get(gpadl)

    def lent(self, relid: int) -> bool:
        """Tell whether the guest has begun to lend *relid* memory: it is opening the channel."""
        return relid in self._pages

    def remove_all_of(self, relid: int) -> None:
        """Forget what *relid* was lent; its offer is gone."""
        for gpadl in [one for one in self._table.values() if one.relid == relid]:
            self.remove(gpadl)

    def save(self) -> list[dict[str, Any]]:
        """Return all lists, also those whose bodies are still coming."""
        return [
            {**fields(one, SAVED), "pages": one.pages.tolist(), "count": self._counts.get(one.id)}
            for one in self._table.values()
        ]

    def load(self, state: list[dict[str, Any]]) -> None:
        """Undo :meth:`save` in an empty table; RAM is of the same size."""
        for row in state:
            one = Gpadl(row["relid"], row["id"], 0, 0)
            put(one, SAVED, row)
            one.ranges = [tuple(words) for words in row["ranges"]]
            one.pages.extend(row["pages"])
            self._table[one.id] = one
            if row["count"] is not None:
                self._counts[one.id] = row["count"]
            self._pages[one.relid] = self._pages.get(one.relid, 0) + one.quota

    def clear(self) -> None:
        """Forget all."""
        for gpadl in self._table.values():
            del gpadl.pages[:]
        for table in (self._table, self._counts, self._pages):
            table.clear()
