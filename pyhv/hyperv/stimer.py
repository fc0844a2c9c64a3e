"""One synthetic timer: one-shot or periodic, by message or direct interrupt.

The rules are KVM's (linux 6.12 arch/x86/kvm/hyperv.c: stimer_set_config, stimer_start,
stimer_expiration, kvm_hv_process_stimers), also where the TLFS asks for more.
"""

from __future__ import annotations

from _struct import Struct

from ..errors import GuestFault
from ..saving import fields, put
from .features import DIRECT_SYNTHETIC_TIMERS
from .privileges import Gate
from .synic import FULL
from .tlfs import (
    HV_STIMER_AUTO_ENABLE,
    HV_STIMER_DIRECT,
    HV_STIMER_ENABLE,
    HV_STIMER_PERIODIC,
    HV_STIMER_SINT_SHIFT,
    HV_STIMER_VECTOR_SHIFT,
    HVMSG_TIMER_EXPIRED,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .clock import ReferenceClock
    from .driver import World
    from .privileges import Features
    from .synic import Synic

#: a message after its type: size, flags, reserved (32 bits); sender; timer, expiration, delivery;
#: the last two fit into 64 bits, for it is sent when its time has come
REST, REST_BYTES = Struct("<IQQQQ").pack_into, 24
SAVED = ("config", "count", "expires", "pending", "_armed")
DIRECT_GATE = Gate(leaf3_edx=DIRECT_SYNTHETIC_TIMERS)
#: A periodic timer is looked at no sooner than this (100 us), whatever its period: KVM is held
#: back by its VM entries; without a bound a guest would have our timer thread spin.
MIN_PERIOD_TICKS = 1000


def _sint(config: int) -> int:
    return config >> HV_STIMER_SINT_SHIFT & 0xF


class Stimer:
    """HV_X64_MSR_STIMERn_CONFIG and _COUNT. ``synic.lock`` guards it.

    ``expires`` is the reference time of the next expiry, 0 for none; ``pending``: expired,
    but the message is not delivered.
    """

    __slots__ = (
        "_arm",
        "_armed",
        "_features",
        "_index",
        "_lock",
        "_memory",
        "_synic",
        "_ticks",
        "_vp_index",
        "_world",
        "config",
        "count",
        "expires",
        "pending",
    )

    def __init__(
        self,
        world: World,
        clock: ReferenceClock,
        synic: Synic,
        features: Features,
        vp_index: int,
        index: int,
    ) -> None:
        self._world, self._features, self._vp_index = world, features, vp_index
        self._synic, self._lock, self._ticks = synic, synic.lock, clock.ticks
        self._memory, self._index = world.memory, index
        self._arm = world.new_timer(vp_index, index)
        self._armed = False
        self.config = self.count = self.expires = 0
        self.pending = False

    def read_config(self) -> int:
        """Return _CONFIG. Under the lock: an expiry interrupts before it clears enable."""
        with self._lock:
            return self.config

    def write_config(self, value: int) -> None:
        """Take a guest's WRMSR to _CONFIG; reserved bits are stored.

        :raises GuestFault: the SynIC is off; direct mode although CPUID does not show it.
        """
        direct = bool(value & HV_STIMER_DIRECT)
        if not self._features.synic or (direct and not self._features.allows(DIRECT_GATE)):
            raise GuestFault("stimer config")
        with self._lock:
            # Only a timer that was enabled loses it with SINTx = 0; a first write may use slot 0.
            if self.config & HV_STIMER_ENABLE and not direct and _sint(value) == 0:
                value &= ~HV_STIMER_ENABLE
            self._restart(value, self.count)

    def write_count(self, value: int) -> None:
        """Take a guest's WRMSR to _COUNT: 0 disables, anything else may enable.

        :raises GuestFault: the SynIC is off.
        """
        if not self._features.synic:
            raise GuestFault("stimer count")
        lock = self._lock
        lock.acquire()  # half of what ``with`` takes (measured)
        try:
            config = self.config
            if value == 0:
                config &= ~HV_STIMER_ENABLE
            elif config & HV_STIMER_AUTO_ENABLE:
                config |= HV_STIMER_ENABLE
            self._restart(config, value)
        finally:
            lock.release()

    def expire(self) -> None:
        """The time may have come: look. On any thread but the VP's.

        A call that comes too early, or late for a timer that was stopped or moved, does no harm.
        """
        lock = self._lock
        lock.acquire()
        try:
            if self._armed:
                now, expires = self._ticks(), self.expires
                if now < expires:
                    self._arm(expires)
                    return
                self._armed = False
                if self._fire(now) and self.config & HV_STIMER_PERIODIC:
                    self._next(now)
        finally:
            lock.release()

    def acknowledged(self) -> None:
        """The guest emptied slots, and we are pending: try again, except in direct mode.

        The lock is held.
        """
        config = self.config
        if not config & HV_STIMER_DIRECT and config & HV_STIMER_ENABLE:
            now = self._ticks()
            if self._fire(now) and config & HV_STIMER_PERIODIC:
                self._next(now)

    def clear(self) -> None:
        """Disarm and zero; lock held."""
        self._disarm()
        self.config = self.count = self.expires = 0
        self.pending = False

    def save(self) -> dict[str, Any]:
        """Return its state; ``expires`` is in reference time, which stands in a snapshot."""
        with self._lock:
            return fields(self, SAVED)

    def load(self, state: dict[str, Any]) -> None:
        """Undo :meth:`save`; one that ran is armed again."""
        put(self, SAVED, state)
        if self._armed:
            self._arm(self.expires)

    def _disarm(self) -> None:
        if self._armed:
            self._armed = False
            self._arm(None)

    def _restart(self, config: int, count: int) -> None:
        """Start or stop with these values; of an expiry before nothing is left."""
        self.config, self.count, self.pending, self.expires = config, count, False, 0
        if not (config & HV_STIMER_ENABLE and count):
            self._disarm()
            return
        now = self._ticks()
        if config & HV_STIMER_PERIODIC:
            self.expires = now
            self._next(now)
            return
        self.expires = count
        if now < count:
            self._armed = True
            self._arm(count)
        else:  # TLFS: a count in the past expires at once
            self._disarm()
            self._fire(now)

    def _next(self, now: int) -> None:
        """Arm a periodic timer for the first of its times after *now*.

        Ticks that were missed are lost, the phase is kept; the lazy bit means nothing.
        """
        count = self.count
        due = self.expires + count
        if due <= now:
            due = now + count - (now - self.expires) % count
        self.expires, self._armed = due, True
        # one that is due in between is met late, at the bound
        self._arm(due if count >= MIN_PERIOD_TICKS else max(due, now + MIN_PERIOD_TICKS))

    def _fire(self, now: int) -> bool:
        """Send message or interrupt; return whether that is done, and pending no more."""
        config = self.config
        # Before the attempt: the guest may write EOM as soon as it sees the pending flag.
        self.pending = True
        if config & HV_STIMER_DIRECT:
            sent = self._world.interrupt(self._vp_index, config >> HV_STIMER_VECTOR_SHIFT & 0xFF)
        else:
            sent = self._message(config >> HV_STIMER_SINT_SHIFT & 0xF, now)
        if not sent:
            return False
        self.pending = False
        if not config & HV_STIMER_PERIODIC:
            self.config, self.expires = config & ~HV_STIMER_ENABLE, 0
        return True

    def _message(self, sint: int, now: int) -> bool:
        """Write a timer's message and raise its SINT; False: try again when the slot is empty."""
        synic, periodic = self._synic, self.config & HV_STIMER_PERIODIC
        at = synic.slot(sint, not periodic)
        if at < 0:
            return bool(periodic) and at == FULL  # then this tick is lost, without a trace
        memory = self._memory
        REST(memory.bytes, at + 4, REST_BYTES, 0, self._index, self.expires, now)
        memory.u32[at >> 2] = HVMSG_TIMER_EXPIRED  # last: from here on the message exists
        return synic.raise_sint(sint)
