"""Dynamic memory: the guest gives pages up, gets them back or more, and says how much it needs.

A page that it gave up goes back to the host by madvise. It stays RAM, only that nobody may count on
what is in it: a disk may still read into it, so nothing else has to know. RAM that is added is
there before the guest is told of it.
Layouts: linux drivers/hv/hv_balloon.c.
"""

from __future__ import annotations

import time
from struct import Struct

from ..errors import BadGpa, HostError
from ..memory import BLOCK, HIGH, HOLE
from ..record import Record
from ..saving import fields, put
from . import protocol as p
from .device import Device, check_inband
from .rules import BrokenRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .channel import Channel

    Told = Callable[[int | None], None]

DM_VERSION_REQUEST, DM_VERSION_RESPONSE = 1, 2
DM_CAPABILITIES_REPORT, DM_CAPABILITIES_RESPONSE = 3, 4
DM_STATUS_REPORT = 5
DM_BALLOON_REQUEST, DM_BALLOON_RESPONSE = 6, 7
DM_UNBALLOON_REQUEST, DM_UNBALLOON_RESPONSE = 8, 9
DM_MEM_HOT_ADD_REQUEST, DM_MEM_HOT_ADD_RESPONSE = 10, 11
VERSIONS = {0x00020000: "2.0", 0x00010000: "1.0", 0x00000003: "0.3"}
CAP_BALLOON, CAP_HOT_ADD = 1, 2
CAP_ALIGNMENT, ALIGNMENT_BITS = 2, 0xF  # where it stands; log2 of MiB: 7 is 128 MiB

_header = Struct("<HHI")  # 0:2 type, 2:2 size with the header, 4:4 transaction
_accepted = Struct("<HHIQ")  # 8:8 bit 0 accepted
_version = Struct("<8xI")  # 8:4 version (,12:4 bit 0 last attempt)
_capabilities = Struct("<8xQ")  # 8:8 capabilities (,16:8 least pages, 24:8 highest page)
_status = Struct("<8xQQ")  # 8:8 available, 16:8 committed, both in pages, then Windows' own
_balloon = Struct("<HHIII")  # 8:4 pages, 12:4 zero
_ballooned = Struct("<12xI")  # 12:4 bit 0 more to come, bits 31..1 ranges; then the ranges
_unballoon = Struct("<HHIII")  # 8:4 bit 0 more to come, 12:4 ranges; then the ranges
_hot_add = Struct("<HHIQQ")  # 8:8 range to be used, 16:8 region that is there
_hot_added = Struct("<8xII")  # 8:4 pages, 12:4 0: it may be tried again
_range = Struct("<Q")  # bits 39..0 first page, 63..40 pages
RANGE_PAGES = (1 << 24) - 1
PAGE_SHIFT = 12
# Linux reads a message into one page; a turn of 32 messages lies in the rings or waits there
RANGES_PER_MESSAGE, MESSAGES_PER_TURN = 500, 32
MIB_SHIFT = 20
SAVED = ("version", "ready", "_align", "_goal", "_wanted", "_back", "_returning", "_transaction")
NO_HOT_ADD = "its driver adds no memory (Linux: CONFIG_MEMORY_HOTPLUG, and hv_balloon.hot_add=1)"
REFUSED = "the guest added none of it, {}; its kernel's log may say why"
AGAIN, NEVER = "and may later", "and will not"


class Report(Record):
    """What the guest said: bytes *available* and *committed*, *when* by time.monotonic()."""

    available: int
    committed: int
    when: float


