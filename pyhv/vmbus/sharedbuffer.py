"""A buffer that the guest lends by a GPADL: copied out of and into, never looked at in place."""

from __future__ import annotations

from .rules import BrokenRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..memory import GuestMemory
    from .gpadl import Gpadl

PAGE, PAGE_SHIFT, PAGE_MASK = 4096, 12, 4095


class SharedBuffer:
    """``size`` bytes in pages of the guest that need not be neighbours.

    The GPADL's own list of pages is used: a torn-down GPADL empties it, and then every access is
    refused.

    :raises BrokenRule: the GPADL has more than one range.
    """

    __slots__ = ("_bytes", "_offset", "_pages", "gpadl", "size")

    def __init__(self, memory: GuestMemory, gpadl: Gpadl) -> None:
        if len(gpadl.ranges) != 1:
            raise BrokenRule("gpadl-ranges", f"{len(gpadl.ranges)} ranges for a buffer")
        self.size, self._offset, _ = gpadl.ranges[0]
        self._pages, self._bytes, self.gpadl = gpadl.pages, memory.bytes, gpadl.id

    def check(self) -> None:
        """Return while the pages are lent; :raises BrokenRule: they are not."""
        if not self._pages:
            raise BrokenRule("gpadl-unknown", "a buffer whose GPADL is torn down")

    def views(self, at: int, length: int) -> list[memoryview]:
        """Return *length* bytes from *at* on as slices of guest RAM; the caller checked the bounds.

        Who keeps them asks :meth:`check` before each use.
        """
        return self._pieces(at, length)

    def _pieces(self, at: int, length: int) -> list[memoryview]:
        at += self._offset
        found = []
        try:
            while length:
                start = at & PAGE_MASK
                count = min(PAGE - start, length)
                place = self._pages[at >> PAGE_SHIFT] + start
                found.append(self._bytes[place : place + count])
                at += count
                length -= count
        except IndexError:
            raise BrokenRule("gpadl-unknown", "a buffer whose GPADL is torn down") from None
        return found

    def read(self, at: int, length: int) -> bytes:
        """Return a private copy of *length* bytes from *at* on; the caller checked the bounds."""
        pieces = self._pieces(at, length)
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)

    def write(self, at: int, data: bytes) -> None:
        """Copy *data* to *at*; the caller checked the bounds.

        :raises BrokenRule: the GPADL is gone.
        """
        start = (at + self._offset) & PAGE_MASK
        end = start + len(data)
        if end <= PAGE:  # the usual case, short
            try:
                place = self._pages[(at + self._offset) >> PAGE_SHIFT]
            except IndexError:
                raise BrokenRule("gpadl-unknown", "a buffer whose GPADL is torn down") from None
            self._bytes[place + start : place + end] = data
            return
        done = 0
        for piece in self._pieces(at, len(data)):
            piece[:] = data[done : done + len(piece)]
            done += len(piece)
