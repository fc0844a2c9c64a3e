"""A machine for the pure core: memory, a clock that stands still until told, lists of what came."""

from __future__ import annotations

import re
from collections.abc import Callable

from pyhv.hyperv.partition import Partition
from pyhv.hyperv.privileges import Features
from pyhv.hyperv.tlfs import HV_X64_MSR_EOI, HV_X64_MSR_ICR, HV_X64_MSR_TPR
from pyhv.memory import GuestMemory

ALL = 0xFFFFFFFF
#: shows everything and has everything on, as the machine of the golden vectors
EVERYTHING = Features(ALL, ALL, ALL, ALL, 0xFFF, ALL, True, True, False, True)
HYPERCALL_CODE = bytes.fromhex("0f01d9c3")
LINUX_OS_ID = 0x8100000000000000
SHORTHAND_SELF = 0x40000


class FakeWorld:
    """World, by hand: ``ns`` is the clock, ``khz`` the TSC, ``stable`` whether it has a pair."""

    def __init__(self, size: int = 1 << 20) -> None:
        self.memory = GuestMemory(size)
        self.ns, self.khz, self.tsc_base, self.stable = 1_000_000, 2_000_000, 0, True
        self.interrupts: list[tuple[int, int]] = []
        self.auto_eois: list[tuple[int, int]] = []
        self.armed: dict[tuple[int, int], int] = {}
        self.pv_eoi: dict[int, int | None] = {}
        self.apic = {HV_X64_MSR_ICR: 0, HV_X64_MSR_TPR: 0}
        self.eois = 0
        self.flushes: list[tuple[list[int], int]] = []
        self.spins: list[int] = []
        self.events: list[tuple] = []
        self.synic_changes: list[int] = []
        self.apic_enabled = True

    def clock_ns(self) -> int:
        return self.ns

    def clock_pair(self) -> tuple[int, int] | None:
        if not self.stable:
            return None
        return self.tsc_base + self.ns * self.khz // 1_000_000, self.ns

    def guest_tsc(self) -> int | None:
        pair = self.clock_pair()
        return pair and pair[0]

    def tsc_khz(self) -> int:
        return self.khz

    def interrupt(self, vp_index: int, vector: int) -> bool:
        if self.apic_enabled:
            self.interrupts.append((vp_index, vector))
        return self.apic_enabled

    def inject_auto_eoi(self, vp_index: int, vector: int) -> None:
        self.auto_eois.append((vp_index, vector))

    def new_timer(self, vp_index: int, index: int) -> Callable[[int | None], None]:
        def arm(due_ticks: int | None) -> None:
            if due_ticks is None:
                self.armed.pop((vp_index, index), None)
            else:
                self.armed[vp_index, index] = due_ticks

        return arm

    def set_pv_eoi(self, vp_index: int, gpa: int | None) -> None:
        self.pv_eoi[vp_index] = gpa

    def apic_read(self, vp_index: int, register: int) -> int:
        return self.apic[register]

    def apic_write(self, vp_index: int, register: int, value: int) -> None:
        if register == HV_X64_MSR_EOI:
            self.eois += 1
            return
        self.apic[register] = value
        if register == HV_X64_MSR_ICR and value & SHORTHAND_SELF:
            self.interrupts.append((vp_index, value & 0xFF))

    def vp_runtime_ns(self, vp_index: int) -> int:
        return self.ns // 2

    def flush_tlb(self, vp_indexes: list[int], caller: int) -> None:
        self.flushes.append((vp_indexes, caller))

    def spin_wait(self, vp_index: int) -> None:
        self.spins.append(vp_index)

    def reset(self) -> None:
        self.events.append(("reset",))

    def crash(self, parameters: tuple[int, ...], control: int) -> None:
        self.events.append(("crash", parameters, control))

    def synic_changed(self, vp_index: int) -> None:
        self.synic_changes.append(vp_index)

    def advance(self, partition: Partition, ticks: int) -> None:
        """Let *ticks* of 100 ns pass in one go, then call what is due, as the timer thread does."""
        self.ns += ticks * 100
        for _ in range(100):
            due = [key for key, at in self.armed.items() if at * 100 <= self.ns]
            if not due:
                return
            for vp, index in due:
                del self.armed[vp, index]
                partition.vps[vp].stimers[index].expire()
        raise AssertionError("timers without end")


def make(
    features: Features = EVERYTHING, vp_count: int = 2, size: int = 1 << 20, *, os_id: bool = True
) -> tuple[Partition, FakeWorld]:
    """Return a partition whose guest has identified itself (*os_id*), and its world."""
    world = FakeWorld(size)
    partition = Partition(features, world, vp_count, HYPERCALL_CODE)
    if os_id and features.enabled:
        partition.guest_os_id = LINUX_OS_ID
    return partition, world


def without(features: Features, bit: str) -> Features:
    """Return *features* lacking the CPUID bit written as ``3.EAX[5]``."""
    leaf, register, number = re.fullmatch(r"(\d)\.(\w+)\[(\d+)\]", bit).groups()
    field = f"leaf{leaf}_{register.lower()}"
    return features._replace(**{field: getattr(features, field) & ~(1 << int(number))})


def no_xmm() -> bytes:
    """XMM0-5 of a call that must not read them."""
    raise AssertionError("XMM registers read")


def words(*values: int) -> bytes:
    """Return qwords, little endian."""
    return b"".join(value.to_bytes(8, "little") for value in values)


def xmm(*values: int) -> bytes:
    """Return XMM0-5 with these qwords first."""
    return words(*values).ljust(96, b"\0")
