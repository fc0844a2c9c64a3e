"""A vCPU's CPUID as a dict: from KVM_GET_SUPPORTED_CPUID, changed, to KVM_SET_CPUID2."""

from __future__ import annotations

import ctypes

from ..errors import HostError
from . import requests
from .ioctl import array
from .uapi import KVM_CPUID_FLAG_SIGNIFCANT_INDEX, CpuidEntry2

EAX, EBX, ECX, EDX = range(4)
KVM_MAX_CPUID_ENTRIES = 256

#: (leaf, index) -> [eax, ebx, ecx, edx]; index is 0 for leaves without sub-leaves
CpuidTable = dict[tuple[int, int], list[int]]


def _buffer(count: int) -> tuple[ctypes.Array, ctypes.c_uint32, ctypes.Array]:
    raw = array(ctypes.c_uint8, 8 + 40 * count)()
    entries = array(CpuidEntry2, count).from_buffer(raw, 8)
    return raw, ctypes.c_uint32.from_buffer(raw), entries


def get_supported(fd: int, request: object = requests.GET_SUPPORTED_CPUID) -> list[tuple[int, ...]]:
    """Return rows (leaf, index, flags, eax, ebx, ecx, edx) of a KVM_GET_SUPPORTED_*CPUID.

    For KVM_GET_SUPPORTED_HV_CPUID the count must be asked for first: KVM answers
    E2BIG while the buffer is too small and trims a larger count.
    """
    raw, nent, entries = _buffer(KVM_MAX_CPUID_ENTRIES)
    nent.value = KVM_MAX_CPUID_ENTRIES
    request(fd, raw)  # type: ignore[operator]
    return [
        (e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx) for e in entries[: nent.value]
    ]


class Cpuid:
    """The leaves of one vCPU. ``table`` maps (leaf, index) to four registers; ``flags`` keeps
    KVM_CPUID_FLAG_SIGNIFCANT_INDEX where KVM set it."""

    __slots__ = ("flags", "table")

    def __init__(self, rows: list[tuple[int, ...]]) -> None:
        self.table: CpuidTable = {}
        self.flags: dict[tuple[int, int], int] = {}
        for leaf, index, flags, *registers in rows:
            key = (leaf, index if flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX else 0)
            self.table[key] = list(registers)
            self.flags[key] = flags

    def copy(self) -> Cpuid:
        """Return an independent copy."""
        new = Cpuid([])
        new.table = {key: list(value) for key, value in self.table.items()}
        new.flags = dict(self.flags)
        return new

    def set(self, leaf: int, registers: tuple[int, int, int, int], index: int = 0) -> None:
        """Replace a leaf."""
        self.table[leaf, index] = list(registers)
        self.flags.setdefault((leaf, index), 0)

    def remove(self, first: int, last: int) -> None:
        """Drop all leaves from *first* to *last*, both included."""
        for key in [key for key in self.table if first <= key[0] <= last]:
            del self.table[key], self.flags[key]

    def install(self, vcpu_fd: int) -> None:
        """Give the leaves to the vCPU. Not after its first KVM_RUN: KVM refuses a change then."""
        if len(self.table) > KVM_MAX_CPUID_ENTRIES:
            raise HostError(f"{len(self.table)} CPUID leaves: KVM takes {KVM_MAX_CPUID_ENTRIES}")
        raw, nent, entries = _buffer(len(self.table))
        nent.value = len(self.table)
        for entry, (key, registers) in zip(entries, sorted(self.table.items()), strict=True):
            entry.function, entry.index = key
            entry.flags = self.flags[key]
            entry.eax, entry.ebx, entry.ecx, entry.edx = registers
        requests.SET_CPUID2(vcpu_fd, raw)
