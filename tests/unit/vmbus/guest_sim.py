"""A guest without KVM: it drives the VMBus server by messages and rings, as Linux's drivers do.

Everything is synchronous: :meth:`Guest.post` and :meth:`GuestChannel.signal` return when the
server has done all it will do. Used by the tests here and by tools/bench_storage.py.
"""

from __future__ import annotations

import os
import select
import struct
from collections import deque
from typing import NamedTuple

from pyhv.memory import GuestMemory
from pyhv.vmbus import protocol as p
from pyhv.vmbus.server import VmbusServer

PAGE = 4096
MEMORY = 16 << 20


class FakeSynic:
    """SynicPort: keeps messages and signals. ``full`` makes the slot queue look long."""

    def __init__(self) -> None:
        self.messages: deque[tuple[int, int, int, bytes]] = deque()
        self.signals: list[tuple[int, int, int]] = []
        self.handlers: dict[int, object] = {}
        self.bound: dict[int, int] = {}
        self.full = False

    def post_message(self, vp_index: int, sint: int, message_type: int, payload: bytes) -> None:
        assert len(payload) <= 240
        self.messages.append((vp_index, sint, message_type, payload))

    def event_signaller(self, vp_index: int, sint: int, flag: int):
        assert 0 < flag < 2048

        def signal() -> None:
            if len(self.signals) > 1000:  # a fuzzer's, which looks at none
                self.signals.clear()
            self.signals.append((vp_index, sint, flag))

        return signal

    def connect_messages(self, connection_id: int, handler) -> None:
        self.handlers[connection_id] = handler

    def bind_event(self, connection_id: int, eventfd: int) -> None:
        assert connection_id not in self.bound
        self.bound[connection_id] = eventfd

    def unbind_event(self, connection_id: int) -> None:
        self.bound.pop(connection_id, None)

    def drop_messages(self, vp_index: int, sint: int, message_type: int) -> None:
        which = (vp_index, sint, message_type)
        self.messages = deque(one for one in self.messages if one[:3] != which)

    def messages_waiting(self, vp_index: int, sint: int) -> int:
        return 1 << 30 if self.full else 0

    def reference_ticks(self) -> int:
        return 12345


class FakeEvents:
    """Events: runs what is due when told."""

    def __init__(self) -> None:
        self.callbacks: dict[int, object] = {}
        self.calls: deque = deque()
        self.timers: list[tuple[float, object]] = []
        self._poll = select.poll()

    def add(self, fd: int, callback) -> None:
        self.callbacks[fd] = callback
        self._poll.register(fd, select.POLLIN)

    def remove(self, fd: int) -> None:
        if self.callbacks.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def call(self, function) -> None:
        self.calls.append(function)

    def after(self, seconds: float, function) -> None:
        self.timers.append((seconds, function))

    def expire(self) -> None:
        """Run all timers that are set now."""
        timers, self.timers = self.timers, []
        for _, function in timers:
            function()
        self.run()

    def run(self, rounds: int = 1000) -> None:
        """Run until nothing is due; a server that never comes to rest fails."""
        for _ in range(rounds):
            while self.calls:
                self.calls.popleft()()
            ready = self._poll.poll(0) if self.callbacks else []
            if not ready and not self.calls:
                return
            for fd, _ in ready:
                if fd in self.callbacks:
                    self.callbacks[fd]()
        raise AssertionError("the server does not come to rest")


class Offer(NamedTuple):
    """What an OFFERCHANNEL said."""

    class_guid: bytes
    instance_guid: bytes
    flags: int
    mmio_megabytes: int
    user_data: bytes
    sub_index: int
    relid: int
    monitor_id: int
    monitor_allocated: int
    dedicated: int
    connection_id: int


