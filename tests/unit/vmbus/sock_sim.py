"""hv_sock's guest side on the simulated guest: calls, listeners, packets, as Linux makes them."""

from __future__ import annotations

import struct

from guest_sim import Guest, GuestChannel, Offer, packet

from pyhv.vmbus.hvsock import HvSockets, service_guid
from pyhv.vmbus.server import guid_bytes

GUEST_PORT = 0x12345678


class Note:
    """A host's end that notes what it is told."""

    def __init__(self) -> None:
        self.connection, self.data, self.told = None, bytearray(), []

    def opened(self, connection) -> None:
        self.connection = connection
        self.told.append("opened")

    def received(self, data: bytes) -> None:
        self.data += data

    def finished(self) -> None:
        self.told.append("finished")

    def writable(self) -> None:
        self.told.append("writable")

    def closed(self) -> None:
        self.told.append("closed")


class SockGuest:
    """A guest with contact; ``ends`` are what its calls to a port below 100 got."""

    def __init__(self, guest: Guest, accept=None) -> None:
        self.guest, self.ends = guest, []
        self.sockets = HvSockets(guest.server, accept or self._accept)
        guest.connect()

    def _accept(self, port: int) -> Note | None:
        if port >= 100:
            return None
        self.ends.append(Note())
        return self.ends[-1]

    def request(self, port: int, own: int = GUEST_PORT) -> list[bytes]:
        """TL_CONNECT_REQUEST; return the answers."""
        return self.guest.ask(
            struct.pack("<II", 21, 0)
            + guid_bytes(service_guid(own)) + guid_bytes(service_guid(port))
        )  # fmt: skip

    def call(self, port: int, own: int = GUEST_PORT, pages: int = 7) -> GuestChannel:
        """Connect and open the channel that is offered."""
        (answer,) = self.request(port, own)
        assert answer[:4] == b"\1\0\0\0"
        offer = [*self.guest.offers.values()][-1]
        assert offer.class_guid == guid_bytes(service_guid(port))
        assert offer.instance_guid == guid_bytes(service_guid(own))
        assert offer.flags == 0x2000
        assert not offer.user_data[4]
        return self.guest.open(offer.relid, (pages, pages))

    def let_go(self, channel: GuestChannel) -> None:
        """Answer a rescind, as the driver's remove does."""
        guest = self.guest
        guest.post(channel.close_message())
        guest.ask(struct.pack("<IIII", 11, 0, channel.relid, channel.gpadl))
        guest.ask(struct.pack("<III", 13, 0, channel.relid))
        del guest.offers[channel.relid]

    def rescinded(self) -> list[int]:
        """Return the relids that were taken back."""
        return [
            struct.unpack_from("<I", message, 8)[0]
            for message in self.guest.received()
            if message[:4] == b"\2\0\0\0"
        ]


def offered(guest: Guest) -> list[Offer]:
    """Return the offers that came."""
    guest.received()
    return [*guest.offers.values()]


def pipe(data: bytes, kind: int = 1, size: int | None = None) -> bytes:
    """Return a ring packet with *data* behind a pipe header."""
    head = struct.pack("<II", kind, len(data) if size is None else size)
    return packet(6, head + data, transaction=0, flags=0)


def payload(channel: GuestChannel, limit: int = 1 << 30) -> tuple[bytes, bool]:
    """Read what the host sent, as a stream, and whether its end was among it."""
    data, end = bytearray(), False
    for one in channel.receive(limit):
        assert one.kind == 6
        kind, size = struct.unpack_from("<II", one.data)
        assert kind == 1
        assert not end
        assert size <= 16384  # HVS_MTU_SIZE
        data += one.data[8 : 8 + size]
        end = not size
    return bytes(data), end
