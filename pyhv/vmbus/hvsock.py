"""hv_sock: each stream between guest and host is a channel of its own, offered when one side calls.

The guest's call is a TL_CONNECT_REQUEST, which is answered by the offer; the host's is the offer
alone, and nobody says when the guest has no listener there. Data is in-band packets with a pipe
header; one of no bytes is the sender's end. The guest keeps a closed connection until its channel
is rescinded. Source: linux net/vmw_vsock/hyperv_transport.c, Documentation/virt/hyperv/vmbus.rst.
"""

from __future__ import annotations

from struct import Struct

from . import protocol as p
from .channel import RESCINDED
from .device import Device, check_inband
from .rules import BrokenRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from .channel import Channel
    from .server import VmbusServer

    class End(Protocol):
        """The host's side of a connection; called on the event loop."""

        def opened(self, connection: HvSocket) -> None: ...
        def received(self, data: bytes) -> None: ...
        def finished(self) -> None: ...
        def writable(self) -> None: ...
        def closed(self) -> None: ...


_pipe = Struct("<II")  # 0:4 VMPIPE_DATA, 4:4 bytes, 8: the bytes
VMPIPE_DATA = 1
PACKET_BYTES = 8192  # Linux takes 16 KiB; its ring has 24
SERVICE = "-facb-11e6-bd58-64006a7986d3"  # of a port, which is the first group
_SERVICE_BYTES = bytes.fromhex("cbfae611bd5864006a7986d3")  # as it lies in memory
FIRST_PORT = 0x80000000  # of the host's calling ends
MAX_CONNECTIONS = 256
LINGER_S = 10.0  # how long a closed connection waits for a guest that does not read


def service_guid(port: int) -> str:
    """Return the service GUID of a port, in text form."""
    return f"{port:08x}{SERVICE}"


def port_of(guid: bytes) -> int | None:
    """Return the port of a service GUID as it lies in memory; None: it is another service."""
    if guid[4:] != _SERVICE_BYTES:
        return None
    return int.from_bytes(guid[:4], "little")


def guid_text(guid: bytes) -> str:
    """Return a GUID that lies in memory, in text form."""
    groups = (guid[3::-1], guid[5:3:-1], guid[7:5:-1], guid[8:10], guid[10:])
    return "-".join(group.hex() for group in groups)


