"""One KVM virtual machine: memory slots, in-kernel interrupt chips, routes, MSIs, MSR filter."""

from __future__ import annotations

import ctypes
import os
import time
from _struct import Struct
from fcntl import ioctl

from . import requests, uapi
from .ioctl import array
from .system import Kvm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..memory import GuestMemory

#: Three pages below the firmware area; Intel needs a place for its real-mode TSS and page table.
IDENTITY_MAP_ADDR = 0xFFFBC000
TSS_ADDR = 0xFFFBD000

#: Legacy routes KVM installs by itself; KVM_SET_GSI_ROUTING replaces all, so they are sent along.
PIC_PINS, IOAPIC_PINS = 16, 24
KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC = 0, 1, 2

GET_CLOCK, SIGNAL_MSI = requests.GET_CLOCK.number, requests.SIGNAL_MSI.number
CLOCK, NO_CLOCK = Struct("<QI4xQQ"), bytes(ctypes.sizeof(uapi.ClockData))

LOOKS, NEAR_NS = 4, 5_000


class Vm:
    """A VM with RAM, in-kernel irqchip and PIT (port 0x61 included), no vCPUs yet.

    :param filtered: (first, count) of MSRs that go to user space, as :meth:`filter_msrs` does it.

    The filter comes first and slots before the irqchip: each waits until nobody in the kernel
    uses what it replaces, and behind an irqchip's ports (Linux 6.18) that takes 14 and 7 ms, here
    0.1 and 0.7 (measured).
    """

    def __init__(
        self, kvm: Kvm, memory: GuestMemory, filtered: tuple[int, int] | None = None
    ) -> None:
        self.kvm, self.filtered = kvm, filtered
        self.fd = requests.CREATE_VM(kvm.fd)
        self._routes: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._next_gsi = IOAPIC_PINS
        self._irq = uapi.IrqLevel()
        self._msis: dict[int, bytearray] = {}
        self._frozen: tuple[int, int, int] | None = None
        self._added: dict[int, tuple[int, int]] = {}  # slot -> gpa, size; of add_memory
        self._ram_slots = len(memory.regions)
        try:
            if filtered is not None:
                self.filter_msrs(*filtered)
            for slot, region in enumerate(memory.regions):
                self.set_memory(slot, region.gpa, region.size, memory.address + region.offset)
            requests.SET_TSS_ADDR(self.fd, TSS_ADDR)
            requests.SET_IDENTITY_MAP_ADDR(self.fd, ctypes.c_uint64(IDENTITY_MAP_ADDR))
            requests.CREATE_IRQCHIP(self.fd)
            self._send_routes()
            requests.CREATE_PIT2(self.fd, uapi.PitConfig(flags=uapi.KVM_PIT_SPEAKER_DUMMY))
        except BaseException:
            os.close(self.fd)
            raise

    def set_memory(self, slot: int, gpa: int, size: int, address: int, flags: int = 0) -> None:
        """Map *size* bytes of host memory at *address* to *gpa*; size 0 removes the slot."""
        region = uapi.UserspaceMemoryRegion(slot, flags, gpa, size, address)
        requests.SET_USER_MEMORY_REGION(
            self.fd, region, f"slot {slot}, gpa {gpa:#x}, {size:#x} bytes"
        )

    def add_memory(self, gpa: int, size: int, address: int) -> int:
        """Let the guest see *size* bytes of host memory at *address* as *gpa*; return the slot.

        :raises HostError: KVM has no slot left, or something is there (EEXIST).
        """
        slot = self._ram_slots
        while slot in self._added:
            slot += 1
        self.set_memory(slot, gpa, size, address)
        self._added[slot] = gpa, size
        return slot

    def remove_memory(self, slot: int) -> None:
        """Undo :meth:`add_memory`."""
        gpa, _ = self._added.pop(slot)
        self.set_memory(slot, gpa, 0, 0)

    def irq_line(self, gsi: int, level: bool) -> None:
        """Drive an interrupt line; any thread."""
        requests.IRQ_LINE(self.fd, uapi.IrqLevel(gsi, level))

    def signal_msi(self, apic_id: int, vector: int) -> bool:
        """Send a fixed edge interrupt; False when the APIC did not take it (masked, disabled)."""
        key = apic_id << 8 | vector
        msi = self._msis.get(key)
        if msi is None:
            struct = uapi.Msi(0xFEE00000 | (apic_id & 0xFF) << 12, apic_id & ~0xFF, vector)
            msi = self._msis[key] = bytearray(struct)
        try:
            return ioctl(self.fd, SIGNAL_MSI, msi) > 0  # a fifth of what ctypes takes (measured)
        except OSError:
            return False  # -1, as EPERM: no APIC has this id

    def add_route(self, kind: int, *words: int) -> int:
        """Add a GSI route (KVM_IRQ_ROUTING_MSI or _HV_SINT) and return its GSI."""
        gsi = self._next_gsi
        self._next_gsi += 1
        self._routes[gsi] = (kind, words)
        self._send_routes()
        return gsi

    def _send_routes(self) -> None:
        rows = [
            (n, 1, (KVM_IRQCHIP_PIC_MASTER if n < 8 else KVM_IRQCHIP_PIC_SLAVE, n & 7))
            for n in range(PIC_PINS)
        ]
        rows += [(n, 1, (KVM_IRQCHIP_IOAPIC, n)) for n in range(IOAPIC_PINS)]
        # the PIT drives GSI 0, which a PC wires to IOAPIC pin 2 (MADT override)
        rows = [r for r in rows if not (r[0] == 0 and r[2][0] == KVM_IRQCHIP_IOAPIC)]
        rows = [r for r in rows if not (r[0] == 2 and r[2][0] == KVM_IRQCHIP_IOAPIC)]
        rows.append((0, 1, (KVM_IRQCHIP_IOAPIC, 2)))
        rows += [(gsi, kind, words) for gsi, (kind, words) in self._routes.items()]
        raw = array(ctypes.c_uint8, 8 + 48 * len(rows))()
        ctypes.c_uint32.from_buffer(raw).value = len(rows)
        entries = array(uapi.IrqRoutingEntry, len(rows)).from_buffer(raw, 8)
        for entry, (gsi, kind, words) in zip(entries, rows, strict=True):
            entry.gsi, entry.type = gsi, kind
            for i, word in enumerate(words):
                entry.u[i] = word
        requests.SET_GSI_ROUTING(self.fd, raw)

    def irqfd(self, gsi: int, fd: int, resample: int | None = None) -> None:
        """Raise *gsi* when the eventfd *fd* is written; *resample* is written at its EOI."""
        flags = 0 if resample is None else uapi.KVM_IRQFD_FLAG_RESAMPLE
        requests.IRQFD(self.fd, uapi.Irqfd(fd, gsi, flags, resample or 0), f"gsi {gsi}")

    def hyperv_eventfd(self, connection_id: int, fd: int, remove: bool = False) -> None:
        """Make HvCallSignalEvent on *connection_id* write *fd* inside the kernel."""
        flags = uapi.KVM_HYPERV_EVENTFD_DEASSIGN if remove else 0
        argument = uapi.HypervEventfd(connection_id, fd, flags)
        requests.HYPERV_EVENTFD(self.fd, argument, f"connection {connection_id:#x}")

    def enable_cap(self, capability: int, *args: int) -> None:
        """KVM_ENABLE_CAP on the VM."""
        enable_cap(self.fd, capability, *args)

    def filter_msrs(self, base: int, count: int) -> None:
        """Send every guest access to MSRs *base*.. to user space; all others stay KVM's.

        The filter and not "unknown MSR" exits: with kvm.ignore_msrs=1 those never come.
        """
        self.enable_cap(
            uapi.KVM_CAP_X86_USER_SPACE_MSR,
            uapi.KVM_MSR_EXIT_REASON_FILTER,
        )
        bitmap = array(ctypes.c_uint8, (count + 7) // 8)()
        filter_ = uapi.MsrFilter(uapi.KVM_MSR_FILTER_DEFAULT_ALLOW)
        filter_.ranges[0] = uapi.MsrFilterRange(
            uapi.KVM_MSR_FILTER_READ | uapi.KVM_MSR_FILTER_WRITE, count, base,
            ctypes.addressof(bitmap),
        )  # fmt: skip
        requests.X86_SET_MSR_FILTER(self.fd, filter_)

    def coalesce_pio(self, port: int, size: int) -> bool:
        """Let KVM collect writes to *port* in the ring instead of exiting; False if it cannot."""
        if not self.kvm.check(uapi.KVM_CAP_COALESCED_PIO):
            return False
        requests.REGISTER_COALESCED_MMIO(self.fd, uapi.CoalescedMmioZone(port, size, 1))
        return True

    def uncoalesce_pio(self, port: int, size: int) -> None:
        """Let writes to *port* exit again, after :meth:`coalesce_pio`."""
        requests.UNREGISTER_COALESCED_MMIO(self.fd, uapi.CoalescedMmioZone(port, size, 1))

    def clock(self) -> tuple[int, int, int]:
        """Return (kvmclock ns, flags KVM_CLOCK_*, host TSC) of one instant.

        While the clock is frozen, always those of the instant it was.
        """
        if self._frozen is not None:
            return self._frozen
        clock, flags, _, tsc = self._read_clock()
        return clock, flags, tsc

    def _read_clock(self) -> tuple[int, int, int, int]:
        """Return kvmclock, flags, CLOCK_REALTIME, host TSC: a third of what ctypes takes."""
        return CLOCK.unpack_from(ioctl(self.fd, GET_CLOCK, NO_CLOCK))

    @property
    def frozen(self) -> bool:
        """Tell whether the clock stands."""
        return self._frozen is not None

    def clock_zero_ns(self) -> int:
        """Return CLOCK_MONOTONIC at kvmclock 0.

        KVM tells CLOCK_REALTIME of the same instant, so nothing that comes between matters; an
        older KVM is looked at more often.
        """
        clock, flags, realtime, _ = self._read_clock()
        if not flags & uapi.KVM_CLOCK_REALTIME or self._frozen is not None:
            return zero_ns(lambda: self.clock()[0])
        return realtime - clock - _realtime_less_monotonic()

    def set_clock_zero(self, zero_ns: int) -> None:
        """Set kvmclock so that it was 0 at *zero_ns* (CLOCK_MONOTONIC), before a vCPU runs.

        Hyper-V's reference time follows it. KVM adds what passes until it does it (linux since
        5.16), but it reads two clocks one after the other, and a busy host may stop it between
        them: what came of it is looked at.
        """
        exact = self.kvm.check(uapi.KVM_CAP_ADJUST_CLOCK) & uapi.KVM_CLOCK_REALTIME
        for _ in range(LOOKS):
            ns = time.monotonic_ns()
            data = uapi.ClockData(max(0, ns - zero_ns))
            if exact:
                data.flags, data.realtime = exact, ns + _realtime_less_monotonic()
            requests.SET_CLOCK(self.fd, data, f"{data.clock} ns")
            if abs(self.clock_zero_ns() - zero_ns) < NEAR_NS:
                return

    def freeze_clock(self, at_least_ns: int = 0) -> None:
        """Let time stand still for who asks :meth:`clock`; every vCPU is outside the guest.

        :param at_least_ns: what a guest has seen already; the frozen clock is not before it.
        """
        clock, flags, host_tsc = self.clock()
        self._frozen = max(clock, at_least_ns), flags, host_tsc

    def freeze_clock_at(self, clock_ns: int) -> None:
        """Let the clock of a new VM stand at what a snapshot had."""
        _, flags, host_tsc = self.clock()
        self._frozen = clock_ns, flags, host_tsc

    def thaw_clock(self) -> None:
        """Let kvmclock go on from where it was frozen; before a vCPU enters the guest again.

        Each vCPU then renews KVM's own reference TSC page, with the next sequence, on its way in
        (linux since 5.18: kvm_guest_time_update).
        """
        if self._frozen is not None:
            clock, self._frozen = self._frozen[0], None
            requests.SET_CLOCK(self.fd, uapi.ClockData(clock), f"{clock} ns")

    def close(self) -> None:
        """Close the VM; its vCPUs must be closed first."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def enable_cap(fd: int, capability: int, *args: int) -> None:
    """KVM_ENABLE_CAP on a VM or vCPU descriptor."""
    request = uapi.EnableCap(capability)
    for i, value in enumerate(args):
        request.args[i] = value
    requests.ENABLE_CAP(fd, request, f"capability {capability}")


def _realtime_less_monotonic() -> int:
    """Return the difference of the host's clocks, ns, by the tightest of a few looks."""
    best, difference = 1 << 62, 0
    for _ in range(LOOKS):
        before = time.monotonic_ns()
        real = time.time_ns()
        after = time.monotonic_ns()
        if after - before < best:
            best, difference = after - before, real - (before + after) // 2
    return difference


def zero_ns(read_ns: Callable[[], int]) -> int:
    """Return CLOCK_MONOTONIC when the clock *read_ns* was 0, never too early.

    By the tightest of a few looks, and its later end. The difference changes: NTP slews the one,
    the other is the raw TSC.
    """
    best, zero = 1 << 62, 0
    for _ in range(LOOKS):
        before = time.monotonic_ns()
        reading = read_ns()
        after = time.monotonic_ns()
        if after - before < best:
            best, zero = after - before, after - reading
    return zero
