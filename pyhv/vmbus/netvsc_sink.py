"""The part of a network card that its backend calls with frames for the guest."""

from __future__ import annotations

from .netvsc_landing import Landing
from .netvsc_receive import sums_of
from .netvsc_saved import SavedNetvsc
from .rules import BrokenRule


class NetvscSink(SavedNetvsc):
    """Frames go into sections of the receive buffer, by the backend's hand or by ours."""

    filter: int
    coalesced: bool
    tell_checksums: bool
    received: int
    dropped: int
    _landing: Landing | None

    def land(self) -> None:
        """Have the backend coalesce, or not, as the driver wishes now."""
        receive, self._landing = self._receive, None
        if receive is not None and self.can_coalesce and self.coalesced and self.tell_checksums:
            landing = Landing(receive)
            if receive.count >= 2 * landing.need:
                self._landing = landing
        self.backend.coalesce(self._landing is not None)

    def room(self) -> int:
        """Return how many frames we can take: any number while nobody wants them."""
        receive = self._receive
        if receive is None or not self.filter:
            return 1 << 16
        return len(receive.free) // (self._landing.need if self._landing is not None else 1)

    def landing(self, large: bool) -> list[memoryview]:
        """Return the pieces of free sections; empty: the driver does not take coalesced frames."""
        if self._landing is None or not self.filter:
            return []
        try:
            return self._landing.pieces(large)
        except BrokenRule as error:
            self._broken(error)
            return []

    def landed(self, start: bytes, size: int, checked: bool) -> None:
        """A frame is in those sections."""
        landing, queue = self._landing, 0
        if landing is None:
            return
        if self.rss.enabled and len(self.queues) > 1:
            queue = self.rss.queue(start)
        channel = self.queues.get(queue) or self.queues[0]
        landing.landed(channel, size, sums_of(start) if checked else 0)
        self.received += 1

    def landed_all(self) -> None:
        """Send them."""
        if self._landing is not None:
            self._landing.send_all()

    def receive(self, received: list[bytes]) -> None:
        """Pass frames on to the queues that they belong to."""
        receive = self._receive
        if receive is None or not self.filter:
            self.dropped += len(received)
            return
        done, checked = 0, self.backend.checked and self.tell_checksums
        try:
            if not self.rss.enabled or len(self.queues) == 1:
                done = receive.data(self.queues[0], received, checked)
            else:
                queues: dict[int, list[bytes]] = {}
                for frame in received:
                    queue = self.rss.queue(frame)
                    queues.setdefault(queue if queue in self.queues else 0, []).append(frame)
                for queue, some in queues.items():
                    done += receive.data(self.queues[queue], some, checked)
        except BrokenRule as error:
            self._broken(error)
        self.received += done
        self.dropped += len(received) - done

    def _broken(self, error: BrokenRule) -> None:
        """Outside of a batch a broken rule closes the primary."""
        primary = self.queues.get(0)
        if primary is not None:
            primary.server.broken(error, primary)
