"""Pages of guest RAM as the kernel's struct iovec, without a Python object for each of them.

A memoryview of a page costs some 2,000 instructions until it is dropped, half of what it costs to
copy the page: requests of 32 pages would pay mostly for that.
"""

from __future__ import annotations

import ctypes
from array import array

from .memory import machine_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .memory import GuestMemory

PAGE_SHIFT = 12
MOST = 256  # pages; requests that keep to scsi_inquiry.MAX_TRANSFER_BYTES have half as many
FIRST = 3  # words before the iovecs: of a region of RAM first page number, pages, host address

# No argtypes: they convert each argument by a call, which would cost more than the pages do.
_build = ctypes.PYFUNCTYPE(ctypes.c_int)(machine_code("iovec"))
_libc = ctypes.CDLL(None)
_preadv, _pwritev = _libc["preadv"], _libc["pwritev"]
_preadv.restype = _pwritev.restype = ctypes.c_ssize_t
_offset = ctypes.c_int64


class IoVec:
    """What a request moves, as addresses; one object per device, filled anew each time.

    For whom addresses are no use it is the memoryviews that it stands for, by iteration.
    """

    __slots__ = ("_added", "_block", "_count", "_iovecs", "_length", "_memory", "_words")

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self._words = array("Q", bytes(8 * (FIRST + 2 * MOST)))
        address = self._words.buffer_info()[0]
        self._block = ctypes.c_void_p(address)
        self._iovecs = ctypes.c_void_p(address + 8 * FIRST)
        self._added = self._count = self._length = 0

    def fill(self, frames: bytes, offset: int, length: int) -> bool:
        """Point to *length* bytes that begin at *offset* of the first of the pages *frames*.

        :param frames: page numbers, 64-bit little-endian, just those that *length* needs.
        :return: False if they are not 1..MOST, or do not all lie in one region of RAM.
        """
        pages = len(frames) >> 3
        if not 0 < pages <= MOST:
            return False
        # nearly all requests of a guest are in the same region
        count = _build(self._block, frames, pages)
        if not count or self._memory.added != self._added:
            count = self._look(frames, pages)
        if not count:
            return False
        self._count, self._length = count, length
        words = self._words
        if offset:
            words[FIRST] += offset
            words[FIRST + 1] -= offset
        if beyond := (pages << PAGE_SHIFT) - offset - length:
            words[FIRST + 2 * count - 1] -= beyond
        return True

    def _look(self, frames: bytes, pages: int) -> int:
        """Find the region that has the pages; return how many iovecs they are, or 0."""
        memory, words = self._memory, self._words
        self._added = memory.added
        for region in memory.regions:
            words[0] = region.gpa >> PAGE_SHIFT
            words[1] = region.size >> PAGE_SHIFT
            words[2] = memory.address + region.offset
            if count := _build(self._block, frames, pages):
                return count
        return 0

    def preadv(self, fd: int, offset: int) -> bool:
        """Fill the pages from *fd*; False if that failed or came short: views will tell why."""
        return _preadv(fd, self._iovecs, self._count, _offset(offset)) == self._length

    def pwritev(self, fd: int, offset: int) -> bool:
        """Write the pages to *fd*; False as of :meth:`preadv`."""
        return _pwritev(fd, self._iovecs, self._count, _offset(offset)) == self._length

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[memoryview]:
        words, base, ram = self._words, self._memory.address, self._memory.bytes
        for i in range(FIRST, FIRST + 2 * self._count, 2):
            at = words[i] - base
            yield ram[at : at + words[i + 1]]
