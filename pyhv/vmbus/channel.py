"""One channel: two rings, a doorbell from the guest, an event flag to it, and its device.

A wake-up drains the ring: signals masked, all packets copied out and served, all completions
made visible by one index store and at most one interrupt, then unmasked and looked at again.
No loop here depends on the guest to end: a wake-up serves a bounded number of packets, and while
completions wait for room in the guest's ring, no further requests are taken.
"""

from __future__ import annotations

import os
from _collections import deque

from ..saving import fields, put
from . import protocol as p
from .ring import InRing, OutRing
from .rules import BrokenRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .device import Device
    from .server import VmbusServer

PACKETS_PER_WAKE = 512  # then other descriptors get their turn
PACKETS_PER_SIGNAL = 64  # a guest with a long queue gets its first answers early
OLD_GUEST_RETRY_S = 0.01
MAX_WAITING = 1024  # packets that a device may queue while the guest's ring is full
HEADER = p.PACKET_HEADER.size
_header = p.PACKET_HEADER.unpack_from
_pack_header = p.PACKET_HEADER.pack
_PADDING = (b"", bytes(7), bytes(6), bytes(5), bytes(4), bytes(3), bytes(2), bytes(1))

# states
OFFERED, OPEN, RESCINDED = "offered", "open", "rescinded"
SAVED = ("relid", "sub_index", "state", "target_vp", "ring_gpadl", "out_page", "_waiting")
BROKEN = "broken"  # closed by us for a broken rule; the guest has still to close it


