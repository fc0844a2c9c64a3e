"""The synthetic interrupt controller of one VP: SINTs, message page, event page, message queues.

Both pages are overlays (overlay.py). A message or an event is in the guest's hands once it is in
the page; the interrupt only says so. Rules: TLFS ch. 11; where KVM 6.12 differs, KVM (SCONTROL does
not gate messages; a masked SINT leaves a timer undelivered).
"""

from __future__ import annotations

import threading
from _collections import deque

from ..errors import BadGpa, GuestFault
from ..memory import PAGE_SIZE
from ..saving import fields
from .tlfs import (
    HV_EVENT_FLAGS_SIZE,
    HV_MESSAGE_FLAG_PENDING,
    HV_MESSAGE_FLAGS_OFFSET,
    HV_MESSAGE_PAYLOAD_BYTE_COUNT,
    HV_MESSAGE_PAYLOAD_OFFSET,
    HV_MESSAGE_SIZE,
    HV_PAGE_ENABLE,
    HV_PAGE_MASK,
    HV_SYNIC_FIRST_VALID_VECTOR,
    HV_SYNIC_SINT_AUTO_EOI,
    HV_SYNIC_SINT_COUNT,
    HV_SYNIC_SINT_MASKED,
    HV_SYNIC_SINT_VECTOR_MASK,
    HVMSG_NONE,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..memory import GuestMemory
    from .driver import World
    from .overlay import Overlays
    from .stimer import Stimer


FULL, NOWHERE = -1, -1 << 20
SAVED = ("control", "siefp", "simp", "sints")


def fill_slot(memory: GuestMemory, gpa: int, message_type: int, payload: bytes) -> bool:
    """Write a message into the SIM slot at *gpa*; False, with the pending flag set, if it is full.

    :param gpa: a multiple of 256. Not RAM: False, as KVM's failed write.
    :param payload: at most 240 bytes.

    One writer at a time; the guest may empty the slot at any moment. Its order is type := 0,
    barrier, test pending, write EOM; ours: set pending, look again, so no wake-up is lost.
    """
    try:
        at = memory.offset(gpa, HV_MESSAGE_SIZE)
    except BadGpa:
        return False
    if memory.u32[at >> 2] != HVMSG_NONE and not _emptied(memory, gpa, at):
        return False
    _store(memory, at, message_type, payload)
    return True


def _emptied(memory: GuestMemory, gpa: int, at: int) -> bool:
    """Set a full slot's pending flag, and look again."""
    memory.atomic_or(gpa + HV_MESSAGE_FLAGS_OFFSET, HV_MESSAGE_FLAG_PENDING)
    return memory.u32[at >> 2] == HVMSG_NONE


def _store(memory: GuestMemory, at: int, message_type: int, payload: bytes) -> None:
    """Write a message into an empty slot, *at* in the mapping."""
    body, word, u32 = at + HV_MESSAGE_PAYLOAD_OFFSET, at >> 2, memory.u32
    memory.bytes[body : body + len(payload)] = payload
    u32[word + 1] = len(payload)  # and flags and reserved: 0
    memory.u64[(at >> 3) + 1] = 0  # sender
    u32[word] = message_type  # last, and one store: from here on the message exists


class Synic:
    """One VP's SynIC. MSRs on the VP's thread; messages and events from any thread.

    ``lock`` covers the message page, the queues and the VP's timers. ``timers`` is filled by
    the VP. ``control``, ``siefp``, ``simp`` and ``sints`` are the MSRs as the guest wrote them.
    """

    def __init__(self, world: World, overlays: Overlays, vp_index: int) -> None:
        self._world, self._memory, self._vp_index = world, world.memory, vp_index
        self._overlays, self._sim, self._sief = overlays, ("SIM", vp_index), ("SIEF", vp_index)
        self.lock = threading.Lock()
        self.timers: tuple[Stimer, ...] = ()
        # KVM starts with SCONTROL = 1; no guest of QEMU sees that, it writes 0 at reset.
        self.control = self.siefp = self.simp = 0
        self._sim_at = NOWHERE  # where the page is in the mapping of RAM
        self.sints = [HV_SYNIC_SINT_MASKED] * HV_SYNIC_SINT_COUNT
        self._queues: dict[int, deque[tuple[int, bytes]]] = {}
        self._auto_eoi: frozenset[int] = frozenset()

    # MSRs

    def write_control(self, value: int) -> None:
        """Take a guest's WRMSR to HV_X64_MSR_SCONTROL."""
        self.control = value
        self._world.synic_changed(self._vp_index)

    def write_siefp(self, value: int) -> None:
        """Take a guest's WRMSR to HV_X64_MSR_SIEFP; an address without RAM is no fault."""
        self.siefp = 0  # no event while the page is on its way
        self._overlays.place(self._sief, value)
        self.siefp = value
        self._world.synic_changed(self._vp_index)

    def write_simp(self, value: int) -> None:
        """Take a guest's WRMSR to HV_X64_MSR_SIMP; what waited for the page is delivered."""
        with self.lock:
            self._overlays.place(self._sim, value)
            self.simp, self._sim_at = value, self._page(value)
            self._drain()
        self._world.synic_changed(self._vp_index)

    def write_sint(self, n: int, value: int) -> None:
        """Take a guest's WRMSR to HV_X64_MSR_SINT0 + *n*.

        :raises GuestFault: *value* unmasks a vector below 16.
        """
        # Vectors 0..15 are exceptions. Masked, they pass: a nested Hyper-V
        # writes 0x10000 at boot (linux: arch/x86/kvm/hyperv.c, synic_set_sint).
        vector = value & HV_SYNIC_SINT_VECTOR_MASK
        if vector < HV_SYNIC_FIRST_VALID_VECTOR and not value & HV_SYNIC_SINT_MASKED:
            raise GuestFault(f"SINT{n} = {value:#x}: vector below 16")
        self.sints[n] = value
        # The bit belongs to the vector: one unmasked SINT with it is enough (synic_update_vector).
        self._auto_eoi = frozenset(
            sint & HV_SYNIC_SINT_VECTOR_MASK
            for sint in self.sints
            if sint & HV_SYNIC_SINT_AUTO_EOI and not sint & HV_SYNIC_SINT_MASKED
        )
        self._world.synic_changed(self._vp_index)

    def end_of_message(self, value: int = 0) -> None:
        """Take a WRMSR to HV_X64_MSR_EOM, any value: try again all that waits for a slot."""
        with self.lock:
            for timer in self.timers:
                if timer.pending:
                    timer.acknowledged()
            if self._queues:
                self._drain()

    @property
    def waiting(self) -> bool:
        """Tell whether a message waits for its slot; a hint, read without the lock."""
        return bool(self._queues) or any(timer.pending for timer in self.timers)

    # Delivery

    def post_message(self, sint: int, message_type: int, payload: bytes) -> None:
        """Queue a message of at most 240 bytes for slot *sint* (0..15); the caller bounds them.

        :raises ValueError: *payload* is longer.
        """
        if len(payload) > HV_MESSAGE_PAYLOAD_BYTE_COUNT:
            raise ValueError(f"message of {len(payload)} bytes: at most 240")
        with self.lock:
            self._queues.setdefault(sint, deque()).append((message_type, payload))
            self._drain_sint(sint)

    def messages_waiting(self, sint: int) -> int:
        """Return how many messages wait for slot *sint*; a hint, read without the lock."""
        queue = self._queues.get(sint)
        return len(queue) if queue else 0

    def drop_messages(self, sint: int, message_type: int) -> None:
        """Forget the messages of a type that wait for slot *sint*."""
        with self.lock:
            kept = deque(one for one in self._queues.pop(sint, ()) if one[0] != message_type)
            if kept:
                self._queues[sint] = kept

    def _drain(self) -> None:
        for sint in sorted(self._queues):
            self._drain_sint(sint)

    def _drain_sint(self, sint: int) -> None:
        """Deliver until the slot is full (its pending flag then asks for an EOM); lock held."""
        queue = self._queues[sint]
        while queue and self.deliver(sint, *queue[0]) is not None:
            queue.popleft()
        if not queue:
            del self._queues[sint]

    def slot(self, sint: int, pending: bool = True) -> int:
        """Return where the empty slot *sint* is in the mapping of RAM; the lock is held.

        :returns: FULL, with the slot's pending flag set if *pending*, or NOWHERE: the page is off.
        """
        at = self._sim_at + sint * HV_MESSAGE_SIZE
        if at < 0:
            return NOWHERE
        if self._memory.u32[at >> 2] != HVMSG_NONE:
            gpa = (self.simp & HV_PAGE_MASK) + sint * HV_MESSAGE_SIZE
            if not pending or not _emptied(self._memory, gpa, at):
                return FULL
        return at

    def deliver(self, sint: int, message_type: int, payload: bytes) -> bool | None:
        """Write a message and raise the SINT; the lock is held.

        Return None if the slot is full or the page off, else whether the interrupt went out.
        """
        at = self.slot(sint)
        if at < 0:
            return None
        _store(self._memory, at, message_type, payload)
        return self.raise_sint(sint)

    def raise_sint(self, sint: int) -> bool:
        """Send the SINT's interrupt; False if it is masked or the APIC did not take it."""
        value = self.sints[sint]
        if value & HV_SYNIC_SINT_MASKED:
            return False
        vector = value & HV_SYNIC_SINT_VECTOR_MASK
        if vector in self._auto_eoi:
            self._world.inject_auto_eoi(self._vp_index, vector)
            return True
        return self._world.interrupt(self._vp_index, vector)

    def set_event(self, sint: int, flag: int) -> bool:
        """Set event *flag* (0..2047) of slot *sint*, and raise the SINT if the flag was clear.

        Return False, and do nothing, while the guest has the SynIC or the page off. No lock.
        """
        siefp = self.siefp
        if not self.control & siefp & HV_PAGE_ENABLE:
            return False
        gpa = (siefp & HV_PAGE_MASK) + sint * HV_EVENT_FLAGS_SIZE
        try:
            if not self._memory.test_and_set(gpa, flag):
                self.raise_sint(sint)
        except BadGpa:
            return False
        return True

    def save(self) -> dict[str, Any]:
        """Return the MSRs, and the messages that wait: [SINT, type, payload]."""
        with self.lock:
            queues = [[sint, *one] for sint, queue in self._queues.items() for one in queue]
            return {**fields(self, SAVED), "queues": queues}

    def load(self, state: dict[str, Any]) -> None:
        """Undo :meth:`save`; the pages are in guest RAM already, where the MSRs say."""
        self.control, self.siefp, self.simp = state["control"], state["siefp"], state["simp"]
        self._sim_at = self._page(self.simp)
        for n, value in enumerate(state["sints"]):
            if value != self.sints[n]:
                self.write_sint(n, value)
        for sint, kind, payload in state["queues"]:
            self._queues.setdefault(sint, deque()).append((kind, payload))

    def _page(self, msr: int) -> int:
        if msr & HV_PAGE_ENABLE:
            try:
                return self._memory.offset(msr & HV_PAGE_MASK, PAGE_SIZE)
            except BadGpa:
                pass  # the guest put its page outside RAM: no message
        return NOWHERE

    def reset(self) -> None:
        """Forget messages, masks and pages; the VP's timers too. The VP must not run."""
        with self.lock:
            for timer in self.timers:
                timer.clear()
            self._queues.clear()
            self.control = self.siefp = self.simp = 0
            self._sim_at = NOWHERE
            for page in (self._sim, self._sief):
                self._overlays.reset(page)
            self.sints[:] = [HV_SYNIC_SINT_MASKED] * HV_SYNIC_SINT_COUNT
            self._auto_eoi = frozenset()
