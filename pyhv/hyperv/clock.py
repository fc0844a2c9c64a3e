"""Partition reference time (100 ns) and the reference TSC page, with KVM's arithmetic bit for bit.

The guest's formula is ``(tsc * scale >> 64) + offset``; HV_X64_MSR_TIME_REF_COUNT uses the same one
while the page is valid, so the two agree. Sources: linux 6.12 arch/x86/kvm/hyperv.c,
compute_tsc_page_parameters, kvm_hv_setup_tsc_page; x86.c, kvm_get_time_scale.
"""

from __future__ import annotations

import threading

from ..errors import BadGpa
from .tlfs import HV_PAGE_ENABLE, HV_PAGE_MASK, HV_TSC_PAGE_SIZE, HV_TSC_SEQUENCE_INVALID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .driver import World

NS_PER_SECOND = 1_000_000_000
U32, U64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


def time_scale(scaled_hz: int, base_hz: int) -> tuple[int, int]:
    """Return (shift, multiplier): ``scaled = (base << shift) * multiplier >> 32``, as kvmclock."""
    shift = 0
    while base_hz > 2 * scaled_hz or base_hz > U32:
        base_hz >>= 1
        shift -= 1
    while base_hz <= scaled_hz or scaled_hz > U32:
        if scaled_hz > U32 or base_hz & 1 << 31:
            scaled_hz >>= 1
        else:
            base_hz <<= 1
        shift += 1
    return shift, (scaled_hz << 32) // base_hz


def tsc_scale(tsc_khz: int) -> int | None:
    """Return the scale of the TSC page; None for a rate too low for it, or unknown (0).

    The plain ``10**7 << 64) // hz`` differs in the low 25 bits for most rates.
    """
    if tsc_khz <= 0:
        return None
    shift, multiplier = time_scale(NS_PER_SECOND, tsc_khz * 1000)
    if multiplier >= 100 << (32 - shift):
        return None
    return (multiplier << (32 + shift)) // 100


class ReferenceClock:
    """The partition's reference time and HV_X64_MSR_REFERENCE_TSC; any thread may read it.

    ``emulation_control`` is HV_X64_MSR_TSC_EMULATION_CONTROL: while the guest has it on, a change
    of the host's clock leaves the page as it is.
    """

    def __init__(self, world: World) -> None:
        self._world, self._memory, self._guest_tsc = world, world.memory, world.guest_tsc
        self._lock = threading.Lock()
        self._page: tuple[int, int] | None = None  # (scale, offset) of a valid page
        self.reference_tsc = 0
        self.emulation_control = 0
        self._before = 0  # the page's sequence in the snapshot that this goes on from

    def ticks(self) -> int:
        """Return the reference time in 100 ns."""
        page = self._page
        if page is not None:
            tsc = self._guest_tsc()
            if tsc is not None:
                return (tsc * page[0] >> 64) + page[1] & U64
            self.refresh()  # the TSC went bad under a valid page: tell the guest
        return self._world.clock_ns() // 100

    def write_reference_tsc(self, value: int) -> None:
        """Take a guest's WRMSR; never a fault: a bad address only leaves the page unwritten."""
        with self._lock:
            self.reference_tsc = value
            self._page = None
            if value & HV_PAGE_ENABLE:
                self._fill(guest_changed=True)

    def write_emulation_control(self, value: int) -> None:
        """Take a guest's WRMSR to HV_X64_MSR_TSC_EMULATION_CONTROL."""
        self.emulation_control = value

    def refresh(self) -> None:
        """The host's clock or TSC changed: rewrite a valid page."""
        with self._lock:
            if self._page is not None:
                self._page = None
                self._fill(guest_changed=False)

    def _fill(self, *, guest_changed: bool, sequence: int | None = None) -> None:
        """Write the page; the lock is held. On failure it stays invalid until the next WRMSR.

        :param sequence: what it had last; None: what is in it.
        """
        memory = self._memory
        try:
            at = memory.offset(self.reference_tsc & HV_PAGE_MASK, HV_TSC_PAGE_SIZE)
        except BadGpa:
            return
        u32, u64, word, quad = memory.u32, memory.u64, at >> 2, at >> 3
        sequence = u32[word] if sequence is None else sequence
        if sequence and self.emulation_control and not guest_changed:
            self._page = u64[quad + 1], u64[quad + 2]
            return
        # Each line is one aligned store, in this order: a guest that reads in between sees an
        # invalid sequence and asks the MSR.
        u32[word] = HV_TSC_SEQUENCE_INVALID
        pair, scale = self._world.clock_pair(), tsc_scale(self._world.tsc_khz())
        if pair is None or scale is None:
            return
        tsc, clock_ns = pair
        offset = clock_ns // 100 - (tsc * scale >> 64) & U64
        u32[word + 1] = 0
        u64[quad + 1] = scale
        u64[quad + 2] = offset
        u32[word] = 1 if sequence >= U32 - 1 else sequence + 1  # skips 0 and 0xFFFFFFFF
        self._page = scale, offset

    def save(self) -> dict[str, Any]:
        """Return the MSRs, and the sequence of a page that is valid; 0: it is not."""
        sequence = 0
        if self._page is not None:
            sequence = self._memory.read_u32(self.reference_tsc & HV_PAGE_MASK)
        return {"reference_tsc": self.reference_tsc, "sequence": sequence,
                "emulation_control": self.emulation_control}  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Undo :meth:`save`. A valid page is invalid until :meth:`renew`: the TSC is another."""
        self.reference_tsc = state["reference_tsc"]
        self.emulation_control = state["emulation_control"]
        self._before = state["sequence"]
        if self._before:
            self._memory.write_u32(self.reference_tsc & HV_PAGE_MASK, HV_TSC_SEQUENCE_INVALID)

    def renew(self) -> bool:
        """Make a page that was valid in a snapshot valid again; False: try again later.

        Its sequence goes on: a guest that had begun to read must see another one.
        """
        with self._lock:
            if self._before and self._page is None and self.reference_tsc & HV_PAGE_ENABLE:
                self._fill(guest_changed=True, sequence=self._before)
                if self._page is None:
                    return False
            self._before = 0
            return True

    def reset(self) -> None:
        """Invalidate the page, so that no later reader takes its old values; time runs on."""
        with self._lock:
            value, self.reference_tsc, self._page = self.reference_tsc, 0, None
            self.emulation_control = 0
            if value & HV_PAGE_ENABLE:
                try:
                    self._memory.write_u32(value & HV_PAGE_MASK, HV_TSC_SEQUENCE_INVALID)
                except BadGpa:
                    pass