class Guest:
    """A machine's memory, SynIC and server, seen from the guest."""

    def __init__(
        self, *devices, vp_count: int = 2, memory: int = MEMORY, capacity: int = 0, **options
    ) -> None:
        self.memory = GuestMemory(memory, capacity)
        self.synic, self.events = FakeSynic(), FakeEvents()
        self.server = VmbusServer(self.memory, self.synic, self.events, vp_count, **options)
        for device in devices:
            self.server.offer(device)
        self.next_page, self.next_gpadl = 16, 0xE1E10
        self.offers: dict[int, Offer] = {}

    def close(self) -> None:
        self.server.close()
        assert not self.synic.bound
        assert not self.events.callbacks
        self.memory.close()

    # memory

    def pages(self, count: int, scattered: bool = False) -> list[int]:
        """Return fresh zeroed guest page numbers; *scattered*: no two are neighbours."""
        step = 2 if scattered else 1
        found = list(range(self.next_page, self.next_page + count * step, step))
        self.next_page += count * step
        for page in found:
            self.memory.zero(page * PAGE, PAGE)
        return found[::-1] if scattered else found

    # messages

    def post(self, message: bytes, connection: int = 1, message_type: int = 1) -> int:
        """HvCallPostMessage; 18 where no handler is connected."""
        handler = self.synic.handlers.get(connection)
        status = handler(message_type, message) if handler else 18
        self.events.run()
        return status

    def received(self) -> list[bytes]:
        """Return and forget the messages in the slot and behind it."""
        found = [message[3] for message in self.synic.messages]
        self.synic.messages.clear()
        for message in found:
            if message[:4] == b"\1\0\0\0":
                offer = Offer(*p.OFFER_CHANNEL.unpack(message)[2:])
                self.offers[offer.relid] = offer
        return found

    def ask(self, message: bytes, connection: int = 1) -> list[bytes]:
        """Post *message* and return the answers."""
        self.received()
        assert self.post(message, connection) == 0
        return self.received()

    def contact(self, version: int = p.VERSION_WIN10_V5_3, vp: int = 0, sint: int = 2) -> bool:
        """INITIATE_CONTACT; True if the version was accepted."""
        new = version >= p.VERSION_WIN10_V5
        message = struct.pack("<IIIIQQQ", 14, 0, version, vp, sint if new else 0, 1, 2)
        if self.post(message, 4 if new else 1):
            return False
        (answer,) = self.received()
        assert answer[:8] == b"\x0f" + bytes(7)
        assert len(answer) == 16
        return bool(answer[8])

    def request_offers(self) -> list[Offer]:
        """REQUESTOFFERS; the last message is ALLOFFERS_DELIVERED."""
        *offers, end = self.ask(struct.pack("<II", 3, 0))
        assert end == struct.pack("<II", 4, 0)
        return [Offer(*p.OFFER_CHANNEL.unpack(offer)[2:]) for offer in offers]

    def connect(self, version: int = p.VERSION_WIN10_V5_3) -> list[Offer]:
        """Contact and offers."""
        assert self.contact(version)
        return self.request_offers()

    def gpadl_messages(
        self, relid: int, ranges: list[tuple[int, int, list[int]]], gpadl: int | None = None
    ) -> tuple[int, list[bytes]]:
        """Return the id and the messages that lend *ranges* (bytes, offset, page numbers)."""
        if gpadl is None:
            gpadl = self.next_gpadl
            self.next_gpadl += 1
        data = b"".join(
            struct.pack(f"<II{len(pages)}Q", length, offset, *pages)
            for length, offset, pages in ranges
        )
        messages = [struct.pack("<IIIIHH", 8, 0, relid, gpadl, len(data), len(ranges)) + data[:216]]
        for at in range(216, len(data), 224):
            body = struct.pack("<IIII", 9, 0, at // 224, gpadl)
            messages.append(body + data[at : at + 224])
        return gpadl, messages

    def lend(self, relid: int, pages: list[int]) -> int:
        """Lend whole pages; return the GPADL id."""
        gpadl, messages = self.gpadl_messages(relid, [(len(pages) * PAGE, 0, pages)])
        answers = [answer for message in messages for answer in self.ask(message)]
        assert answers == [struct.pack("<IIIII", 10, 0, relid, gpadl, 0)]
        return gpadl

    def open_message(self, relid: int, gpadl: int, out_page: int, vp: int = 0) -> bytes:
        open_id = relid + 100 & 0xFFFFFFFF
        return struct.pack("<IIIIIII", 5, 0, relid, open_id, gpadl, vp, out_page) + bytes(120)

    def open(
        self, relid: int, pages: tuple[int, int] = (32, 32), scattered: bool = False, vp: int = 0
    ) -> GuestChannel:
        """Lend rings of header and data pages, open the channel."""
        ring = self.pages(sum(pages), scattered)
        gpadl = self.lend(relid, ring)
        self.received()
        assert self.post(self.open_message(relid, gpadl, pages[0], vp)) == 0
        first = self.received()[0]
        assert first == struct.pack("<IIIII", 6, 0, relid, relid + 100, 0)
        return GuestChannel(self, relid, ring[: pages[0]], ring[pages[0] :], gpadl, vp)


class Packet(NamedTuple):
    """A packet from the host."""

    kind: int
    flags: int
    transaction: int
    data: bytes


class GuestChannel:
    """The guest's ends of both rings; follows the signalling rules like a good driver."""

    def __init__(
        self, guest: Guest, relid: int, out: list[int], inner: list[int], gpadl: int, vp: int
    ) -> None:
        self.guest, self.relid, self.gpadl, self.vp = guest, relid, gpadl, vp
        self.out_pages, self.in_pages = out, inner
        self.out_size, self.in_size = (len(out) - 1) * PAGE, (len(inner) - 1) * PAGE
        self.connection_id = guest.offers[relid].connection_id
        self.signals_sent = 0
        guest.memory.write_u32(out[0] * PAGE + 64, 1)

    # raw access

    def word(self, ring: list[int], offset: int) -> int:
        return self.guest.memory.read_u32(ring[0] * PAGE + offset)

    def set_word(self, ring: list[int], offset: int, value: int) -> None:
        self.guest.memory.write_u32(ring[0] * PAGE + offset, value)

    def _copy_in(self, at: int, data: bytes) -> None:
        while data:
            at %= self.out_size
            n = min(len(data), PAGE - at % PAGE)
            page = self.out_pages[1 + at // PAGE]
            self.guest.memory.write(page * PAGE + at % PAGE, data[:n])
            at, data = at + n, data[n:]

    def _copy_out(self, at: int, length: int) -> bytes:
        found = b""
        while length:
            at %= self.in_size
            n = min(length, PAGE - at % PAGE)
            page = self.in_pages[1 + at // PAGE]
            found += self.guest.memory.read(page * PAGE + at % PAGE, n)
            at, length = at + n, length - n
        return found

    # driver's view

    def room(self) -> int:
        write, read = self.word(self.out_pages, 0), self.word(self.out_pages, 4)
        return self.out_size - (write - read) % self.out_size

    def put(self, packet: bytes) -> bool:
        """Append a packet with its header; True if the host must be signalled."""
        write = self.word(self.out_pages, 0)
        assert self.room() > len(packet) + 8, "ring full"
        self._copy_in(write, packet + struct.pack("<Q", write << 32))
        end = (write + len(packet) + 8) % self.out_size
        self.set_word(self.out_pages, 0, end)
        return not self.word(self.out_pages, 8) and write == self.word(self.out_pages, 4)

    def send(self, packet: bytes) -> None:
        """Append, and signal by the rules."""
        if self.put(packet):
            self.signal()

    def signal(self) -> None:
        """HvCallSignalEvent, and all that follows from it."""
        fd = self.guest.synic.bound.get(self.connection_id)
        if fd is not None:
            self.signals_sent += 1
            os.eventfd_write(fd, 1)
            self.guest.events.run()

    def receive(self, limit: int = 1 << 30) -> list[Packet]:
        """Take packets out; signal if the host waits for the room."""
        found: list[Packet] = []
        write, start = self.word(self.in_pages, 0), self.word(self.in_pages, 4)
        read = start
        while read != write and len(found) < limit:
            head = self._copy_out(read, 16)
            kind, offset8, length8, flags, transaction = struct.unpack("<HHHHQ", head)
            assert 2 <= offset8 <= length8
            whole = self._copy_out(read, length8 * 8 + 8)
            assert whole[-8:] == struct.pack("<Q", read << 32), "trailer"
            found.append(Packet(kind, flags, transaction, whole[offset8 * 8 : -8]))
            read = (read + length8 * 8 + 8) % self.in_size
        self.set_word(self.in_pages, 4, read)
        pending = self.word(self.in_pages, 12)
        free = self.in_size - (write - read) % self.in_size
        moved = (read - start) % self.in_size
        if self.word(self.in_pages, 64) & 1 and pending and free - moved <= pending < free:
            self.signal()
        return found

    def reopen(self) -> GuestChannel:
        """Close it, or what a broken rule closed, take the rings' pages back and lend them anew."""
        guest, pages = self.guest, self.out_pages + self.in_pages
        guest.post(self.close_message())
        guest.ask(struct.pack("<IIII", 11, 0, self.relid, self.gpadl))
        after, guest.next_page = guest.next_page, min(pages)
        channel = guest.open(self.relid, (len(self.out_pages), len(self.in_pages)))
        guest.next_page = max(after, guest.next_page)
        return channel

    def close_message(self) -> bytes:
        return struct.pack("<III", 7, 0, self.relid)


def packet(
    kind: int, data: bytes, transaction: int = 1, flags: int = 1, extra: bytes = b""
) -> bytes:
    """Return a ring packet; *extra* is the type's own header."""
    body = data + bytes(-len(data) % 8)
    offset8 = (16 + len(extra)) // 8
    return (
        struct.pack("<HHHHQ", kind, offset8, offset8 + len(body) // 8, flags, transaction)
        + extra + body
    )  # fmt: skip


def gpa_ranges(ranges: list[tuple[int, int, list[int]]]) -> bytes:
    """Return the extra header of a GPA-direct packet: (bytes, offset, page numbers) each."""
    return struct.pack("<II", 0, len(ranges)) + b"".join(
        struct.pack(f"<II{len(pages)}Q", length, offset, *pages)
        for length, offset, pages in ranges
    )