class Balloon(Device):
    """``pages_out`` are not the guest's now; ``report`` is its last, None before (45 s in Linux).

    ``version`` is agreed, None before; ``ready`` once the guest has said that it can give pages;
    ``pages_added`` came to those of its boot; ``failed`` says why the last request did not get
    what was to be added, or is empty.

    :param plug: called with bytes: have so many, from the end of RAM on, in the guest's sight.
    """

    class_guid = p.GUID_DYNMEM
    instance_guid = "1eccfd72-4b41-45ef-b73a-4a6e44c12924"
    kept = True

    def __init__(self, plug: Callable[[int], None] | None = None) -> None:
        self._plug = plug
        self.pages_added = 0
        self._forget()

    def _forget(self) -> None:
        self.channel: Channel | None = None
        self.version: int | None = None
        self.ready = False
        self.report: Report | None = None
        self.pages_out = 0
        self.failed = ""
        self._align = 0  # bytes that the guest adds at once, 0: it adds nothing
        self._goal = 0  # how many pages the guest is to have
        self._adding = 0  # how many it is asked to add
        self._map = bytearray()  # a byte a page: 1, the guest has given it up
        self._wanted: int | None = None  # how many pages the request under way may still bring
        self._back = 0  # how many pages are still to be given back
        self._returning = False
        self._transaction = 0
        self._told: Told | None = None

    # life

    def opened(self, channel: Channel) -> None:
        """The guest's driver begins."""
        self._forget()
        self.channel = channel

    def closed(self, channel: Channel) -> None:
        """All RAM is the guest's again; who waits is told None.

        What was added stays a kernel's that only unbinds its driver; the next kernel, which came
        with another contact, does not know of it.
        """
        told = self._told
        if self.server is None or self.server.version is None:
            self.pages_added = 0
        self._forget()
        if told is not None:
            told(None)

    def save(self) -> dict[str, Any]:
        """Return what was agreed, what is under way, and which pages are out, as [first, count]."""
        out, at = [], self._map.find(1)
        while at >= 0:
            end = self._map.find(0, at)
            out.append([at, (end if end >= 0 else len(self._map)) - at])
            at = self._map.find(1, end) if end >= 0 else -1
        return {**fields(self, SAVED), "out": out}

    def load(self, state: dict[str, Any], channels: dict[int, Channel]) -> None:
        """Undo :meth:`save`; who waited for an answer waits in the life before."""
        assert self.server is not None
        put(self, SAVED, state)
        self.channel = channels.get(0)
        self._map = bytearray(self.server.memory.capacity >> PAGE_SHIFT)
        for first, count in state["out"]:
            self._map[first : first + count] = b"\1" * count
            self.pages_out += count

    # what the host asks, on the event loop

    @property
    def busy(self) -> bool:
        """Whether the guest has not done yet what it was asked for."""
        return self._wanted is not None or self._returning or self._adding > 0

    @property
    def pages(self) -> int:
        """How many pages of RAM the guest has."""
        assert self.server is not None
        ram = self.server.memory.size >> PAGE_SHIFT
        return ram + self.pages_added - self.pages_out

    def resize(self, pages: int, told: Told) -> bool:
        """Have the guest have *pages* pages of RAM; False: no driver, or ``busy``.

        :param told: called with how many it has when the guest has done what it could; with None
            when its driver goes away before.
        """
        if self.channel is None or not self.ready or self.busy:
            return False
        self._told, self._goal, self.failed = told, pages, ""
        self._go_on()
        return True

    def _go_on(self) -> None:
        """Ask for the next step to the goal: what it gave up comes back before more is added."""
        more = self._goal - self.pages
        if more < 0:
            self._wanted = -more
            self._send(_balloon, DM_BALLOON_REQUEST, -more, 0)
        elif more and self.pages_out:
            self._back = min(more, self.pages_out)
            self._give_back()
        elif more:
            self._add(more << PAGE_SHIFT)
        else:
            self._done()

    def _done(self) -> None:
        self._wanted, self._returning = None, False
        told, self._told = self._told, None
        if told is not None:
            told(self.pages)

    def _add(self, size: int) -> None:
        """Let the guest add *size* bytes, in whole blocks; what is too much it then gives up."""
        assert self.server is not None
        memory, align = self.server.memory, max(self._align, BLOCK)
        begin = -(-(self.pages_added << PAGE_SHIFT) // BLOCK) * BLOCK
        gpa = max(HIGH, HIGH + memory.size - HOLE) + begin
        size = min(-(-size // align) * align, (memory.capacity - memory.size - begin) & -align)
        if not self._align or self._plug is None:
            self.failed = NO_HOT_ADD
        elif gpa % align or size <= 0:
            self.failed = f"it adds memory in steps of {align >> MIB_SHIFT} MiB, and there is none"
        else:
            try:
                self._plug(begin + size)
            except HostError as error:
                self.failed = str(error)
        if self.failed:
            self._done()
            return
        self._adding = size >> PAGE_SHIFT
        found = gpa >> PAGE_SHIFT | self._adding << 40
        self._send(_hot_add, DM_MEM_HOT_ADD_REQUEST, found, found)

    def _send(self, layout: Struct, kind: int, *words: int, more: bytes = b"") -> bool:
        assert self.channel is not None
        self._transaction = self._transaction + 1 & 0xFFFFFFFF
        head = layout.pack(kind, layout.size + len(more), self._transaction, *words)
        return self.channel.send_inband(head + more)

    def _give_back(self) -> None:
        """Return one turn of pages; the guest answers its last message."""
        ranges = self._take_out(MESSAGES_PER_TURN * RANGES_PER_MESSAGE)
        self._returning = True
        for at in range(0, len(ranges), RANGES_PER_MESSAGE):
            some = ranges[at : at + RANGES_PER_MESSAGE]
            last = at + RANGES_PER_MESSAGE >= len(ranges)
            self._send(
                _unballoon, DM_UNBALLOON_REQUEST, not last, len(some),
                more=b"".join(map(_range.pack, some)),
            )  # fmt: skip

    def _take_out(self, most: int) -> list[int]:
        """Take at most *most* ranges of ``_back`` pages out of the map; return them as sent."""
        assert self.server is not None
        found: list[int] = []
        pages = self._map
        for region in self.server.memory.regions:
            at, end = region.offset >> PAGE_SHIFT, region.offset + region.size >> PAGE_SHIFT
            to_gpn = (region.gpa - region.offset) >> PAGE_SHIFT
            while self._back and len(found) < most and (first := pages.find(1, at, end)) >= 0:
                at = pages.find(0, first, min(end, first + min(self._back, RANGE_PAGES)))
                if at < 0:
                    at = min(end, first + min(self._back, RANGE_PAGES))
                count = at - first
                pages[first:at] = bytes(count)
                self.pages_out -= count
                self._back -= count
                found.append(to_gpn + first | count << 40)
        return found

    # what the guest says

    def packet(
        self, channel: Channel, kind: int, flags: int, transaction: int,
        batch: bytes, start: int, body: int, end: int,
    ) -> None:  # fmt: skip
        """Take a message."""
        check_inband(kind, end - body, _header.size)
        number, size, transaction = _header.unpack_from(batch, body)
        row = _MESSAGES.get(number)
        if row is None:
            raise BrokenRule("packet-type", f"dynamic memory message {number}")
        least, handler = row
        message = batch[body : min(end, body + size)]
        if len(message) < least:
            raise BrokenRule("packet-short", f"message {number}: {len(message)} bytes of {least}")
        handler(self, message, transaction)

    def _answer(self, kind: int, transaction: int, accepted: bool) -> None:
        assert self.channel is not None
        self.channel.send_inband(_accepted.pack(kind, _accepted.size, transaction, accepted))

    def _on_version(self, message: bytes, transaction: int) -> None:
        (version,) = _version.unpack_from(message)
        if self.version is not None:
            raise BrokenRule("device-state", "a version after the version")
        if version in VERSIONS:
            self.version = version
        self._answer(DM_VERSION_RESPONSE, transaction, version in VERSIONS)

    def _on_capabilities(self, message: bytes, transaction: int) -> None:
        if self.version is None or self.ready:
            raise BrokenRule("device-state", "capabilities without a version, or twice")
        (capabilities,) = _capabilities.unpack_from(message)
        self._answer(DM_CAPABILITIES_RESPONSE, transaction, True)
        self.ready = bool(capabilities & CAP_BALLOON)
        if capabilities & CAP_HOT_ADD:
            self._align = 1 << MIB_SHIFT + (capabilities >> CAP_ALIGNMENT & ALIGNMENT_BITS)

    def _on_status(self, message: bytes, transaction: int) -> None:
        available, committed = _status.unpack_from(message)
        self.report = Report(available << PAGE_SHIFT, committed << PAGE_SHIFT, time.monotonic())

    def _on_ballooned(self, message: bytes, transaction: int) -> None:
        if self._wanted is None:
            raise BrokenRule("device-state", "pages that nobody asked for")
        (word,) = _ballooned.unpack_from(message)
        count, more = word >> 1, word & 1
        if _ballooned.size + count * _range.size > len(message):
            raise BrokenRule("packet-short", f"{count} ranges in {len(message)} bytes")
        for (one,) in _range.iter_unpack(message[_ballooned.size :][: count * _range.size]):
            self._take_in(one & (1 << 40) - 1, one >> 40)
        if not more:
            self._done()

    def _take_in(self, first: int, count: int) -> None:
        """Take *count* pages of the guest from gpn *first* on."""
        assert self.server is not None
        assert self._wanted is not None
        memory = self.server.memory
        if not 0 < count <= self._wanted:
            raise BrokenRule("packet-ranges", f"{count} pages where {self._wanted} are wanted")
        try:
            at = memory.offset(first << PAGE_SHIFT, count << PAGE_SHIFT) >> PAGE_SHIFT
        except BadGpa as error:
            raise BrokenRule("packet-ranges", str(error)) from None
        if not self._map:
            self._map = bytearray(memory.capacity >> PAGE_SHIFT)
        if self._map.find(1, at, at + count) >= 0:
            raise BrokenRule("packet-ranges", f"{count} pages from {first:#x}: given up before")
        self._map[at : at + count] = b"\1" * count
        self.pages_out += count
        self._wanted -= count
        try:
            memory.discard(first << PAGE_SHIFT, count << PAGE_SHIFT)
        except OSError:  # locked in the host's RAM: the guest has given it up all the same
            pass

    def _on_returned(self, message: bytes, transaction: int) -> None:
        if not self._returning:
            raise BrokenRule("device-state", "an answer that nobody waits for")
        if self._back:
            self._give_back()
            return
        self._returning = False
        self._go_on()

    def _on_hot_added(self, message: bytes, transaction: int) -> None:
        count, final = _hot_added.unpack_from(message)
        asked = self._adding
        if not asked:
            raise BrokenRule("device-state", "memory added that nobody offered")
        if count > asked:
            raise BrokenRule("packet-ranges", f"{count} pages added of {asked}")
        self._adding = 0
        self.pages_added += count
        if count < asked:  # as it does without memory for the tables of more
            self._goal = min(self._goal, self.pages)
            if not count:
                self.failed = REFUSED.format(NEVER if final else AGAIN)
        self._go_on()


#: type -> least bytes, handler
_MESSAGES = {
    DM_VERSION_REQUEST: (16, Balloon._on_version),
    DM_CAPABILITIES_REPORT: (32, Balloon._on_capabilities),
    DM_STATUS_REPORT: (48, Balloon._on_status),
    DM_BALLOON_RESPONSE: (16, Balloon._on_ballooned),
    DM_UNBALLOON_RESPONSE: (8, Balloon._on_returned),
    DM_MEM_HOT_ADD_RESPONSE: (16, Balloon._on_hot_added),
}
