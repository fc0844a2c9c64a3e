"""VRAM: pages of the host that a guest sees as memory at an address of its own choice.

A KVM slot is there only between the guest's SYNTHVID_VRAM_LOCATION and the closing of its channel;
before and after, the address is nobody's.
"""

from __future__ import annotations

import ctypes
import mmap

from .errors import HostError
from .memory import MAP_NORESERVE, PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .kvm.vm import Vm


class Vram:
    """*size* bytes for one board; the mapping is made when the guest first asks for it.

    :param windows: (gpa, size) of the VMBus's MMIO, where alone it may be.
    """

    def __init__(self, vm: Vm, size: int, windows: tuple[tuple[int, int], ...]) -> None:
        self._vm, self._size, self._windows = vm, size, windows
        self._mapping: mmap.mmap | None = None
        self._slot: int | None = None
        self.gpa: int | None = None

    def place(self, gpa: int) -> bool:
        """Show it at *gpa*; False, it is nowhere: not whole pages of one window, or no slot."""
        if gpa == self.gpa:
            return True
        self._take_slot()
        inside = any(at <= gpa and gpa + self._size <= at + size for at, size in self._windows)
        if gpa % PAGE_SIZE or not inside:
            return False
        try:
            if self._mapping is None:
                flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
                self._mapping = mmap.mmap(-1, self._size, flags)
            address = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
            self._slot = self._vm.add_memory(gpa, self._size, address)
        except (OSError, HostError):  # no memory, no slot, or something else lies there
            return False
        self.gpa = gpa
        return True

    def copy(self, offset: int, length: int) -> bytes:
        """Return some of it; zeros where it was never placed."""
        mapping = self._mapping
        return bytes(length) if mapping is None else mapping[offset : offset + length]

    def fill(self, data: bytes) -> None:
        """Put *data* into it, from its beginning; it is placed."""
        assert self._mapping is not None
        self._mapping[: len(data)] = data

    def remove(self) -> None:
        """Take the slot and the pages back."""
        self._take_slot()
        mapping, self._mapping = self._mapping, None
        if mapping is not None:
            mapping.close()

    def _take_slot(self) -> None:
        slot, self._slot, self.gpa = self._slot, None, None
        if slot is not None:
            self._vm.remove_memory(slot)