class Channel:
    """An offer, and while ``state`` is OPEN its rings.

    ``relid`` 1..2047, ``sub_index`` 0 for a primary, ``primary`` None for one, ``target_vp`` who
    gets its events, ``data`` whatever the device keeps here.
    """

    def __init__(
        self,
        server: VmbusServer,
        device: Device,
        relid: int,
        primary: Channel | None = None,
        sub_index: int = 0,
    ) -> None:
        self.server, self.device, self.relid = server, device, relid
        self.primary, self.sub_index = primary, sub_index
        self.packet = device.packet  # what serves a packet; instruments wrap it
        self.state = OFFERED
        self.target_vp = 0
        self.ring_gpadl = self.out_page = 0
        self.data: object = None
        self.wakes = self.packets = self.signals = 0
        self._waiting: deque[bytes] = deque()
        self._held = False
        self._fd = -1
        self._in: InRing | None = None
        self._out: OutRing | None = None
        self._interrupt = _nothing
        self._draining = False

    @property
    def connection_id(self) -> int:
        """What the guest signals; flag 0."""
        return p.EVENT_CONNECTION_BASE + self.relid

    # life, called by the server

    def open(self, pages: list[int], out_page: int, gpadl: int, target_vp: int) -> None:
        """Build the rings and listen.

        :param pages: offsets in ``memory.bytes``; the host-to-guest ring starts at *out_page*.
        :raises BrokenRule: the indexes in the rings. OSError, HostError: no doorbell.
        """
        memory = self.server.memory
        if not 2 <= out_page <= len(pages) - 2:
            raise BrokenRule("open-ring", f"{len(pages)} pages, second ring at {out_page}")
        ring_in, ring_out = InRing(memory, pages[:out_page]), OutRing(memory, pages[out_page:])
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self.retarget(target_vp)
            self.server.synic.bind_event(self.connection_id, fd)
        except BaseException:
            os.close(fd)
            raise
        self.server.events.add(fd, self.drain)
        self._fd, self._in, self._out = fd, ring_in, ring_out
        self.ring_gpadl, self.out_page, self.state = gpadl, out_page, OPEN

    def retarget(self, target_vp: int) -> None:
        """Send events to another VP."""
        self.target_vp = target_vp
        self._interrupt = self.server.synic.event_signaller(
            target_vp, self.server.sint, self.relid
        )

    def close(self) -> None:
        """Stop at once: nothing of the rings is touched after this."""
        if self._fd < 0:
            return
        self.server.synic.unbind_event(self.connection_id)
        self.server.events.remove(self._fd)
        os.close(self._fd)
        self._fd, self._in, self._out, self._interrupt = -1, None, None, _nothing
        self._waiting.clear()
        self._held = False
        if self.state == OPEN:
            self.state = OFFERED
        self.device.closed(self)

    def save(self) -> dict[str, Any]:
        """Return what makes it again, for a snapshot; between two batches."""
        primary = self.primary.relid if self.primary is not None else 0
        state = {**fields(self, SAVED), "device": self.device.instance_guid, "primary": primary}
        if self._in is not None and self._out is not None:
            state["rings"] = [self._in.read, self._out.write, self._out.waits]
        return state

    def load(self, state: dict[str, Any], pages: list[int]) -> None:
        """Undo :meth:`save`; *pages* are those of the rings' GPADL, if it is open.

        The doorbell is rung once: whether the guest had, nobody remembers.

        :raises BrokenRule: the guest spoiled a ring's header before the snapshot.
        """
        put(self, SAVED, state)
        if self.state != OPEN:
            return
        read, write, waits = state["rings"]
        self.open(pages, self.out_page, self.ring_gpadl, self.target_vp)
        self._in.resume(read)
        self._out.resume(write, waits)
        self.ring()

    def ring(self) -> None:
        """Have the doorbell served soon, as if the guest had rung it."""
        if self._fd >= 0:
            os.eventfd_write(self._fd, 1)

    # for devices

    @property
    def waiting(self) -> int:
        """How many packets wait for room in the guest's ring."""
        return len(self._waiting)

    def hold(self, held: bool) -> None:
        """Serve no packets for now; or serve them again, those that lie there soon."""
        if self._held and not held:
            self.ring()
        self._held = held

    def send(self, packet: bytes) -> bool:
        """Send a packet with its header, a multiple of 8 bytes.

        Inside :meth:`Device.packet` it becomes visible at the end of the batch, else at once.

        :return: False, it is dropped: the channel is closed, the packet larger than the ring, or
            the guest has not read for so long that MAX_WAITING packets wait.
        """
        out = self._out
        if out is None or len(packet) + 8 >= out.size:
            return False
        try:
            if self._waiting or not out.append(packet):
                if len(self._waiting) >= MAX_WAITING:
                    return False
                self._waiting.append(packet)
            if not self._draining:
                self._flush()
        except BrokenRule as error:
            if self._draining:
                raise  # drain() closes the channel
            self.server.broken(error, self)
            return False
        return True

    def send_inband(self, data: bytes, transaction: int = 0, flags: int = 0) -> bool:
        """Send *data* as an in-band packet."""
        return self.send(_packet(p.VM_PKT_DATA_INBAND, data, transaction, flags))

    def complete(self, transaction: int, data: bytes) -> bool:
        """Send the completion packet of *transaction*."""
        return self.send(_packet(p.VM_PKT_COMP, data, transaction, 0))

    # the event loop

    def drain(self) -> None:
        """Serve the doorbell."""
        if self._fd < 0:
            return  # a wake-up of before it was closed
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return  # the descriptor's number was another channel's when the loop saw it ready
        self.wakes += 1
        ring = self._in
        assert ring is not None
        self._draining = True
        try:
            if self._made_room():
                self._drain(ring)
            else:
                self._look_again()
        except BrokenRule as error:
            self.server.broken(error, self)
        finally:
            self._draining = False

    def _made_room(self) -> bool:
        """Put in what waits, tell the device; False while something waits."""
        if not self._waiting:
            return True
        if not self._flush():
            return False
        self.device.writable(self)
        return self._in is None or self._flush()

    def _flush(self) -> bool:
        """Put what waits into the ring and publish; False while something still waits."""
        out, waiting = self._out, self._waiting
        assert out is not None
        while waiting:
            if not out.append(waiting[0]):
                self._publish(out)  # let the guest see what is there, then ask for room
                if not out.wait_for(waiting[0]):
                    return False
                continue
            waiting.popleft()
            if not waiting:
                out.waits_no_more()
        self._publish(out)
        return True

    def _publish(self, out: OutRing) -> None:
        if out.publish():
            self.signals += 1
            self._interrupt()

    def _drain(self, ring: InRing) -> None:
        if self._in is not ring:
            return
        packet, out = self.packet, self._out
        assert out is not None
        budget = PACKETS_PER_WAKE
        ring.mask()
        while not self._held:
            batch = ring.take()
            if not batch:
                if ring.unmask():
                    ring.mask()
                    continue
                return
            at, length, count = 0, len(batch), 0
            while at < length and count < PACKETS_PER_SIGNAL and not self._held:
                if length - at < HEADER:
                    raise BrokenRule("ring-packet", f"{length - at} bytes left")
                kind, offset8, length8, flags, transaction = _header(batch, at)
                end = at + length8 * 8
                if not 2 <= offset8 <= length8 or end + 8 > length:
                    raise BrokenRule("ring-packet", f"{offset8} and {length8} of {length - at} / 8")
                packet(
                    self, kind, flags, transaction, batch, at + HEADER, at + offset8 * 8, end
                )
                if self._in is not ring:
                    return  # the device had it closed
                at = end + 8
                count += 1
            self.packets += count
            self.device.batch_done(self)
            if self._in is not ring:
                return
            wanted = ring.advance(at)
            flushed = self._made_room()
            if self._in is not ring:
                return
            self._publish(out)
            if wanted:
                self.signals += 1
                self._interrupt()
            if not flushed:
                # The guest does not read its completions: leave the rest in its ring, masked,
                # until it makes room, which it signals on the same doorbell.
                self._look_again()
                return
            budget -= count
            if budget <= 0:
                os.eventfd_write(self._fd, 1)
                return


    def _look_again(self) -> None:
        """A guest older than 2.4 does not say when it made room in its ring: look by ourselves."""
        if (self.server.version or 0) < p.VERSION_WIN8:
            self.server.events.after(OLD_GUEST_RETRY_S, self.ring)


def _nothing() -> None:
    pass


def _packet(kind: int, data: bytes, transaction: int, flags: int) -> bytes:
    padding = _PADDING[len(data) & 7]
    size = (HEADER + len(data) + len(padding)) >> 3
    return _pack_header(kind, HEADER >> 3, size, flags, transaction) + data + padding
