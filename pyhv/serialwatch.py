"""Looks into KVM's coalesced ring while the guest talks; a silent guest's ring costs nothing.

KVM tells nobody that a byte lies in the ring, so the event loop must look: often while there are
bytes, then twenty times a second. After a second of silence the ports leave the ring; the next byte
exits, which brings the ring back.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .events import EventLoop
    from .kvm.vm import Vm
    from .serialring import SerialRing

BUSY_S, IDLE_S = 0.005, 0.05
LOOKS = 20


class SerialWatch:
    """The looking, on the event loop, at *ring* and the *ports* that KVM collects in it."""

    def __init__(
        self, ring: SerialRing, vm: Vm, ports: tuple[int, ...], events: EventLoop
    ) -> None:
        self._ring, self._vm, self._ports, self._events = ring, vm, ports, events
        self._looking = self._ended = False
        self._silent = 0
        self._able = all(vm.coalesce_pio(port, 1) for port in ports)
        ring.roused = lambda: events.call(self._again)

    def start(self) -> None:
        """Look until there is silence; any thread."""
        if self._able:
            self._events.call(self._begin)

    def end(self) -> None:
        """Look no more; what lies in the ring comes out now. On the event loop."""
        self._ended = True
        self._ring.drain()

    def _begin(self) -> None:
        self._looking, self._silent = True, 0
        self._look()

    def _again(self) -> None:
        if not self._looking and not self._ended:  # two vCPUs may have sent at once
            for port in self._ports:
                self._vm.coalesce_pio(port, 1)
            self._begin()

    def _look(self) -> None:
        if self._ended:
            return
        if self._ring.drain():
            self._silent = 0
            self._events.after(BUSY_S, self._look)
        elif self._silent < LOOKS:
            self._silent += 1
            self._events.after(IDLE_S, self._look)
        else:
            self._looking = False
            self._ring.quiet = True  # first: a byte that exits from here on finds it so
            for port in self._ports:
                self._vm.uncoalesce_pio(port, 1)
            self._ring.drain()  # what came before that