class HvSocket(Device):
    """One connection. On the event loop.

    :param service: class GUID, *instance*: instance GUID, in text form.
    :param from_host: who called.
    :param end: the host's side of it.
    """

    offer_flags = p.VMBUS_CHANNEL_TLNPI_PROVIDER_OFFER

    def __init__(
        self, sockets: HvSockets, service: str, instance: str, from_host: bool, end: End
    ) -> None:
        self.class_guid, self.instance_guid = service, instance
        # behind the pipe mode, which means nothing here: whether the guest accepts
        self.user_data = bytes((0, 0, 0, 0, from_host))
        self._sockets, self._end = sockets, end
        self._channel: Channel | None = None
        self.relid = 0
        self._taken = self._sent_fin = self._got_fin = self._finishing = self._over = False

    # the bus

    def opened(self, channel: Channel) -> None:
        """The guest has taken it; once, it is not opened again."""
        if self._taken:
            self._call(self.hang_up)
            return
        self._channel, self._taken = channel, True
        self._end.opened(self)

    def closed(self, channel: Channel) -> None:
        """The guest closed it, or we: only a rescind lets the guest forget it."""
        self._channel = None
        self._call(self.hang_up)

    def packet(
        self, channel: Channel, kind: int, flags: int, transaction: int,
        batch: bytes, start: int, body: int, end: int,
    ) -> None:  # fmt: skip
        """Data of the guest, or its end."""
        check_inband(kind, end - body, _pipe.size)
        pipe, size = _pipe.unpack_from(batch, body)
        if pipe != VMPIPE_DATA or size > end - body - _pipe.size:
            raise BrokenRule("packet-short", f"pipe type {pipe}, {size} bytes")
        if self._got_fin:
            raise BrokenRule("device-state", "data after the end of the stream")
        if size:
            self._end.received(batch[body + _pipe.size : body + _pipe.size + size])
        else:
            self._got_fin = True
            self._end.finished()

    def writable(self, channel: Channel) -> None:
        """What waited is in the ring."""
        if self._finishing:
            self._call(self.hang_up)
        else:
            self._end.writable()

    # the host's side

    @property
    def begun(self) -> bool:
        """Whether the guest has begun to take it: it has a listener, and is slow."""
        return self.server is not None and self.server.gpadls.lent(self.relid)

    def send(self, data: bytes) -> bool:
        """Send *data*; False: it waits for room in the ring, and ``end.writable`` will be called.

        Without a channel it is dropped.
        """
        channel = self._channel
        if channel is None or self._sent_fin:
            return True
        for at in range(0, len(data), PACKET_BYTES):
            piece = data[at : at + PACKET_BYTES]
            channel.send_inband(_pipe.pack(VMPIPE_DATA, len(piece)) + piece)
        return not channel.waiting

    def hold(self, held: bool) -> None:
        """Let the guest's data lie in its ring, or take it again."""
        if self._channel is not None:
            self._channel.hold(held)

    def shutdown(self) -> None:
        """Nothing more will be sent."""
        if self._channel is not None and not self._sent_fin:
            self._channel.send_inband(_pipe.pack(VMPIPE_DATA, 0))
            self._sent_fin = True

    def finish(self) -> None:
        """Close both directions when the guest has what was sent, at the latest after LINGER_S."""
        if self._finishing:
            return
        self.shutdown()
        self._finishing = True
        if self._channel is None or not self._channel.waiting:
            self._call(self.hang_up)  # not now: in the middle of a batch nothing is in the ring yet
        elif self.server is not None:
            self.server.events.after(LINGER_S, self.hang_up)

    def hang_up(self) -> None:
        """Take the channel away, at once."""
        if self._over:
            return
        self._over = True
        server = self.server
        if server is not None:
            server.rescind(self)
        self._sockets.connections.discard(self)
        self._end.closed()

    def _call(self, function: Callable[[], None]) -> None:
        if self.server is not None:
            self.server.events.call(function)


class HvSockets:
    """The connections of one bus.

    :param accept: gets the port that the guest calls, returns the host's side or None: refused.
    """

    def __init__(self, server: VmbusServer, accept: Callable[[int], End | None]) -> None:
        self.server, self._accept = server, accept
        self.connections: set[HvSocket] = set()
        self._next_port = FIRST_PORT
        server.sockets = self

    def request(self, endpoint: bytes, service: bytes) -> int:
        """Serve TL_CONNECT_REQUEST: offer a channel, or return the status of the refusal."""
        port = port_of(service)
        if port is None:
            return p.STATUS_CONNECTION_REFUSED
        instance, kind = guid_text(endpoint), guid_text(service)
        for other in self.connections:
            if (other.class_guid, other.instance_guid) == (kind, instance):
                return p.STATUS_INVALID_PARAMETER
        if self._full():
            return p.STATUS_INSUFFICIENT_RESOURCES
        end = self._accept(port)
        if end is None:
            return p.STATUS_CONNECTION_REFUSED
        self._offer(HvSocket(self, kind, instance, False, end))
        return p.STATUS_SUCCESS

    def connect(self, port: int, end: End) -> HvSocket | None:
        """Offer a connection to the guest's *port*; None: the guest takes no more, or none yet.

        ``end.opened`` tells when the guest has accepted it. If nobody listens, nothing happens.
        """
        if (self.server.version or 0) < p.VERSION_WIN10 or self._full():
            return None
        self._next_port = FIRST_PORT | self._next_port + 1
        instance = service_guid(self._next_port)
        connection = HvSocket(self, service_guid(port), instance, True, end)
        self._offer(connection)
        return connection

    def _full(self) -> bool:
        # relids that the guest was told to give back and has not are counted, too
        many = sum(one.state == RESCINDED for one in self.server.channels.values())
        return len(self.connections) >= MAX_CONNECTIONS or many >= MAX_CONNECTIONS

    def _offer(self, connection: HvSocket) -> None:
        self.connections.add(connection)
        connection.relid = self.server.offer(connection).relid

    def reset(self) -> None:
        """The guest has gone: so have its connections."""
        for connection in list(self.connections):
            connection.hang_up()
