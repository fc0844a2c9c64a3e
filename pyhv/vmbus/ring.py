"""One direction of a channel: a ring in pages of the guest, seen by its host end.

The guest may change every byte at any time: an index is read once and checked, packets are
copied out before they are looked at, and our own index is kept here and only written there.
Signalling follows linux drivers/hv/ring_buffer.c, with the sides exchanged.
"""

from __future__ import annotations

import threading

from . import protocol as p
from .rules import BrokenRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..memory import GuestMemory

PAGE = 4096
TRAILER = 8
_trailer = p.PACKET_TRAILER.pack
# A store of ours and the load after it must not change places: x86 lets them, a locked
# instruction does not, and taking a lock has one. Several loop threads may share it.
_barrier = threading.Lock()
_barrier_enter, _barrier_leave = _barrier.acquire, _barrier.release


class Ring:
    """What both directions share.

    :param pages: offsets in ``memory.bytes`` of the header page and of one or more data pages.
    :raises BrokenRule: the indexes that are in the header now.
    """

    def __init__(self, memory: GuestMemory, pages: Sequence[int]) -> None:
        self._u32 = memory.u32
        self._bytes = memory.bytes
        header = pages[0] >> 2
        self._write_at = header + p.RING_WRITE_INDEX // 4
        self._read_at = header + p.RING_READ_INDEX // 4
        self._mask_at = header + p.RING_INTERRUPT_MASK // 4
        self._pending_at = header + p.RING_PENDING_SEND_SIZE // 4
        self._features_at = header + p.RING_FEATURE_BITS // 4
        self.size = (len(pages) - 1) * PAGE
        first = pages[1]
        if list(pages[1:]) == list(range(first, first + self.size, PAGE)):
            self._data: memoryview | None = memory.bytes[first : first + self.size]
            self._pages: tuple[int, ...] = ()
        else:  # legal, and not seen of Linux, whose rings are contiguous
            self._data, self._pages = None, tuple(pages[1:])
        self.write = self._index(self._write_at)
        self.read = self._index(self._read_at)

    def _index(self, at: int) -> int:
        value = self._u32[at]
        if value >= self.size or value & 7:
            raise BrokenRule("ring-index", f"{value:#x} of {self.size:#x}")
        return value

    def _load(self, start: int, length: int) -> bytes:
        """Return a private copy of *length* bytes from *start* on, around the end."""
        data, end = self._data, start + length
        if data is not None:
            if end <= self.size:
                return bytes(data[start:end])
            return bytes(data[start:]) + bytes(data[: end - self.size])
        return b"".join(bytes(self._bytes[at : at + n]) for at, n in self._pieces(start, length))

    def _store(self, start: int, packet: bytes) -> None:
        data, end = self._data, start + len(packet)
        if data is not None:
            if end <= self.size:
                data[start:end] = packet
            else:
                cut = self.size - start
                data[start:], data[: end - self.size] = packet[:cut], packet[cut:]
            return
        done = 0
        for at, n in self._pieces(start, len(packet)):
            self._bytes[at : at + n] = packet[done : done + n]
            done += n

    def _pieces(self, start: int, length: int) -> list[tuple[int, int]]:
        """Return (offset in ``memory.bytes``, length) of the pieces of a scattered ring's data."""
        found = []
        while length:
            start %= self.size
            n = min(length, PAGE - start % PAGE)
            found.append((self._pages[start // PAGE] + start % PAGE, n))
            start, length = start + n, length - n
        return found


class InRing(Ring):
    """Guest to host: we consume."""

    def resume(self, read: int) -> None:
        """Go on at *read*, as before a snapshot: the header is the guest's to spoil."""
        self.read = self._u32[self._read_at] = read

    def mask(self) -> None:
        """Ask the guest not to signal."""
        self._u32[self._mask_at] = 1

    def unmask(self) -> bool:
        """Ask for signals again; True if packets came meanwhile, whose signal is lost."""
        self._u32[self._mask_at] = 0
        _barrier_enter()
        _barrier_leave()
        return self._u32[self._write_at] != self.read

    def take(self) -> bytes:
        """Return a private copy of all that lies in the ring; it stays there until advance."""
        write = self._u32[self._write_at]
        if write >= self.size or write & 7:
            raise BrokenRule("ring-index", f"{write:#x} of {self.size:#x}")
        read = self.read
        if write == read:
            return b""
        if write > read and self._data is not None:
            return bytes(self._data[read:write])
        return self._load(read, (write - read) % self.size)

    def advance(self, length: int) -> bool:
        """Give *length* bytes back to the guest; True if it waits for that much room."""
        before = self.read
        read = before + length
        if read >= self.size:
            read -= self.size
        self.read = self._u32[self._read_at] = read
        # Its pending send size counts when the feature bit says so; signal once, when free space
        # goes past it (hv_pkt_iter_close). "free" is what a producer sees, so the barrier.
        if not self._u32[self._features_at] & p.RING_FEAT_PENDING_SEND_SIZE:
            return False
        _barrier_enter()
        _barrier_leave()
        wanted = self._u32[self._pending_at]
        if not wanted:
            return False
        write = self._index(self._write_at)
        free = self.size - (write - read) % self.size
        return free - length <= wanted < free


class OutRing(Ring):
    """Host to guest: we produce. Packets are the guest's from :meth:`publish` on."""

    def __init__(self, memory: GuestMemory, pages: Sequence[int]) -> None:
        super().__init__(memory, pages)
        self._published = self.write
        self._free = self.size - (self.write - self.read) % self.size
        self._waiting = False
        self._u32[self._features_at] = p.RING_FEAT_PENDING_SEND_SIZE

    @property
    def waits(self) -> bool:
        """Tell whether the guest was asked for a signal (:meth:`wait_for`)."""
        return self._waiting

    def resume(self, write: int, waits: bool) -> None:
        """Go on at *write*, as before a snapshot."""
        self.write = self._published = write
        self._waiting = waits
        self._look()

    def append(self, packet: bytes) -> bool:
        """Put in *packet*, a multiple of 8 bytes, and its trailer; False if there is no room."""
        start, need = self.write, len(packet) + TRAILER
        if self._free <= need:  # one byte stays free: a full ring must not look empty
            self._look()
            if self._free <= need:
                return False
        end = start + need
        if end <= self.size and self._data is not None:
            self._data[start:end] = packet + _trailer(start << 32)
        else:
            self._store(start, packet + _trailer(start << 32))
            if end >= self.size:
                end -= self.size
        self.write = end if end < self.size else 0
        self._free -= need
        return True

    def _look(self) -> None:
        self._free = self.size - (self.write - self._index(self._read_at)) % self.size

    def publish(self) -> bool:
        """Make what was appended visible; True if the guest must be interrupted."""
        write, before = self.write, self._published
        if write == before:
            return False
        self._u32[self._write_at] = self._published = write
        _barrier_enter()
        _barrier_leave()
        u32 = self._u32
        return not u32[self._mask_at] and u32[self._read_at] == before

    def wait_for(self, packet: bytes) -> bool:
        """Ask for a signal when *packet* fits; True if it does already. After a failed append."""
        need = len(packet) + TRAILER
        self._u32[self._pending_at] = need
        self._waiting = True
        _barrier_enter()
        _barrier_leave()
        self._look()
        return self._free > need

    def waits_no_more(self) -> None:
        """Take the wish of :meth:`wait_for` back."""
        if self._waiting:
            self._waiting = False
            self._u32[self._pending_at] = 0
