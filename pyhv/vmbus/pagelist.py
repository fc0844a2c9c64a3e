"""The data buffer of a request: guest pages by a packet's GPA ranges, as slices of guest RAM.

The list lies in the packet's private copy, so the guest cannot change it under us; what the
pages contain it can, and code that looks at contents takes a copy by :meth:`PageList.read`.
"""

from __future__ import annotations

from array import array
from struct import Struct

from ..errors import BadGpa
from . import protocol as p
from .rules import BrokenRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..disk import Buffers
    from ..iovec import IoVec
    from ..memory import GuestMemory

PAGE_SHIFT, PAGE = 12, 4096
_one_page = Struct("<4xIIIQ").unpack_from  # ranges, bytes, offset, page number
_each_page = Struct("<IIQ").iter_unpack
_range = p.GPA_RANGE.unpack_from
HEADERS = p.GPA_DIRECT_HEADER.size + p.GPA_RANGE.size


class PageList:
    """One object per device, filled anew for each request: no allocation on the hot path.

    ``length`` is what the request says it may move; the list may be shorter or longer.
    """

    __slots__ = ("_batch", "_end", "_iovec", "_low", "_memory", "_start", "length")

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self._low = memory.regions[0].size
        self._iovec: IoVec | None = None  # from the first request of several pages on
        self.set(b"", 0, 0, 0)

    def set(self, batch: bytes, start: int, end: int, length: int) -> None:
        """Point to ``batch[start:end]``, a GPA-direct packet's extra header; empty: no list."""
        self._batch, self._start, self._end, self.length = batch, start, end, length

    def views(self, need: int) -> list[memoryview]:
        """Return the first *need* bytes (1 or more) as slices of guest RAM, neighbours merged.

        :raises BrokenRule: the list is shorter, does not add up, or is not RAM.
        """
        batch, at, end = self._batch, self._start, self._end
        if end - at < HEADERS + 8:
            raise BrokenRule("packet-ranges", f"no page list for {need} bytes")
        count, length, offset, frame = _one_page(batch, at)
        if count == 1 and need <= length <= PAGE - offset:  # small requests: nothing to merge
            gpa = (frame << PAGE_SHIFT) + offset
            if gpa + need <= self._low:
                return [self._memory.bytes[gpa : gpa + need]]
        at += 8
        views: list[memoryview] = []
        try:
            for _ in range(count):
                if end - at < 8:
                    break
                length, offset = _range(batch, at)
                at += 8
                pages = (offset + length + PAGE - 1) >> PAGE_SHIFT
                after = at + pages * 8
                if offset >= PAGE or not length or after > end:
                    raise BrokenRule("packet-ranges", f"{length:#x} bytes at {offset:#x}")
                if length > need:
                    length = need
                frames = array("Q", batch[at:after])
                first = frames[0]
                if pages == 1 or (
                    frames[-1] - first == pages - 1
                    and frames.tolist() == list(range(first, first + pages))
                ):
                    gpa = (first << PAGE_SHIFT) + offset
                    if gpa + length > self._low:
                        gpa = self._memory.offset(gpa, length)
                    views.append(self._memory.bytes[gpa : gpa + length])
                else:
                    self._scattered(frames.tolist(), offset, length, views)
                need -= length
                if not need:
                    return views
                at = after
        except BadGpa as error:
            raise BrokenRule("packet-ranges", str(error)) from None
        raise BrokenRule("packet-ranges", f"{need} bytes more than the page list has")

    def buffers(self, need: int) -> Buffers:
        """Return what :meth:`views` does, for a disk and more than a page: mostly as an IoVec.

        Good until the next call.
        """
        batch, at, end = self._batch, self._start + HEADERS, self._end
        if end - at >= 8:
            count, length, offset, _ = _one_page(batch, at - HEADERS)
            after = at + ((offset + length + PAGE - 1) >> PAGE_SHIFT) * 8
            if count == 1 and length == need and offset < PAGE and after <= end:
                iovec = self._iovec
                if iovec is None:
                    from ..iovec import IoVec  # here, for guests that never need it

                    iovec = self._iovec = IoVec(self._memory)
                if iovec.fill(batch[at:after], offset, length):
                    return iovec
        return self.views(need)

    def _scattered(
        self, frames: list[int], offset: int, length: int, views: list[memoryview]
    ) -> None:
        memory, low = self._memory, self._low
        ram = memory.bytes
        ends = [i for i in range(1, len(frames)) if frames[i] != frames[i - 1] + 1]
        ends.append(len(frames))
        start = 0
        for stop in ends:
            size = ((stop - start) << PAGE_SHIFT) - offset
            if size > length:
                size = length
            at = (frames[start] << PAGE_SHIFT) + offset
            if at + size > low:
                at = memory.offset(at, size)
            views.append(ram[at : at + size])
            length -= size
            if not length:
                return
            start, offset = stop, 0

    def total(self, most: int) -> int:
        """Return how many bytes the list has.

        :raises BrokenRule: it does not add up, or has none, or more than *most*.
        """
        batch, at, end = self._batch, self._start, self._end
        if end - at < HEADERS + 8:
            raise BrokenRule("packet-ranges", "no page list")
        count, total = int.from_bytes(batch[at + 4 : at + 8], "little"), 0
        at += 8
        for _ in range(count):
            if end - at < p.GPA_RANGE.size:
                raise BrokenRule("packet-ranges", f"less than {count} ranges")
            length, offset = _range(batch, at)
            at += 8 + ((offset + length + PAGE - 1) >> PAGE_SHIFT) * 8
            total += length
        if not 0 < total <= most or at > end:
            raise BrokenRule("packet-ranges", f"{total} bytes, at most {most}")
        return total

    def whole(self, most: int) -> tuple[list[memoryview], int]:
        """Return all of the list as slices of guest RAM, and how many bytes they are.

        Linux's netvsc has a range for each page, so that is tried first.

        :raises BrokenRule: as :meth:`total` and :meth:`views`.
        """
        batch, at, end = self._batch, self._start + 8, self._end
        if end - at == 16 * int.from_bytes(batch[at - 4 : at], "little"):
            ram, low, views, total = self._memory.bytes, self._low, [], 0
            for length, offset, frame in _each_page(batch[at:end]):
                gpa = (frame << PAGE_SHIFT) + offset
                if not 0 < length <= PAGE - offset or gpa + length > low:
                    break
                views.append(ram[gpa : gpa + length])
                total += length
            else:
                if 0 < total <= most:
                    return views, total
        total = self.total(most)
        return self.views(total), total

    def read(self, length: int) -> bytes:
        """Return a private copy of the first *length* bytes."""
        return b"".join([bytes(view) for view in self.views(length)]) if length else b""

    def write(self, data: bytes, allocation: int) -> int:
        """Answer with *data*, cut to *allocation* and to ``length``; return the bytes moved."""
        size = min(len(data), allocation, self.length)
        done = 0
        for view in self.views(size) if size else ():
            view[:] = data[done : done + len(view)]
            done += len(view)
        return size
