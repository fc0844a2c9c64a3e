"""What the Hyper-V core asks of the world, and what VMBus asks of whoever runs the core.

Three small interfaces. ``World`` is filled by hyperv/in_user.py (and by a fake
in the unit tests); ``SynicPort`` by both drivers. Nothing here knows KVM.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..memory import GuestMemory

#: handler(message_type, payload) -> HV_STATUS; called on the posting VP's thread, must not block
MessageHandler = Callable[[int, bytes], int]


class World(Protocol):
    """What the pure core (partition, vp, synic, stimer, hypercalls) may ask for."""

    memory: GuestMemory

    def clock_ns(self) -> int:
        """Return the partition's time in ns (kvmclock): 0 at creation, runs on over reset."""

    def clock_pair(self) -> tuple[int, int] | None:
        """Return (guest TSC, clock_ns) of one instant; None when the TSC is not stable."""

    def guest_tsc(self) -> int | None:
        """Return the guest's TSC, cheaply; None when it is not stable, perhaps a second late."""

    def tsc_khz(self) -> int:
        """Return the guest's TSC frequency in kHz."""

    def interrupt(self, vp_index: int, vector: int) -> bool:
        """Send a fixed edge interrupt; False when the APIC did not take it."""

    def inject_auto_eoi(self, vp_index: int, vector: int) -> None:
        """Deliver an interrupt that leaves no ISR bit (SINT with AutoEOI)."""

    def new_timer(self, vp_index: int, index: int) -> Callable[[int | None], None]:
        """Return a function that arms a timer by its reference time, 100 ns, or with None disarms
        it. Then ``partition.vps[vp_index].stimers[index].expire()`` is called once, on a thread of
        its own. It must look at the clock: the call may be early, or one that was called off."""

    def set_pv_eoi(self, vp_index: int, gpa: int | None) -> None:
        """Let KVM use the byte at *gpa* for lazy EOI; None ends it."""

    def apic_read(self, vp_index: int, register: int) -> int:
        """Return APIC register HV_X64_MSR_ICR or _TPR as the Hyper-V MSR shows it."""

    def apic_write(self, vp_index: int, register: int, value: int) -> None:
        """Write HV_X64_MSR_EOI, _ICR or _TPR; *value* was checked."""

    def vp_runtime_ns(self, vp_index: int) -> int:
        """Return the CPU time of the VP's thread; called on that thread."""

    def flush_tlb(self, vp_indexes: list[int], caller: int) -> None:
        """Drop all guest translations of the VPs before returning."""

    def spin_wait(self, vp_index: int) -> None:
        """The guest spins for a lock (HvCallNotifyLongSpinWait): let another thread run."""

    def reset(self) -> None:
        """The guest wrote HV_X64_MSR_RESET = 1."""

    def crash(self, parameters: tuple[int, int, int, int, int], control: int) -> None:
        """The guest wrote HV_X64_MSR_CRASH_CTL with the notify bit."""

    def synic_changed(self, vp_index: int) -> None:
        """SCONTROL, SIMP, SIEFP or a SINT of the VP changed."""


class SynicPort(Protocol):
    """What VMBus (and the hyperv-testdev) ask of a driver; any thread may call."""

    def post_message(self, vp_index: int, sint: int, message_type: int, payload: bytes) -> None:
        """Queue a message of at most 240 bytes for the SIM slot; delivered in order, when the
        slot is free (busy slot: pending flag, next at EOM). Bounded by the caller."""

    def messages_waiting(self, vp_index: int, sint: int) -> int:
        """Return how many messages wait for the slot: what the caller bounds them by. A hint,
        cheap, from any thread."""

    def drop_messages(self, vp_index: int, sint: int, message_type: int) -> None:
        """Forget the messages of a type that wait for the slot; what is in the slot is the
        guest's."""

    def raise_sint(self, vp_index: int, sint: int) -> None:
        """Send the SINT's interrupt; nothing while it is masked."""

    def event_signaller(self, vp_index: int, sint: int, flag: int) -> Callable[[], None]:
        """Return a prepared function that sets event *flag* (0..2047) in the SIEF slot and raises
        the SINT if the flag was clear. Cheap; does nothing while the guest has the page off."""

    def connect_messages(self, connection_id: int, handler: MessageHandler) -> None:
        """Route HvCallPostMessage for *connection_id* (24 bits) to *handler*."""

    def bind_event(self, connection_id: int, eventfd: int) -> None:
        """Make HvCallSignalEvent for *connection_id*, flag 0, write to *eventfd*.

        :raises HostError: somebody has this connection already.
        """

    def unbind_event(self, connection_id: int) -> None:
        """Undo :meth:`bind_event`; unknown ids are ignored."""

    def reference_ticks(self) -> int:
        """Return the partition reference time in 100 ns (HV_X64_MSR_TIME_REF_COUNT)."""


class Events(Protocol):
    """The one event-loop thread (pyhv/events.py)."""

    def add(self, fd: int, callback: Callable[[], None]) -> None:
        """Call *callback* on the loop thread whenever *fd* is readable (level)."""

    def remove(self, fd: int) -> None:
        """Stop watching *fd*; the caller closes it. On the loop thread only, or before start."""

    def call(self, function: Callable[[], None]) -> None:
        """Run *function* soon on the loop thread; any thread may call."""

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        """Run *function* once on the loop thread, not before *seconds* from now."""
