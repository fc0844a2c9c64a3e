"""Guest RAM is one anonymous mapping; every access from the host goes through here and is checked.

RAM starts at gpa 0. What does not fit below HOLE (3 GiB) continues at 4 GiB,
as on a PC: the hole between holds the APICs and VMBus MMIO. What is added while the guest runs
follows what is there above 4 GiB; its place in the mapping is kept from the start.
"""

from __future__ import annotations

import ctypes
import mmap
import os

from .errors import BadGpa, ConfigError, HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PAGE_SIZE = 4096
HOLE = 3 << 30
HIGH = 4 << 30
HUGE_PAGE = 2 << 20
BLOCK = 128 << 20  # what is added is a multiple, and begins at one: Linux adds no less
#: RAM of this size or more asks for huge pages, as QEMU's does: a tenth of the page faults, and KVM
#: maps 2 MiB at once where host and guest address agree in their low 21 bits. A smaller guest would
#: hold more memory than it uses.
HUGE_FROM = 128 << 20
MAP_NORESERVE = 0x4000  # mmap has the name from Python 3.13 on
MAP_FIXED = 0x10


class Region:
    """A run of RAM: guest address, length, and its place in the mapping (bytes)."""

    __slots__ = ("gpa", "offset", "size")

    def __init__(self, gpa: int, size: int, offset: int) -> None:
        self.gpa, self.size, self.offset = gpa, size, offset


# Python has no atomic read-modify-write of memory, and a guest changes these words too.
_CODE = {
    "or8": bytes.fromhex("f0400837c3"),  # lock or byte [rdi], sil; ret
    # lock bts dword [rdi], esi; setc al; movzx eax, al; ret
    "bts": bytes.fromhex("f00fab37 0f92c0 0fb6c0 c3"),
    # lfence; rdtsc; shl rdx, 32; or rax, rdx; ret
    "rdtsc": bytes.fromhex("0faee8 0f31 48c1e220 4809d0 c3"),
    "nop": b"\xc3",  # ret: a signal handler that does nothing (see runloop.py)
    # Page numbers to struct iovecs (see iovec.py), neighbours merged. rdi: the region's first page
    # number, its pages, its host address, then room for the iovecs; rsi: page numbers; edx: how
    # many, 1 or more. Returns how many iovecs, 0 if a page is not in the region.
    "iovec": bytes.fromhex(
        "4c8d4708"  # lea r8, [rdi + 8]: 16 before the first iovec
        "41ba00100000"  # mov r10d, 4096
        "4531c9"  # xor r9d, r9d: where the iovec ends
        "488b06"  # next: mov rax, [rsi]
        "482b07"  # sub rax, [rdi]: below the region is a huge number, too
        "483b4708"  # cmp rax, [rdi + 8]
        "7336"  # jae none
        "48c1e00c"  # shl rax, 12
        "48034710"  # add rax, [rdi + 16]
        "4c39c8"  # cmp rax, r9
        "740f"  # je longer
        "4983c010"  # add r8, 16
        "498900"  # mov [r8], rax
        "4983600800"  # and qword ptr [r8 + 8], 0
        "4989c1"  # mov r9, rax
        "4d015008"  # longer: add [r8 + 8], r10
        "4d01d1"  # add r9, r10
        "4883c608"  # add rsi, 8
        "ffca"  # dec edx
        "75c9"  # jnz next
        "4929f8"  # sub r8, rdi
        "41c1e804"  # shr r8d, 4
        "4489c0"  # mov eax, r8d
        "c3"  # ret
        "31c0"  # none: xor eax, eax
        "c3"  # ret
    ),
}
_SLOT = 128
# PYFUNCTYPE keeps the GIL: the code runs for nanoseconds, giving it up would cost more
_OR8 = ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint8)
_BTS = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32)
_RDTSC = ctypes.PYFUNCTYPE(ctypes.c_uint64)


def machine_code(name: str) -> int:
    """Return the address of a few bytes of code, in one page that the process keeps."""
    page = _pages.get("page")
    if page is None:
        page = mmap.mmap(
            -1,
            PAGE_SIZE,
            mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
            mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC,
        )
        for i, code in enumerate(_CODE.values()):
            page[i * _SLOT : i * _SLOT + len(code)] = code
        # two threads may both come here; the one that loses keeps its page alive for nothing
        page = _pages.setdefault("page", page)
    return ctypes.addressof(ctypes.c_char.from_buffer(page)) + list(_CODE).index(name) * _SLOT


_pages: dict[str, mmap.mmap] = {}


def _mmap() -> Callable[..., int]:
    """Return mmap(2): Python's own takes no address."""
    call = ctypes.CDLL(None, use_errno=True).mmap
    call.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                     ctypes.c_long)  # fmt: skip
    call.restype = ctypes.c_void_p
    return call


def rdtsc() -> Callable[[], int]:
    """Return a function that returns the host's TSC, as KVM_GET_CLOCK tells it."""
    return _RDTSC(machine_code("rdtsc"))


def _check_capacity(size: int, capacity: int) -> None:
    text = f"-m {size >> 20}M,maxmem={capacity >> 20}M"
    if capacity < size:
        raise ConfigError(f"{text}: invalid value of maxmem: it must be at least the first size")
    if (capacity - size) % BLOCK or (size > HOLE and (size - HOLE) % BLOCK):
        raise ConfigError(
            f"{text}: memory is added in steps of 128 MiB: what maxmem has more must be a multiple "
            "of it, and so must what the guest begins with above 3 GiB"
        )


class GuestMemory:
    """The RAM of one machine.

    :param size_bytes: a multiple of 4 KiB, at least 1 MiB.
    :param capacity: what it may become by :meth:`grow`, bytes; address space, no memory yet.
    :raises ConfigError: a size that cannot be. HostError: the host refuses the mapping.

    ``size`` is what it begins with, ``added`` what came to it, ``top`` the end of the highest
    guest address that it may ever have.

    ``bytes``, ``u32`` and ``u64`` are memoryviews of the whole mapping. An item
    store through ``u32``/``u64`` is one aligned store; their index is
    ``offset(gpa, n) // 4`` (or 8). ``adopted``: RAM came from a snapshot; a page that is discarded
    then has what it had there, else zeros.
    """

    adopted = False

    def __init__(self, size_bytes: int, capacity: int = 0) -> None:
        if size_bytes < 1 << 20 or size_bytes % PAGE_SIZE:
            raise ConfigError(f"memory {size_bytes:#x} bytes: at least 1 MiB, in steps of 4 KiB")
        if capacity:
            _check_capacity(size_bytes, capacity)
        self.size, self.capacity, self.added = size_bytes, max(size_bytes, capacity), 0
        low = min(size_bytes, HOLE)
        self.top = HIGH + self.capacity - low if self.capacity > low else low
        self.regions = [Region(0, low, 0)]
        if size_bytes > low:
            self.regions.append(Region(HIGH, size_bytes - low, low))
        align = HUGE_PAGE if size_bytes >= HUGE_FROM else PAGE_SIZE
        try:
            self.mapping = mmap.mmap(
                -1,
                self.capacity + align - PAGE_SIZE,
                mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE,
            )
        except (OSError, OverflowError, ValueError) as error:
            raise HostError(f"{self.capacity >> 20} MiB of guest RAM: {error}") from error
        self._pin = ctypes.c_char.from_buffer(self.mapping)
        self._skip = skip = -ctypes.addressof(self._pin) % align
        self.address = ctypes.addressof(self._pin) + skip  # host virtual address of gpa 0
        if align == HUGE_PAGE:
            try:
                self.mapping.madvise(mmap.MADV_HUGEPAGE)
            except OSError:
                pass  # a kernel without them
        self.bytes = memoryview(self.mapping)[skip : skip + self.capacity]
        self.u32 = self.bytes.cast("I")
        self.u64 = self.bytes.cast("Q")
        self._or8, self._bts = _OR8(machine_code("or8")), _BTS(machine_code("bts"))
        self._low = low

    def offset(self, gpa: int, length: int) -> int:
        """Return where *gpa* lies in the mapping; BadGpa unless all *length* bytes are RAM."""
        end = gpa + length
        if gpa >= 0 and end <= self._low:
            return gpa
        if len(self.regions) > 1 and gpa >= HIGH and end <= HIGH + self.regions[1].size:
            return gpa - HIGH + self._low
        raise BadGpa(gpa, length)

    def view(self, gpa: int, length: int) -> memoryview:
        """Return a writable window; the guest may change it at any time."""
        at = self.offset(gpa, length)
        return self.bytes[at : at + length]

    def read(self, gpa: int, length: int) -> bytes:
        """Return a private copy, for guest data that is checked and then used."""
        at = self.offset(gpa, length)
        return bytes(self.bytes[at : at + length])

    def write(self, gpa: int, data: bytes | memoryview) -> None:
        """Copy *data* to *gpa*."""
        at = self.offset(gpa, len(data))
        self.bytes[at : at + len(data)] = data

    def read_u32(self, gpa: int) -> int:
        """One aligned 32-bit load; *gpa* is a multiple of 4."""
        return self.u32[self.offset(gpa, 4) >> 2]

    def write_u32(self, gpa: int, value: int) -> None:
        """One aligned 32-bit store; *gpa* is a multiple of 4."""
        self.u32[self.offset(gpa, 4) >> 2] = value

    def read_u64(self, gpa: int) -> int:
        """One aligned 64-bit load; *gpa* is a multiple of 8."""
        return self.u64[self.offset(gpa, 8) >> 3]

    def write_u64(self, gpa: int, value: int) -> None:
        """One aligned 64-bit store; *gpa* is a multiple of 8."""
        self.u64[self.offset(gpa, 8) >> 3] = value

    def __getitem__(self, at: int | slice) -> int | bytes:
        """``memory[gpa]`` is a byte, ``memory[first:end]`` a copy of some; BadGpa beyond RAM."""
        if isinstance(at, slice):
            first, end = at.start or 0, self.size if at.stop is None else at.stop
            return self.read(first, max(0, end - first))
        return self.bytes[self.offset(at, 1)]

    def __setitem__(self, at: int | slice, value: int | bytes) -> None:
        """``memory[gpa] = byte``, ``memory[gpa:] = data``; a given end must fit the data."""
        if isinstance(at, slice):
            first = at.start or 0
            if at.stop is not None and at.stop - first != len(value):
                raise ValueError(f"{len(value)} bytes for {at.stop - first}")
            self.write(first, value)
        else:
            self.bytes[self.offset(at, 1)] = value

    def atomic_or(self, gpa: int, mask: int) -> None:
        """Set the bits of *mask* (0..255) in the byte at *gpa*, atomically against the guest.

        A Python ``|=`` on shared memory loses updates; this and :meth:`test_and_set` are the
        only places that change a byte which the guest changes too.
        """
        self._or8(self.address + self.offset(gpa, 1), mask)

    def test_and_set(self, gpa: int, bit: int) -> bool:
        """Set *bit* (0..2047) of the bit field at *gpa* atomically; return what it was."""
        offset = self.offset(gpa + (bit >> 5) * 4, 4)
        return bool(self._bts(self.address + offset, bit & 31))

    def zero(self, gpa: int, length: int) -> None:
        """Fill with zeros."""
        at = self.offset(gpa, length)
        ctypes.memset(self.address + at, 0, length)

    def adopt(self, fd: int, at: int) -> None:
        """Make RAM what the file *fd* has from byte *at* on, at the same address; copy on write.

        No vCPU runs and nobody writes meanwhile. What RAM was is lost; *fd* may then be closed.

        :raises HostError: the host refuses the mapping.
        """
        prot, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE
        if _mmap()(self.address, self.size, prot, flags, fd, at) != self.address:
            code = ctypes.get_errno()
            raise HostError(f"{self.size >> 20} MiB of a snapshot's RAM: {os.strerror(code)}")
        self.adopted = True

    def grow(self, added: int, tell: Callable[[int, int, int], object]) -> None:
        """Have *added* bytes more than ``size``, or what there is if that is more.

        No lock: vCPUs may run, and who looks an address up finds it or does not.

        :param tell: called with gpa, bytes and host address of what is new; if it raises, nothing
            was added.
        """
        size = added - self.added
        if size <= 0:
            return
        low = self.regions[0].size
        high = self.size - low + self.added
        tell(HIGH + high, size, self.address + low + high)
        if len(self.regions) > 1:
            self.regions[1].size = high + size
        else:
            self.regions.append(Region(HIGH, size, low))
        self.added = added

    def shrink(self) -> None:
        """Undo :meth:`grow`, at a reset: what was added is the host's again. No vCPU runs."""
        if not self.added:
            return
        if self.size > HOLE:
            self.regions[1].size = self.size - HOLE
        else:
            del self.regions[1]
        self.mapping.madvise(mmap.MADV_DONTNEED, self._skip + self.size, self.added)
        self.added = 0

    def discard(self, gpa: int, length: int) -> None:
        """Give whole pages back to the host; they stay RAM. What is in them then: ``adopted``.

        :raises BadGpa: not all RAM. OSError: the host will not.
        """
        at = self.offset(gpa, length)
        self.mapping.madvise(mmap.MADV_DONTNEED, self._skip + at, length)

    def close(self) -> None:
        """Give the mapping back; a view still held elsewhere keeps it, without an error."""
        for view in (self.u32, self.u64, self.bytes):
            view.release()
        del self._pin
        try:
            self.mapping.close()
        except BufferError:
            pass  # a device's prepared iovec; the mapping goes with the last of them
